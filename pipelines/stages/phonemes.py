"""Phonemes: the phones of each segment of speech with their times, by one of several recognisers.

`speechmill study pjsd` counts them; rules may use `phones` and `phones_per_s`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from manifests.fingerprint import fingerprint
from manifests.schemas import PHONEMES
from pipelines.stages import recognisers
from pipelines.stages.base import Resources, Row, Sound, Stage
from pipelines.stages.recognisers import RECOGNISERS
from runtime import models
from runtime.batches import resolve_device

QUIET_S = 0.05
"""Length of the quiet spot at which a long segment is cut."""
AROUND_S = 0.25
"""Sound on both sides of speech that is given to the recogniser with it."""
NEAR_S = 0.1
"""The farthest from a segment of speech that a phone of it may begin, since the edges that voice activity and
recognisers find differ."""


@dataclass(frozen=True)
class PhonemesConfig:
    recogniser: str = "hama"
    """hama (English, Korean), pocketsphinx (US English), ctc (models of transformers with a vocabulary of phones),
    allosaurus, or espeak (Whisper's text, read by the program espeak-ng)."""
    model: str | None = None
    """Name in the registry of models, local folder, or hub id. hama, pocketsphinx and espeak have a model of their
    own; ctc needs one such as "facebook/wav2vec2-lv-60-espeak-cv-ft", allosaurus the folder of one."""
    language: str | None = None
    """For espeak the language of all the speech, ISO 639-1; for allosaurus the one whose phones to choose from,
    ISO 639-3, all phones if not given."""
    pause_s: float = 1.0
    """Segments of speech with pauses of at most this between them, in seconds, are given to the recogniser together,
    which is more accurate with context. Each keeps its own phones; phones within the pauses are not counted."""
    longest_s: float = 20.0
    """Longer segments of speech are recognised in pieces of at most this, in seconds, cut at quiet spots, so that
    memory is bounded; the phones of the pieces are joined again."""
    device: str = "cpu"
    """cpu, cuda, or auto: cuda where the process that reads the recipe sees a GPU. Only ctc runs there."""

    def __post_init__(self) -> None:
        kind = RECOGNISERS.get(self.recogniser)
        if kind is None:
            raise ValueError(f"recogniser must be one of {', '.join(RECOGNISERS)}, not {self.recogniser!r:.100}")
        if not 0 <= self.pause_s <= 10:
            raise ValueError(f"pause_s must be from 0 to 10, not {self.pause_s}")
        if not 1 <= self.longest_s <= 60:
            raise ValueError(f"longest_s must be from 1 to 60, not {self.longest_s}")
        if self.model is None and kind.model is None:
            raise ValueError(f"model must be given for {self.recogniser}: a local folder or a hub id")
        if self.language is None and kind.needs_language:
            raise ValueError(f'language must be given for {self.recogniser}, such as language = "de"')
        if self.language is not None and not (kind.speaks and self.language.isalpha() and self.language.isascii()):
            takes = "takes letters only" if kind.speaks else f"is not taken by {self.recogniser}: leave it out"
            raise ValueError(f"language {takes}")
        # Resolved here, so that the default model and the same model given by name have the same fingerprint.
        object.__setattr__(self, "model", self.model or kind.model)
        object.__setattr__(self, "device", resolve_device(self.device) if kind.on_gpu else self.device)
        if self.device == "auto":
            object.__setattr__(self, "device", "cpu")
        if self.device != "cpu" and not kind.on_gpu:
            raise ValueError(f"device must be cpu for {self.recogniser}, not {self.device!r:.100}")


class Phonemes(Stage):
    """Rows of `manifests.schemas.PHONEMES`. Each track is processed alone, and only where there is voice activity."""

    name = "phonemes"
    version = 1
    needs = ("vad",)
    schema = PHONEMES
    config: PhonemesConfig

    def __init__(self, config: PhonemesConfig) -> None:
        super().__init__(config)
        self.kind = RECOGNISERS[config.recogniser]
        self.packages = self.kind.packages
        self.resources = Resources(gpus=1.0 if config.device == "cuda" else 0.0)

    @property
    def extra(self) -> str:
        return self.kind.extra

    @property
    def model(self) -> str:
        assert self.config.model is not None
        return self.config.model

    def registered(self) -> tuple[str, ...]:
        return (self.model,)

    def model_hashes(self) -> dict[str, str]:
        return {self.model: models.identity(self.model)}

    def setup(self) -> None:
        config = self.config
        path, mark = models.resolve(self.model)
        self.recogniser = recognisers.load(config.recogniser, path, config.language, config.device)
        settings = {"language": config.language, "pause_s": self.pause_s, "longest_s": config.longest_s}
        self.mark = f"{config.recogniser}-{fingerprint({'weights': mark, 'version': self.version, **settings})}"

    def annotate(self, sound: Sound, rows: Mapping[str, Row]) -> Row:
        stretches: list[Row] = []
        outside = 0
        for group in groups(rows["vad"]["segments"], self.pause_s, self.config.longest_s):
            recognised, left_out = self._recognise(sound, group)
            stretches += recognised
            outside += left_out
        count = sum(len(stretch["phones"]) for stretch in stretches)
        speech_s = math.fsum(stretch["end_s"] - stretch["start_s"] for stretch in stretches)
        return {
            "stretches": stretches,
            "recogniser": self.mark,
            "phones": count,
            "phones_per_s": count / speech_s if speech_s else None,
            "phones_outside": outside,
        }

    @property
    def pause_s(self) -> float:
        """The setting, or 0 for a recogniser without times, which cannot assign phones to segments and is given each
        alone."""
        return self.config.pause_s if self.kind.timed else 0.0

    def _recognise(self, sound: Sound, group: Group) -> tuple[list[Row], int]:
        """The segments of a group with their phones, and the number of phones that are in none of them."""
        rate, own_rate = sound.sample_rate, self.recogniser.sample_rate
        rows: list[Row] = [
            {name: segment[name] for name in ("track", "start_s", "end_s")}
            | {name: [] for name in ("phones", "starts_ms", "ends_ms")}
            for segment in group.segments
        ]
        start = max(0, round((rows[0]["start_s"] - group.before_s) * rate))
        stop = min(sound.num_samples, round((rows[-1]["end_s"] + group.after_s) * rate))
        outside = 0
        for first, samples in pieces(sound, rows[0]["track"], start, stop, round(self.config.longest_s * rate)):
            for phone in self.recogniser.phones(_resampled(samples, rate, own_rate)):
                start_s, end_s = first / rate + phone.start_s, first / rate + phone.end_s
                away, row = min(((_away(start_s, row), row) for row in rows), key=itemgetter(0))
                if away > NEAR_S:
                    outside += 1
                    continue
                row["phones"].append(phone.symbol)
                row["starts_ms"].append(round(1000 * start_s))
                # With CTC, the last phone before a pause lasts until the next phone.
                row["ends_ms"].append(round(1000 * max(start_s, min(end_s, row["end_s"]))))
        return rows, outside


@dataclass(frozen=True)
class Group:
    """Segments of speech of one track that are recognised together, with some sound around them."""

    segments: Sequence[Mapping[str, Any]]
    """(track, start_s, end_s), in order of time."""
    before_s: float
    after_s: float


def groups(segments: Sequence[Mapping[str, Any]], pause_s: float, longest_s: float) -> list[Group]:
    """Group segments of speech of at most `longest_s` in all, with pauses of at most `pause_s` between them.

    Each group has up to `AROUND_S` of sound around it, at most half of the pause to the next group, and none where
    `pause_s` is 0. A segment that is longer than `longest_s` is a group of its own.

    >>> [len(g.segments) for g in groups([{"track": 0, "start_s": t, "end_s": t + 2} for t in (0, 3, 9)], 1.0, 20.0)]
    [2, 1]
    """
    grouped: list[list[Mapping[str, Any]]] = []
    gaps = [math.inf]  # before each group
    for segment in segments:
        gap_s = segment["start_s"] - grouped[-1][-1]["end_s"] if grouped else math.inf
        if grouped and segment["track"] != grouped[-1][-1]["track"]:
            gap_s = math.inf
        if pause_s and gap_s <= pause_s and segment["end_s"] - grouped[-1][0]["start_s"] <= longest_s:
            grouped[-1].append(segment)
            continue
        if grouped:
            gaps.append(gap_s)
        grouped.append([segment])
    around = [min(AROUND_S, max(0.0, gap_s / 2)) if pause_s else 0.0 for gap_s in [*gaps, math.inf]]
    return [Group(group, before, after) for group, before, after in zip(grouped, around, around[1:], strict=False)]


def _away(time_s: float, stretch: Mapping[str, Any]) -> float:
    """Seconds from a time to a segment of speech; 0 inside it."""
    return max(stretch["start_s"] - time_s, time_s - stretch["end_s"], 0.0)


def pieces(sound: Sound, track: int, start: int, stop: int, longest: int) -> Iterator[tuple[int, np.ndarray]]:
    """Samples [start, stop) of a track as float32 (samples,) pieces, each with the index of its first sample.

    A piece has at most `longest` samples. Longer sound is cut in the middle of its quietest 50 ms in the second half of
    what a piece may hold, and no closer to the end than a quarter of that.
    """
    quiet = round(QUIET_S * sound.sample_rate)
    while stop - start > longest:
        block = sound.read(start, start + longest)[track]
        half, end = longest // 2, min(longest, stop - start - longest // 4)
        powers = np.square(block[half:end], dtype=np.float64).cumsum()
        cut = half + int(np.argmin(powers[quiet:] - powers[:-quiet])) + quiet // 2
        yield start, block[:cut]
        start += cut
    yield start, sound.read(start, stop)[track]


def _resampled(samples: np.ndarray, rate: int, own_rate: int) -> np.ndarray:
    if own_rate == rate:
        return samples
    import soxr

    resampled: np.ndarray = soxr.resample(samples, rate, own_rate)
    return resampled
