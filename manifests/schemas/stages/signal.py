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
            "number of places where the file is damaged: packets that do not decode, gaps and jumps in the "
            "times of those that do, and headers that declare less sound than follows",
        ),
        field("decode_error", pa.string(), "the first damaged place, and how much sound is known to be missing in all"),
        field(
            "missing_s",
            pa.float64(),
            "length of the sound that the times in the file show to be missing, apart from what was filled "
            "with silence; null where decoding breaks off before the end",
            "s",
        ),
        field(
            "filled_s",
            pa.float64(),
            "length of the silence that was put in place of missing sound; null unless the recipe asks for it "
            "with decode.fill_gaps",
            "s",
        ),
        field(
            "format_changes",
            pa.int32(),
            "number of places where the sampling rate or the channels change; all that follows is converted "
            "to the first format",
        ),
        field("format_change", pa.string(), "the first change of the sampling rate or the channels, with its place"),
        field(
            "loudness_lufs",
            pa.float64(),
            "loudness of the whole recording as people perceive it, by EBU R128 (ITU-R BS.1770-4); null where "
            "all of it is too soft to count",
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
            "share of samples, 0 to 1, that lie in runs of 10 ms or more of exact zeros in all channels, "
            "which no microphone makes",
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
            "how the channels relate: mono has one; dual_mono has equal ones; room hears the same scene in "
            "each; speakers has a person per channel; surround is a mix such as 5.1; one_sided has sound in one only",
        ),
        field(
            "channel_correlation",
            pa.float64(),
            "how alike the channels are, 0 to 1: the largest normalised cross-correlation within 20 ms of "
            "delay, median over pairs of channels; null for one channel",
        ),
        field(
            "phase_correlation",
            pa.float64(),
            "correlation of neighbouring channels without delay, lowest of all pairs: 1 is equal, -1 opposite "
            "phase, which vanishes when the channels are averaged; null for one channel",
        ),
        field(
            "envelope_correlation",
            pa.float64(),
            "how alike the channels rise and fall, -1 to 1: correlation of their levels in steps of 20 ms, "
            "median over pairs; low where people take turns on channels of their own",
        ),
        field(
            "leakage_db",
            pa.float64(),
            "level at which a speaker is heard in the other speaker's channel, relative to their own, while "
            "they speak alone; null unless each speaker has a channel and is alone for a while",
            "dB",
        ),
        field(
            "inverted_channels",
            pa.list_(pa.int32()),
            "channels of a room in opposite phase to the first, inverted before all are averaged",
        ),
        field("live_channel", pa.int32(), "number, from 0 on, of the loudest channel"),
        field(
            "tracks",
            pa.int32(),
            "number of tracks that are measured apart: one per channel where each channel is a speaker, else 1",
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
