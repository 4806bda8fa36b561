"""Classifies files by the suffixes of their names: sound, tar archives, and others."""

from __future__ import annotations

import os

# fmt: off
AUDIO_SUFFIXES = frozenset([
    ".3g2", ".3ga", ".3gp", ".aa3", ".aac", ".ac3", ".adts", ".aif", ".aifc", ".aiff", ".alac", ".amr", ".ape", ".asf",
    ".au", ".avi", ".awb", ".bwf", ".caf", ".dff", ".dsf", ".dts", ".eac3", ".ec3", ".f4a", ".f4v", ".flac", ".flv",
    ".gsm", ".m2a", ".m2ts", ".m4a", ".m4b", ".m4r", ".m4v", ".mka", ".mkv", ".mlp", ".mov", ".mp1", ".mp2", ".mp3",
    ".mp4", ".mpa", ".mpc", ".mpeg", ".mpg", ".mpga", ".mts", ".mxf", ".nist", ".oga", ".ogg", ".ogm", ".ogv", ".ogx",
    ".oma", ".opus", ".qcp", ".qt", ".ra", ".rf64", ".rm", ".rmvb", ".shn", ".snd", ".sph", ".spx", ".tak", ".thd",
    ".ts", ".tta", ".vob", ".voc", ".w64", ".wav", ".wave", ".weba", ".webm", ".wma", ".wmv", ".wv",
])
# fmt: on
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
MAX_SUFFIX = 12
"""A longer text after a dot is not a suffix."""


def is_tar(name: str) -> bool:
    """Return whether a name is that of an uncompressed tar archive."""
    return name[-4:].lower() == ".tar"


def is_sound(name: str) -> bool:
    """Return whether a name is that of a sound file, or of a video file, which may have sound."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def suffix(name: str) -> str:
    """Return the suffix by which a left-out file is counted: '.json', '.tar.gz', or 'no suffix'."""
    last = os.path.basename(name).lower()
    if last.endswith(COMPRESSED_TARS):
        return next(end for end in COMPRESSED_TARS if last.endswith(end))
    end = os.path.splitext(last)[1]
    return end if 1 < len(end) <= MAX_SUFFIX and end.isprintable() else "no suffix"
