"""What a row means: the typed schemas of every Parquet file in a lake.

Each field carries its unit and a description in its metadata. Stages write one row a recording, in the order of the
batch, failures included; `BASE` is common to all of them.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def field(name: str, kind: pa.DataType, description: str, unit: str = "", nullable: bool = True) -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


LABELS = field("labels", pa.map_(pa.string(), pa.string()), "labels of the recording that users have named themselves")

FAILURE = [
    field("status", pa.string(), "'ok' or 'failed'", nullable=False),
    field("error_type", pa.string(), "exception class of the failure"),
    field("error", pa.string(), "what is wrong"),
    field("remedy", pa.string(), "what to do about it"),
]

RECORDINGS = pa.schema(
    [
        field("recording_id", pa.string(), "first 20 hex digits of the sha256 of the bytes", nullable=False),
        field("uris", pa.list_(pa.string()), "every name under which these bytes were met, sorted", nullable=False),
        field("sha256", pa.string(), "sha256 of the bytes"),
        field("size_bytes", pa.int64(), "size of the file", "byte"),
        field("container", pa.string(), "container format as FFmpeg names it, or 'sphere'"),
        field("codec", pa.string(), "audio codec as FFmpeg names it"),
        field("sample_rate", pa.int32(), "sampling rate that the header claims", "Hz"),
        field("channels", pa.int32(), "number of channels that the header claims"),
        field("channel_layout", pa.string(), "channel layout that the header claims, such as mono, stereo or 5.1"),
        field("bit_depth", pa.int32(), "bits per sample, for codecs that have a fixed number of them", "bit"),
        field(
            "audio_streams",
            pa.int32(),
            "number of audio streams in the file, such as languages of a film; the first one is read",
        ),
        field(
            "claimed_duration_s",
            pa.float64(),
            "duration that the header claims, or that the plain samples after it add up to; null where it "
            "could only be estimated or cannot be true",
            "s",
        ),
        field("source", pa.string(), "collection from which the recording came, as named when it was ingested"),
        field("licence", pa.string(), "licence of the recording, as named when it was ingested"),
        field("language_hint", pa.string(), "language that source metadata claims: recorded, not trusted"),
        LABELS,
        field("hints", pa.string(), "JSON list of the manifest entries that named this recording"),
        *FAILURE,
    ]
)

BASE = [field("recording_id", pa.string(), "id of the recording", nullable=False), *FAILURE]
BASE_NAMES = [column.name for column in BASE]

SEGMENT = pa.struct(
    [
        field("track", pa.int32(), "analysis track (0 unless each channel is a speaker)"),
        field("start_s", pa.float64(), "start", "s"),
        field("end_s", pa.float64(), "end", "s"),
    ]
)
TURN = pa.struct(
    [
        field("speaker", pa.string(), "speaker label, unique inside the recording"),
        field("track", pa.int32(), "analysis track on which the turn was heard"),
        field("start_s", pa.float64(), "start", "s"),
        field("end_s", pa.float64(), "end", "s"),
        field("confidence", pa.float64(), "share, 0 to 1, of the turn in which that speaker is expected to speak"),
    ]
)
VOTE = pa.struct(
    [
        field("track", pa.int32(), "analysis track"),
        field("start_s", pa.float64(), "start of the window", "s"),
        field("end_s", pa.float64(), "end of the window", "s"),
        field("speech_s", pa.float64(), "speech that this vote stands for", "s"),
        field("language", pa.string(), "language of the window in the most probable sequence, ISO 639-1"),
        field("probability", pa.float64(), "probability of that language by this window alone"),
    ]
)
TRACK_LANGUAGE = pa.struct(
    [
        field("track", pa.int32(), "analysis track"),
        field("speech_s", pa.float64(), "speech on the track", "s"),
        field("language", pa.string(), "language with the largest share of its speech, ISO 639-1"),
        field("shares", pa.map_(pa.string(), pa.float64()), "share of its speech in each language; all sum to 1"),
    ]
)
STRETCH = pa.struct(
    [
        field("track", pa.int32(), "analysis track"),
        field("start_s", pa.float64(), "start of the stretch", "s"),
        field("end_s", pa.float64(), "end of the stretch", "s"),
        field("phones", pa.list_(pa.string()), "symbols of the phones that were heard, in order of time"),
        field("starts_ms", pa.list_(pa.int32()), "start of each phone in the recording", "ms"),
        field("ends_ms", pa.list_(pa.int32()), "end of each phone in the recording", "ms"),
    ]
)

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

VAD = pa.schema(
    [
        *BASE,
        field("segments", pa.list_(SEGMENT), "stretches of speech per track, in order of track then time"),
        field("speech_s", pa.float64(), "time in which somebody speaks on any track", "s"),
        field("speech_share", pa.float64(), "share of the recording, 0 to 1, in which somebody speaks on any track"),
        field("speech_per_track_s", pa.list_(pa.float64()), "time with speech on each track", "s"),
    ]
)

TURN_TAKING = [
    field(
        "second_speaker_share",
        pa.float64(),
        "share, 0 to 0.5, of the second most talkative speaker in the speaking time of all; null with fewer than two "
        "speakers, as all columns about the floor are",
    ),
    field(
        "floor_transfers_per_min",
        pa.float64(),
        "changes of the speaker who holds the floor, per minute of recording; who is heard only within what another "
        "one says takes no floor",
        "1/min",
    ),
    field("gaps_per_min", pa.float64(), "changes of the floor without overlap, per minute of recording", "1/min"),
    field(
        "overlaps_per_min",
        pa.float64(),
        "places where two or more speakers talk at once, whoever takes the floor, per minute of recording",
        "1/min",
    ),
    field(
        "backchannels_per_min",
        pa.float64(),
        "utterances of 0.25 to 1 s within an utterance of another speaker, per minute of recording",
        "1/min",
    ),
    field(
        "interruptions_per_min",
        pa.float64(),
        "changes of the floor at which the one before goes on for 0.2 to 1 s, per minute of recording; times alone do "
        "not tell whether the speech before had come to its end",
        "1/min",
    ),
    field("overlapped_transfers", pa.float64(), "share, 0 to 1, of the changes of the floor that overlap"),
    field(
        "offset_median_s",
        pa.float64(),
        "median of the floor transfer offsets: the gap, or below 0 the overlap, at each change of the floor; null where "
        "it never changes",
        "s",
    ),
    field("offset_sd_s", pa.float64(), "standard deviation of the floor transfer offsets; long lapses widen it", "s"),
    field("offset_iqr_s", pa.float64(), "interquartile range of the floor transfer offsets", "s"),
    field("offsets_s", pa.list_(pa.float64()), "floor transfer offset of each change of the floor, in order", "s"),
]

DIARIZE = pa.schema(
    [
        *BASE,
        field("turns", pa.list_(TURN), "turns of speakers in order of start, overlaps kept"),
        field(
            "method",
            pa.string(),
            "how speakers were told apart: 'channels' where each has a track, or 'pipeline' for a diarization model",
        ),
        field("num_speakers", pa.int32(), "number of different speakers heard"),
        field(
            "speakers_confidence",
            pa.float64(),
            "probability, 0 to 1, that the number of speakers is right: 1 where each has a track, null where none is heard or another pipeline gives none",
        ),
        field(
            "speaker_confidence",
            pa.map_(pa.string(), pa.float64()),
            "mean confidence of each speaker's turns over their time; null where turns have none",
        ),
        field("speaker_s", pa.map_(pa.string(), pa.float64()), "speaking time of each speaker", "s"),
        field("overlap_s", pa.float64(), "time in which two or more speakers talk at once", "s"),
        field(
            "overlap_share",
            pa.float64(),
            "share, 0 to 1, of the time with any speaker in which two or more talk at once",
        ),
        field(
            "turn_count",
            pa.int32(),
            "number of turns, where turns of a speaker count as one when the pause between them is under 0.5 "
            "s and nobody else fills it",
        ),
        field(
            "turns_per_min", pa.float64(), "turns per minute of recording: high where speakers change often", "1/min"
        ),
        field("longest_monologue_s", pa.float64(), "longest stretch in which one speaker holds the floor", "s"),
        *TURN_TAKING,
    ]
)

LANGUAGE = pa.schema(
    [
        *BASE,
        field(
            "language",
            pa.string(),
            "language with the largest share of the speech, as an ISO 639-1 code; null without speech",
        ),
        field(
            "language_confidence",
            pa.float64(),
            "mean probability, 0 to 1, of that language by each window alone, over windows weighted by their speech",
        ),
        field(
            "language_shares", pa.map_(pa.string(), pa.float64()), "share of the speech in each language; all sum to 1"
        ),
        field("track_languages", pa.list_(TRACK_LANGUAGE), "languages of each track with speech"),
        field("votes", pa.list_(VOTE), "the windows that were heard, each with its language"),
    ]
)

QUALITY = pa.schema(
    [
        *BASE,
        field(
            "dnsmos_sig",
            pa.float64(),
            "predicted opinion of the clarity of the speech, 1 (bad) to 5 (excellent): DNSMOS P.835, mean "
            "over windows with speech",
            "MOS",
        ),
        field(
            "dnsmos_bak",
            pa.float64(),
            "predicted opinion of the background, 1 (very intrusive noise) to 5 (no noise noticed): DNSMOS P.835",
            "MOS",
        ),
        field(
            "dnsmos_ovrl",
            pa.float64(),
            "predicted opinion of the sound overall, 1 (bad) to 5 (excellent): DNSMOS P.835",
            "MOS",
        ),
        field(
            "dnsmos_p808",
            pa.float64(),
            "predicted opinion of the sound overall, 1 (bad) to 5 (excellent), by the older model DNSMOS P.808",
            "MOS",
        ),
        field("dnsmos_windows", pa.int32(), "number of windows with speech over which the DNSMOS scores are means"),
        field(
            "snr_db",
            pa.float64(),
            "level of the speech over the level of what is not speech; the higher, the less noise",
            "dB",
        ),
        field("music_likelihood", pa.float64(), "share of the recording, 0 to 1, with steady tones as music has them"),
    ]
)

PHONEMES = pa.schema(
    [
        *BASE,
        field("stretches", pa.list_(STRETCH), "the stretches of speech that voice activity found, with their phones"),
        field(
            "recogniser",
            pa.string(),
            "name of the phoneme recogniser with the hash of its weights and settings: phones of different ones "
            "cannot be compared",
        ),
        field("phones", pa.int64(), "number of phones that were heard in the speech of all tracks"),
        field("phones_per_s", pa.float64(), "phones per second of speech, over all tracks; null without speech", "1/s"),
        field(
            "phones_outside",
            pa.int64(),
            "number of phones that were heard around the stretches of speech, and are none of theirs",
        ),
    ]
)

VOICE_COLUMNS = [
    field(
        "pitch_median_hz",
        pa.float64(),
        "median pitch of the voiced speech; of a recording, as the other columns of prosody, the mean over its speakers "
        "weighted by their speech",
        "Hz",
    ),
    field(
        "pitch_range_semitones",
        pa.float64(),
        "range of the pitch, from its 5th to its 95th percentile, octave errors left out",
        "semitone",
    ),
    field(
        "pitch_sd_semitones",
        pa.float64(),
        "standard deviation of the pitch: low where somebody speaks monotonously",
        "semitone",
    ),
    field("voiced_share", pa.float64(), "share of the speech, 0 to 1, that has a pitch"),
    field(
        "syllables_per_s",
        pa.float64(),
        "speaking rate: syllable nuclei, which are voiced peaks of the level, per second of speech without pauses",
        "1/s",
    ),
    field(
        "pauses_per_min",
        pa.float64(),
        "silences of 0.2 to 3 s between stretches of speech of one speaker, in which nobody else is heard, per minute of "
        "speech and pauses",
        "1/min",
    ),
    field("pause_median_s", pa.float64(), "median length of these pauses; null without any", "s"),
    field("pause_share", pa.float64(), "share, 0 to 1, of these pauses in speech and pauses"),
    field(
        "loudness_range_lu",
        pa.float64(),
        "from the 10th to the 95th percentile of the momentary loudness (0.4 s, EBU R128) of the speech",
        "LU",
    ),
]
VOICE = pa.struct(
    [
        field("speaker", pa.string(), "speaker as in the turns of diarize; null where tracks are measured"),
        field("track", pa.int32(), "analysis track"),
        field("alone_s", pa.float64(), "speech in which nobody else is heard", "s"),
        *VOICE_COLUMNS,
    ]
)
PROSODY = pa.schema(
    [
        *BASE,
        field("voices", pa.list_(VOICE), "what was measured of each speaker where nobody else is heard"),
        field("alone_s", pa.float64(), "speech in which one speaker alone is heard, of all speakers", "s"),
        *VOICE_COLUMNS,
    ]
)

FINGERPRINT = pa.schema(
    [
        *BASE,
        field(
            "times_ms",
            pa.list_(pa.int32()),
            "where the loudness rises or falls most steeply, about six times a second of speech, in order of time",
            "ms",
        ),
        field(
            "landmarks",
            pa.list_(pa.int64()),
            "63 bits that describe the second of sound around each of these times; those of copies differ in few of them",
        ),
        field("landmark_count", pa.int32(), "number of landmarks of the recording"),
    ]
)

MATCHES = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording, of those of this batch", nullable=False),
        field("other_id", pa.string(), "id of a recording that was met before it", nullable=False),
        field("start_s", pa.float64(), "start of the sound that both share, in the recording", "s", nullable=False),
        field("end_s", pa.float64(), "its end", "s", nullable=False),
        field("other_start_s", pa.float64(), "its start in the other one", "s", nullable=False),
        field("other_end_s", pa.float64(), "its end in the other one", "s", nullable=False),
        field("speed", pa.float64(), "how much faster the recording runs than the other one", nullable=False),
        field("confidence", pa.float64(), "share of its landmarks, 0 to 1, that the other one has too", nullable=False),
        field(
            "evidence",
            pa.float64(),
            "logarithm to the base of 10 of how improbable that is of different sound",
            nullable=False,
        ),
        field("share", pa.float64(), "share of the recording's landmarks, 0 to 1, that lie in it", nullable=False),
        field("other_share", pa.float64(), "share of the other one's landmarks that lie in it", nullable=False),
    ]
)
"""One row a stretch of sound, in the order of recordings, of others and of time."""

BULKY = {"fingerprint": ("times_ms", "landmarks")}
"""Columns of stages that no rule reads: too much to be held for all recordings that are judged at a time."""

PASSAGE = pa.struct(
    [
        field("start_s", pa.float64(), "start in the recording, in steps of a quarter of a second", "s"),
        field("end_s", pa.float64(), "end in the recording", "s"),
        field("repeats", pa.int32(), "number of recordings that hold it, this one among them; copies count as one"),
        field("repeated", pa.bool_(), "whether one of these stands before this recording"),
    ]
)

WINDOWS = pa.schema(
    [
        field("window_id", pa.string(), "recording id, a dash, start in ms", nullable=False),
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("split", pa.string(), "split drawn by duplicate group", nullable=False),
        field("start_s", pa.float64(), "start in the recording", "s", nullable=False),
        field(
            "duration_s", pa.float64(), "length of the window: its context and its continuation", "s", nullable=False
        ),
        field("context_s", pa.float64(), "length of the context with which the window begins", "s", nullable=False),
        field("tracks", pa.int32(), "number of tracks that are encoded apart"),
        field("speech_s", pa.float64(), "time in the window in which somebody speaks on any track", "s"),
        field("speech_share", pa.float64(), "share of the window, 0 to 1, in which somebody speaks on any track"),
        field("num_speakers", pa.int32(), "number of different speakers heard in the window"),
        field(
            "overlap_share",
            pa.float64(),
            "share, 0 to 1, of the window's time with any speaker in which two or more talk at once",
        ),
        field("turn_count", pa.int32(), "number of turns that touch the window"),
        field(
            "repeated_share",
            pa.float64(),
            "share of the window, 0 to 1, whose sound also lies in another kept recording that was met before this one; "
            "null where nothing was matched",
        ),
        field(
            "repeats",
            pa.int32(),
            "number of recordings that hold at least half of the window's sound, this one among them: 1 where it is "
            "heard nowhere else; null where nothing was matched",
        ),
        field("language", pa.string(), "language of the recording"),
        field("source", pa.string(), "source of the recording"),
        field("licence", pa.string(), "licence of the recording"),
        LABELS,
        field("turns", pa.list_(TURN), "turns inside the window, seconds from its start"),
        field("kept", pa.bool_(), "whether every rule holds", nullable=False),
        field("reasons", pa.list_(pa.string()), "every rule that does not", nullable=False),
    ]
)

REPEATS = [
    field(
        "repeated_share",
        pa.float64(),
        "share of the recording, 0 to 1, whose sound also lies in another one that was met before it, whatever the "
        "verdict on that one; null where nothing was matched",
    ),
    field(
        "repeats",
        pa.int32(),
        "number of recordings that hold the passage of it that most of them hold, this one among them: 1 where no other "
        "one holds any; null where nothing was matched",
    ),
]
"""Columns of verdicts that rules for recordings can read, since they are known before any rule is applied."""

VERDICTS = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("verdict", pa.string(), "kept | rejected | failed", nullable=False),
        field(
            "reasons", pa.list_(pa.string()), "every rule that fails, or stage and type of the failure", nullable=False
        ),
        field("duration_s", pa.float64(), "decoded duration; claimed, else 0, where nothing was decoded", "s"),
        field("windows", pa.int64(), "windows cut"),
        field("windowed_s", pa.float64(), "sound inside windows", "s"),
        field("remainder_s", pa.float64(), "sound of a kept recording outside any window", "s"),
        field("duplicate_of", pa.string(), "recording with the same samples, or the same sound, that is kept instead"),
        *REPEATS,
        field("passages", pa.list_(PASSAGE), "its stretches that other recordings hold, in order of time"),
        field("split", pa.string(), "split drawn by duplicate group"),
    ]
)

SHARD_WINDOWS = pa.schema(
    [
        field("window_id", pa.string(), "id of the window", nullable=False),
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("split", pa.string(), "split", nullable=False),
        field(
            "folder", pa.string(), "folder of the shard: the split, '.2tracks' after it for two tracks", nullable=False
        ),
        field("shard", pa.int64(), "shard of the folder", nullable=False),
        field("status", pa.string(), "'ok' or 'failed'", nullable=False),
        field("error", pa.string(), "why it failed"),
        field("start_s", pa.float64(), "start in the recording", "s"),
        field("duration_s", pa.float64(), "length", "s"),
        field("tracks", pa.int32(), "channels encoded apart"),
        field("context_frames", pa.int64(), "frames of context, per track", "frame"),
        field("continuation_frames", pa.int64(), "frames of continuation, per track", "frame"),
        field("language", pa.string(), "language of the recording"),
        field("num_speakers", pa.int32(), "speakers heard in the window"),
        field("repeated_share", pa.float64(), "share of the window that repeats, as that of `windows`"),
        field("source", pa.string(), "source of the recording"),
        field("licence", pa.string(), "licence of the recording"),
        # A list, since Hugging Face `datasets` reads no maps.
        field(
            "labels",
            pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())])),
            "labels of the recording that users have named themselves, each with its name and value",
        ),
        field("turns", pa.list_(TURN), "turns inside the window, seconds from its start"),
        field("array_offset", pa.int64(), "where the window's .npy file begins in the shard's archive", "byte"),
        field("array_bytes", pa.int64(), "size of that .npy file", "byte"),
        field("array_crc32", pa.int64(), "CRC-32 of that .npy file, as zlib counts it"),
    ]
)

PRODUCTS = pa.schema(
    [
        field(
            "high", pa.int64(), "sum of products of two values over frames: high * 2^60 + low", "2^-48", nullable=False
        ),
        field("low", pa.int64(), "from 0 to 2^60 - 1", "2^-48", nullable=False),
    ]
)
"""The upper triangle of a matrix, row by row."""

LEDGER = pa.schema(
    [
        field("split", pa.string(), "split", nullable=False),
        field("language", pa.string(), "language of the recording"),
        field("num_speakers", pa.int32(), "speakers heard in the window"),
        field("source", pa.string(), "source of the recording"),
        field("encoder", pa.string(), "name and fingerprint of the encoder", nullable=False),
        field("patch", pa.int32(), "frames stacked into one token (k)", "frame", nullable=False),
        field("windows", pa.int64(), "windows", nullable=False),
        field("hours", pa.float64(), "sound, each window once whatever its tracks", "h", nullable=False),
        field("frames", pa.int64(), "frames over all tracks", "frame", nullable=False),
        field("context_tokens", pa.int64(), "floor(context frames / k) over all tracks", "token", nullable=False),
        field(
            "continuation_tokens", pa.int64(), "floor(continuation frames / k) over all tracks", "token", nullable=False
        ),
        field(
            "repeated_context_tokens",
            pa.int64(),
            "those of the context tokens that repeat: of each window its tokens times its repeated_share, rounded; all "
            "others are unique; null where nothing was matched",
            "token",
        ),
        field(
            "repeated_continuation_tokens",
            pa.int64(),
            "those of the continuation tokens that repeat, likewise",
            "token",
        ),
    ]
)

TOKENS = (
    "context_tokens", "continuation_tokens", "repeated_context_tokens", "repeated_continuation_tokens",
)  # fmt: skip
"""Columns of the ledger, of SHARDS and of SUBSET that count tokens."""

SHARDS = pa.schema(
    [
        field("folder", pa.string(), "folder of the shard in the dataset", nullable=False),
        field("shard", pa.int64(), "number of the shard in that folder", nullable=False),
        field("split", pa.string(), "split of these windows", nullable=False),
        field("tracks", pa.int32(), "number of tracks of each of these windows", nullable=False),
        field("windows", pa.int64(), "windows that were made", nullable=False),
        field("frames", pa.int64(), "frames over all tracks", "frame", nullable=False),
        field("array_bytes", pa.int64(), "size of the .npy files of these windows", "byte", nullable=False),
        field(
            "context_tokens",
            pa.list_(pa.int64()),
            "context tokens as in the ledger, at patch 1 to 6",
            "token",
            nullable=False,
        ),
        field(
            "continuation_tokens",
            pa.list_(pa.int64()),
            "continuation tokens as in the ledger, at patch 1 to 6",
            "token",
            nullable=False,
        ),
        field(
            "repeated_context_tokens",
            pa.list_(pa.int64()),
            "those of the context tokens that repeat, as in the ledger; null where nothing was matched",
            "token",
        ),
        field(
            "repeated_continuation_tokens",
            pa.list_(pa.int64()),
            "those of the continuation tokens that repeat, likewise",
            "token",
        ),
    ]
)

SUBSET = pa.schema(
    [
        *(SHARDS.field(name) for name in ("folder", "shard")),
        field("cuts", pa.string(), "the shard's Lhotse cuts, in the folder of the dataset", nullable=False),
        field("latents", pa.string(), "the shard's archive of arrays, in the folder of the dataset", nullable=False),
        field("of_windows", pa.int64(), "windows of the chosen splits and tracks in the shard", nullable=False),
        field("windows", pa.int64(), "windows that are taken of these", nullable=False),
        *(SHARDS.field(name) for name in ("frames", "array_bytes", *TOKENS)),
        field("ids", pa.list_(pa.string()), "ids of these windows, in the shard's order; null where all are taken"),
    ]
)

CHANGES = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording", nullable=False),
        field("name", pa.string(), "source, licence, language_hint, or a label's own name", nullable=False),
        field("old", pa.string(), "the value before; null where there was none"),
        field("new", pa.string(), "the value from then on; null where it was taken away"),
        field("asked", pa.string(), "what was asked for, as words of the command", nullable=False),
    ]
)

REMOVED = pa.schema(
    [
        field("recording_id", pa.string(), "id of the recording that was withdrawn", nullable=False),
        field("sha256", pa.string(), "sha256 of its bytes; null where they were never read"),
        field("pcm_sha256", pa.string(), "hash of its samples, as that of `signal`; null where copies of it stay"),
        field("reason", pa.string(), "why it was withdrawn"),
    ]
)

STAGES: dict[str, pa.Schema] = {
    "signal": SIGNAL,
    "vad": VAD,
    "diarize": DIARIZE,
    "language": LANGUAGE,
    "quality": QUALITY,
    "phonemes": PHONEMES,
    "prosody": PROSODY,
    "fingerprint": FINGERPRINT,
}


def judged(stage: str) -> pa.Schema:
    """The columns of a stage that rules can read."""
    return pa.schema([column for column in STAGES[stage] if column.name not in BULKY.get(stage, ())])


def table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of `schema`; a key that the schema lacks is a programmer's error."""
    names = set(schema.names)
    for row in rows:
        assert names >= row.keys(), f"columns not in the schema: {sorted(row.keys() - names)}"
    return pa.Table.from_pylist(rows, schema=schema)
