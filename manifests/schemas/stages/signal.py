"""The stage `signal`: the properties of the decoded sound."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import BASE, field
from manifests.schemas.row_checks import ANNOTATE, RowCheck
from manifests.schemas.spec import StageSpec

SIGNAL = pa.schema(
    [
        *BASE,
        field("sample_rate", pa.int32(), "sampling rate of the decoded sound", "Hz"),
        field("num_samples", pa.int64(), "number of samples that were decoded from each channel", "sample"),
        field(
            "duration_s", pa.float64(), "length of the decoded sound: the number of samples over the sampling rate", "s"
        ),
        field("channels", pa.int32(), "number of channels that were decoded"),
        field("pcm_sha256", pa.string(), "sha256 of rate, channels and interleaved little-endian float32 samples"),
        field(
            "decode_errors",
            pa.int32(),
            "number of places where the file is damaged: packets that cannot be decoded, gaps and jumps in the "
            "times of packets, and headers that declare less sound than there is",
        ),
        field(
            "decode_error",
            pa.string(),
            "description of the first damaged place, with the total length of sound that is known to be missing",
        ),
        field(
            "missing_s",
            pa.float64(),
            "length of the sound that is missing by the times in the file, without what was filled with silence; "
            "null if decoding stops before the end of the file",
            "s",
        ),
        field(
            "filled_s",
            pa.float64(),
            "length of the silence that replaces missing sound; null unless the recipe sets decode.fill_gaps",
            "s",
        ),
        field(
            "format_changes",
            pa.int32(),
            "number of places where the sampling rate or the channels change; the sound after them is "
            "converted to the first format",
        ),
        field(
            "format_change",
            pa.string(),
            "description of the first change of the sampling rate or the channels, with its time",
        ),
        field(
            "loudness_lufs",
            pa.float64(),
            "loudness of the whole recording as people perceive it, by EBU R128 (ITU-R BS.1770-4); null if "
            "all of it is below the gate of that standard",
            "LUFS",
        ),
        field("peak_dbfs", pa.float64(), "level of the loudest sample of any channel, where 0 is full scale", "dBFS"),
        field("rms_dbfs", pa.float64(), "root mean square level over all channels, where 0 is full scale", "dBFS"),
        field(
            "dc_offset",
            pa.float64(),
            "constant shift of the waveform: the largest absolute mean of any channel, where 1 is full scale",
        ),
        field(
            "clipped_share",
            pa.float64(),
            "share of samples, 0 to 1, that are cut off at the channel's highest level: runs of 3 or more "
            "equal extremes near full scale, in the worst channel",
        ),
        field(
            "digital_silence_share",
            pa.float64(),
            "share of samples, 0 to 1, in runs of 10 ms or more of exact zeros in all channels, which microphones do "
            "not produce",
        ),
        field(
            "bandwidth_hz",
            pa.float64(),
            "frequency up to which there is sound: the highest within 50 dB of the peak of the long-term "
            "spectrum; telephone sound ends near 3,400 Hz",
            "Hz",
        ),
        field(
            "channel_relation",
            pa.string(),
            "how the channels relate: 'mono' is one channel, 'dual_mono' equal channels, 'room' microphones in one "
            "scene, 'speakers' one person per channel, 'surround' a mix such as 5.1, and 'one_sided' has sound in one "
            "channel only",
        ),
        field(
            "channel_correlation",
            pa.float64(),
            "similarity of the channels, 0 to 1: the largest normalised cross-correlation within 20 ms of "
            "delay, median over pairs of channels; null for one channel",
        ),
        field(
            "phase_correlation",
            pa.float64(),
            "correlation of neighbouring channels without delay, the lowest of all pairs: 1 for equal channels, -1 for "
            "opposite phase, in which sound cancels when the channels are averaged; null for one channel",
        ),
        field(
            "envelope_correlation",
            pa.float64(),
            "correlation of the levels of the channels in steps of 20 ms, -1 to 1, median over pairs; low if each "
            "speaker has a channel",
        ),
        field(
            "leakage_db",
            pa.float64(),
            "level of a speaker in the other speaker's channel relative to the own channel, while only that speaker "
            "talks; null unless each speaker has a channel and sometimes talks alone",
            "dB",
        ),
        field(
            "inverted_channels",
            pa.list_(pa.int32()),
            "channels of a room in opposite phase to the first channel, which are inverted before channels are "
            "averaged",
        ),
        field("live_channel", pa.int32(), "index of the loudest channel, from 0"),
        field(
            "tracks",
            pa.int32(),
            "number of tracks, which are measured separately: one per channel if each channel is a speaker, else 1",
        ),
    ]
)

SPEC = StageSpec(
    order=10,
    summary="Format, level, bandwidth and channels of the decoded sound.",
    schema=SIGNAL,
    headline=(
        "duration_s",
        "loudness_lufs",
        "bandwidth_hz",
    ),
    checks=(
        RowCheck("status = 'ok' AND (num_samples IS NULL OR num_samples <= 0)", "no samples", ANNOTATE),
        RowCheck(
            "abs(duration_s - num_samples / sample_rate) > 1e-6",
            "a duration that is not num_samples / sample_rate",
            ANNOTATE,
        ),
        RowCheck("status = 'ok' AND pcm_sha256 IS NULL", "no hash of its samples", ANNOTATE),
        RowCheck("tracks NOT IN (1, channels)", "tracks that are neither 1 nor the channels", ANNOTATE),
    ),
    cpu_hours=0.003,
    optional=False,
)
