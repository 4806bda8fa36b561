"""Prosody: pitch, speaking rate, pauses and range of loudness of each speaker, where nobody else speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from manifests.schemas import PROSODY
from manifests.windows import union
from pipelines.stages.base import Outline, Row, Sound, Span, Stage
from pipelines.stages.linking import chunk_edges
from pipelines.stages.pitch import FRAME_S, Frames, PitchTracker
from pipelines.stages.turns import inside, within, without
from runtime import models

PAUSE_S = (0.2, 3.0)
"""Range in seconds of the silences of a speaker that count as pauses, if nobody else speaks in them."""
MIN_VOICED_S = 1.0
MIN_SPEECH_S = 2.0
"""Least voiced time for the columns about pitch, and least speech for those about rate, pauses and loudness."""
SMOOTH_FRAMES = 3
"""Together with the two steps of a frame 64 ms, the window of the intensity of Praat for pitches down to 50 Hz."""
LOUD_PERCENTILE, BELOW_LOUD_DB, DIP_DB = 99.0, 25.0, 2.0
"""The peak of level in a syllable is at most `BELOW_LOUD_DB` below the loud parts of the speaker, which are given by a
percentile, and exceeds the minima beside it by `DIP_DB`."""
BLOCK_FRAMES, STEP_FRAMES = 25, 6
"""Blocks of momentary loudness: 0.4 s, about every 0.1 s."""
NAMES = (
    *("pitch_median_hz", "pitch_range_semitones", "pitch_sd_semitones", "voiced_share", "syllables_per_s"),
    *("pauses_per_min", "pause_median_s", "pause_share", "loudness_range_lu"),
)
"""The columns of each speaker, and of a recording as the mean over its speakers."""


@dataclass(frozen=True)
class ProsodyConfig:
    speakers: bool | None = None
    """Whether each speaker of `diarize` is measured separately; otherwise each track is. If not given, this is true
    where the recipe has the stage `diarize`."""
    pitch_floor_hz: float = 50.0
    """The lowest pitch that is detected, in Hz."""
    pitch_ceiling_hz: float = 600.0
    """The highest pitch that is detected, in Hz."""
    confidence: float = 0.5
    """Confidence of the network from which on a frame is voiced; 0.5 is the value of its authors."""
    chunk_s: float = 600.0
    """Longer recordings are processed in chunks of about this length in seconds, so that memory is bounded."""
    model: str = "swift-f0"
    """Weights in the registry of models."""

    def __post_init__(self) -> None:
        if not 47 <= self.pitch_floor_hz < self.pitch_ceiling_hz / 1.5 <= 2093 / 1.5:
            raise ValueError(
                "pitch_floor_hz must be at least 47 and pitch_ceiling_hz at most 2093 and 1.5 times as high, not "
                f"{self.pitch_floor_hz} and {self.pitch_ceiling_hz}"
            )
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, not {self.confidence}")
        if self.chunk_s < 10:
            raise ValueError(f"chunk_s must be at least 10, not {self.chunk_s}")


class Prosody(Stage):
    """Rows of `manifests.schemas.PROSODY`. Only speech during which nobody else speaks is measured.

    Pitch statistics leave out values far from the register of the speaker, most of which are octave errors: those below
    0.72 of the 35th percentile less 10 Hz, and above 1.9 of the 65th plus 10 Hz (De Looze and Hirst 2008). Syllables
    are peaks of the level in voiced frames (de Jong and Wempe 2009), so that the language does not matter. The range of
    loudness is that of EBU 3342 over blocks of 0.4 s instead of 3 s, since people rarely speak alone for long.
    """

    name = "prosody"
    version = 1
    packages = ("onnxruntime",)
    schema = PROSODY
    piecewise = True
    config: ProsodyConfig

    def __init__(self, config: ProsodyConfig) -> None:
        super().__init__(config)
        self.needs = ("vad", "diarize") if config.speakers else ("vad",)

    def registered(self) -> tuple[str, ...]:
        return (self.config.model,)

    def model_hashes(self) -> dict[str, str]:
        return {self.config.model: models.get(self.config.model).sha256}

    def setup(self) -> None:
        config = self.config
        self.tracker = PitchTracker(config.model, config.pitch_floor_hz, config.pitch_ceiling_hz, config.confidence)

    def annotate(self, sound: Sound, rows: Mapping[str, Row]) -> Row:
        return self.join(sound, rows, [self.annotate_chunk(sound, rows, chunk) for chunk in self.chunks(sound, rows)])

    def chunks(self, sound: Outline, rows: Mapping[str, Row]) -> list[Span]:
        speech = [(row["start_s"], row["end_s"]) for row in rows["vad"]["segments"]]
        edges = chunk_edges(sound.num_samples / sound.sample_rate, self.config.chunk_s, speech)
        return [
            (start, end)
            for start, end in pairwise(edges)
            if any(first < end and last > start for first, last in speech)
        ]

    def annotate_chunk(self, sound: Sound, rows: Mapping[str, Row], chunk: Span) -> Row:
        """The frames of each track, packed as text."""
        first, last = (round(edge * sound.sample_rate) for edge in chunk)
        samples = sound.read(first, last)
        return {"tracks": [self.tracker.frames(track, chunk[0]).packed() for track in samples]}

    def join(self, sound: Outline, rows: Mapping[str, Row], results: Sequence[Row]) -> Row:
        starts = [start for start, _ in self.chunks(sound, rows)]
        voices = speakers(rows, self.config.speakers or False)
        for start_s, chunk in zip(starts, results, strict=True):
            for track, packed in enumerate(chunk["tracks"]):
                frames = Frames.unpacked(start_s, packed)
                for voice in voices:
                    if voice.track == track:
                        voice.add(frames)
        measured = [voice.row() for voice in voices]
        alone_s = round(sum(row["alone_s"] for row in measured), 6)
        return {"voices": measured, "alone_s": alone_s, **{name: _mean(measured, name) for name in NAMES}}


def _mean(rows: Sequence[Row], name: str) -> float | None:
    """The mean of a column over the speakers that have a value, weighted by their speech."""
    values = [(row[name], row["alone_s"]) for row in rows if row[name] is not None]
    weight = sum(seconds for _, seconds in values)
    return round(sum(value * seconds for value, seconds in values) / weight, 6) if weight else None


@dataclass
class Voice:
    """A speaker on a track: spans of their speech and of that of others, and the frames in which they speak alone."""

    speaker: str | None
    track: int
    speech: Sequence[Span]
    others: Sequence[Span]
    pitch_hz: list[np.ndarray] = field(default_factory=list)
    levels: list[np.ndarray] = field(default_factory=list)
    peaks: list[np.ndarray] = field(default_factory=list)
    blocks: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alone = without(self.speech, self.others)

    def add(self, frames: Frames) -> None:
        """Collect the frames of the track in which the speaker speaks alone."""
        mine = covered(self.alone, frames.start_s, len(frames.level_lu))
        if not mine.any():
            return
        self.pitch_hz.append(frames.pitch_hz[mine])
        self.levels.append(frames.level_lu[mine])
        self.peaks.append(frames.level_lu[nuclei(frames) & mine])
        sums = np.concatenate([[0], np.cumsum(mine)])
        begun = np.arange(0, max(0, len(mine) - BLOCK_FRAMES + 1), STEP_FRAMES)
        whole = begun[sums[begun + BLOCK_FRAMES] - sums[begun] == BLOCK_FRAMES]
        powers = np.concatenate([[0.0], np.cumsum(10 ** (frames.level_lu / 10))])
        self.blocks.append(np.maximum(powers[whole + BLOCK_FRAMES] - powers[whole], 1e-12) / BLOCK_FRAMES)

    def row(self) -> Row:
        """The columns of the speaker."""
        alone_s = sum(end - start for start, end in self.alone)
        pitch, levels, peaks, blocks = (
            np.concatenate([np.zeros(0), *parts]) for parts in (self.pitch_hz, self.levels, self.peaks, self.blocks)
        )
        row: Row = {"speaker": self.speaker, "track": self.track, "alone_s": alone_s} | dict.fromkeys(NAMES)
        row |= of_pitch(pitch[~np.isnan(pitch)])
        if alone_s >= MIN_SPEECH_S and len(levels):
            syllables = peaks >= np.percentile(levels, LOUD_PERCENTILE) - BELOW_LOUD_DB
            row |= {
                "voiced_share": float(np.mean(~np.isnan(pitch))),
                "syllables_per_s": float(np.count_nonzero(syllables) / alone_s),
                "loudness_range_lu": loudness_range_lu(blocks),
                **self._pauses(),
            }
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}

    def _pauses(self) -> Row:
        least, most = PAUSE_S
        gaps = [(before[1], after[0]) for before, after in pairwise(self.speech)]
        pauses = [end - start for start, end in gaps if not inside((start, end), self.others)]
        pauses = [pause for pause in pauses if least <= pause <= most]
        all_s = sum(end - start for start, end in self.speech) + sum(pauses)
        return {
            "pauses_per_min": 60 * len(pauses) / all_s,
            "pause_median_s": float(np.median(pauses)) if pauses else None,
            "pause_share": sum(pauses) / all_s,
        }


def speakers(rows: Mapping[str, Row], apart: bool) -> list[Voice]:
    """The speakers of `diarize` if they are measured separately, else the tracks, with their speech by voice
    activity."""
    segments: dict[int, list[Span]] = {}
    for row in rows["vad"]["segments"]:
        segments.setdefault(row["track"], []).append((row["start_s"], row["end_s"]))
    speech = {track: union(spans) for track, spans in segments.items()}
    spoken: dict[tuple[str | None, int], list[Span]] = {(None, track): spans for track, spans in speech.items()}
    if apart:
        spoken = {}
        for turn in rows["diarize"]["turns"]:
            spoken.setdefault((turn["speaker"], turn["track"]), []).append((turn["start_s"], turn["end_s"]))
        spoken = {(name, track): union(spans) for (name, track), spans in sorted(spoken.items())}
    return [
        Voice(name, track, within(spans, speech.get(track, [])), union(_of_others(spoken, (name, track))))
        for (name, track), spans in spoken.items()
    ]


def _of_others(spoken: Mapping[Any, Sequence[Span]], one: tuple[str | None, int]) -> list[Span]:
    return [span for other, spans in spoken.items() if other != one for span in spans]


def covered(spans: Sequence[Span], start_s: float, count: int) -> np.ndarray:
    """Whether the middle of each of `count` frames from `start_s` on lies in the spans, which are in order: bool
    (count,).

    >>> covered([(1.0, 1.04)], 1.0, 4).tolist()
    [True, True, True, False]
    """
    edges = np.ceil((np.array(spans, float).reshape(-1, 2) - start_s) / FRAME_S - 1e-6).astype(int).clip(0, count)
    steps = np.bincount(edges[:, 0], minlength=count + 1) - np.bincount(edges[:, 1], minlength=count + 1)
    inside: np.ndarray = np.cumsum(steps)[:count] > 0
    return inside


def nuclei(frames: Frames) -> np.ndarray:
    """Whether each frame is a voiced peak of the level that exceeds the minima beside it by `DIP_DB`: bool
    (frames,)."""
    from scipy.signal import find_peaks

    window = np.hanning(SMOOTH_FRAMES + 2)[1:-1]
    powers = np.convolve(10 ** (frames.level_lu / 10), window / window.sum(), "same")
    at, _ = find_peaks(10 * np.log10(np.maximum(powers, 1e-12)), prominence=DIP_DB)
    peaks = np.zeros(len(powers), bool)
    peaks[at] = ~np.isnan(frames.pitch_hz[at])
    return peaks


def of_pitch(pitch_hz: np.ndarray) -> Row:
    """Median, range and spread of the pitch in voiced frames; no columns for less than `MIN_VOICED_S`."""
    if len(pitch_hz) * FRAME_S < MIN_VOICED_S:
        return {}
    low, high = np.percentile(pitch_hz, (35, 65))
    kept = pitch_hz[(pitch_hz >= 0.72 * low - 10) & (pitch_hz <= 1.9 * high + 10)]
    semitones = 12 * np.log2(kept)
    return {
        "pitch_median_hz": float(np.median(kept)),
        "pitch_range_semitones": float(np.subtract(*np.percentile(semitones, (95, 5)))),
        "pitch_sd_semitones": float(np.std(semitones)),
    }


def loudness_range_lu(powers: np.ndarray) -> float | None:
    """The range from the 10th to the 95th percentile of loudness, in LU, of the blocks at most 20 LU below the mean
    power."""
    if len(powers) * STEP_FRAMES * FRAME_S < MIN_SPEECH_S / 2:
        return None
    kept = powers[powers >= powers.mean() / 100]
    return float(np.subtract(*np.percentile(10 * np.log10(kept), (95, 10))))
