"""Spoken language: Whisper's language detection on windows spread evenly over the speech, each voting for its share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.schemas import LANGUAGE
from pipelines.stages import whisper
from pipelines.stages.base import Resources, Row, Sound, Stage
from runtime import models
from runtime.batches import Batches, resolve_device
from runtime.errors import SpeechmillError

Span = tuple[float, float]

# Whisper's one code that is not the language's own: ISO 639-1 has jv for Javanese.
ISO_CODES = {"jw": "jv"}


@dataclass(frozen=True)
class LanguageConfig:
    model: str = "whisper-base"
    """Name in the registry of models, local folder, or hub id of a Whisper model: for transformers, or converted for
    CTranslate2, which is faster on a CPU and needs CUDA 12 on a GPU."""
    max_windows: int = 8
    """Windows heard in a recording; more only where more tracks than this have speech, which get one each."""
    window_s: float = 30.0
    """Speech in a window, pauses left out; Whisper hears 30 s at most."""
    min_speech_s: float = 1.0
    """A recording with less speech than this, over all tracks, has no language."""
    languages: Sequence[str] | None = None
    """Languages to choose from, ISO 639-1, probabilities rescaled over them; all that the model knows if not given."""
    batch_size: int = 1
    """Windows in one call of the model; a GPU wants all of a recording, or of several."""
    recordings_at_once: int = 1
    """Recordings whose windows share calls. Results move in the last digits."""
    device: str = "cpu"
    """cpu, cuda, or auto: cuda where the process that reads the recipe sees a GPU. Results move in the last digits."""
    compute_type: str = "auto"
    """Arithmetic: of CTranslate2 int8, float32, float16 (cuda), ...; of transformers float32, float16, bfloat16. 'auto'
    is float16 on a GPU, and on a CPU int8 of CTranslate2 and float32 of transformers."""
    cpu_threads: int = 1
    """Threads of the model on a CPU."""

    def __post_init__(self) -> None:
        for name in ("max_windows", "cpu_threads", "batch_size", "recordings_at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 0 < self.window_s <= 30:
            raise ValueError(f"window_s must be above 0 and at most 30, not {self.window_s}")
        if self.min_speech_s < 0:
            raise ValueError(f"min_speech_s must be at least 0, not {self.min_speech_s}")
        # Settled here, once a run: workers must not each find a device, and so a fingerprint, of their own.
        object.__setattr__(self, "device", resolve_device(self.device))
        if self.languages is not None and (isinstance(self.languages, str) or not self.languages):
            raise ValueError(f"languages must be a list of codes, not {self.languages!r}")


@dataclass(frozen=True)
class Window:
    """Part of one track's speech: `spans` are heard, and the vote stands for `speech_s` seconds around them."""

    track: int
    spans: tuple[Span, ...]
    speech_s: float


class Language(Stage):
    """Rows of `manifests.schemas.LANGUAGE`.

    Each track's speech, pauses taken out, is cut into equal parts. The middle of each part is heard, up to `window_s`,
    and its most probable language gets all the part's seconds: votes sum to the speech of all tracks.
    """

    name = "language"
    version = 1
    needs = ("vad",)
    packages = ("faster_whisper",)
    schema = LANGUAGE
    config: LanguageConfig

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__(config)
        self.resources = Resources(cpus=float(config.cpu_threads), gpus=1.0 if config.device == "cuda" else 0.0)
        self.at_once = config.recordings_at_once

    def registered(self) -> tuple[str, ...]:
        return (self.config.model,)

    def model_hashes(self) -> dict[str, str]:
        return {self.config.model: models.identity(self.config.model)}

    def setup(self) -> None:
        config = self.config
        path, _ = models.resolve(config.model)
        self.model = whisper.load(path, config.model, config.device, config.compute_type, config.cpu_threads)
        self.batches = Batches("language", config.batch_size, self._detect)
        known = {ISO_CODES.get(code, code) for code in self.model.languages}
        unknown = sorted(set(config.languages or ()) - known)
        if unknown:
            raise SpeechmillError(
                f"model {config.model!r} does not tell {', '.join(unknown)}", f"choose from: {' '.join(sorted(known))}"
            )

    def annotate(self, sound: Sound, known: Mapping[str, Row]) -> Row:
        config = self.config
        windows = place_windows(known["vad"]["segments"], config.max_windows, config.window_s, config.min_speech_s)
        if not windows:
            return {"language": None, "language_confidence": None, "language_shares": {}, "votes": []}
        heard = self.probabilities([_samples(sound, window) for window in windows])
        votes = [_vote(window, probabilities) for window, probabilities in zip(windows, heard, strict=True)]
        total_s = math.fsum(window.speech_s for window in windows)
        seconds: dict[str, float] = defaultdict(float)
        for vote in votes:
            seconds[vote["language"]] += vote["speech_s"]
        # Largest first, ties by code, so that equal input gives equal rows.
        ranked = sorted(seconds, key=lambda code: (-seconds[code], code))
        weighted = [w.speech_s * p.get(ranked[0], 0.0) for w, p in zip(windows, heard, strict=True)]
        return {
            "language": ranked[0],
            "language_confidence": math.fsum(weighted) / total_s,
            "language_shares": {code: seconds[code] / total_s for code in ranked},
            "votes": votes,
        }

    def probabilities(self, windows: Sequence[np.ndarray]) -> list[dict[str, float]]:
        """Probability by ISO 639-1 code of the language of each window, float32 (samples,) at 16 kHz, at most 30 s."""
        return [self._allowed(row) for row in self.batches([(self.model.features(window),) for window in windows])]

    def _detect(self, rows: Sequence[tuple[np.ndarray]]) -> list[dict[str, float]]:
        """Probability of every language by its code, for the features (mels, 3000) of each row."""
        return self.model.detect(np.stack([features for (features,) in rows]))

    def _allowed(self, found: Mapping[str, float]) -> dict[str, float]:
        by_code = {ISO_CODES.get(code, code): probability for code, probability in found.items()}
        allowed = self.config.languages
        if allowed is None:
            return by_code
        kept = {code: by_code[code] for code in allowed}
        total = math.fsum(kept.values())
        return {code: probability / total if total else 1 / len(kept) for code, probability in kept.items()}


def place_windows(
    segments: Sequence[Mapping[str, Any]], max_windows: int, window_s: float, min_speech_s: float = 0.0
) -> list[Window]:
    """Windows over the `segments` of speech (track, start_s, end_s), in order of track then time.

    Tracks share `max_windows` in proportion to their speech; every second of speech belongs to exactly one window.

    >>> segments = [{"track": 0, "start_s": 0.0, "end_s": 4.0}, {"track": 0, "start_s": 10.0, "end_s": 14.0}]
    >>> for window in place_windows(segments, max_windows=2, window_s=2.0):
    ...     print(window.spans, window.speech_s)
    ((1.0, 3.0),) 4.0
    ((11.0, 13.0),) 4.0
    """
    speech: dict[int, list[Span]] = defaultdict(list)
    for segment in segments:
        if segment["end_s"] > segment["start_s"]:
            speech[segment["track"]].append((segment["start_s"], segment["end_s"]))
    totals = {track: math.fsum(end - start for start, end in spans) for track, spans in speech.items()}
    if not totals or math.fsum(totals.values()) < min_speech_s:
        return []
    windows = []
    for track, count in sorted(_share_out(totals, max_windows, window_s).items()):
        part_s = totals[track] / count
        heard_s = min(window_s, part_s)
        for index in range(count):
            begin_s = index * part_s + (part_s - heard_s) / 2
            windows.append(Window(track, _cut(sorted(speech[track]), begin_s, begin_s + heard_s), part_s))
    return windows


def _share_out(totals: Mapping[int, float], max_windows: int, window_s: float) -> dict[int, int]:
    """Windows by track: one each, then one at a time to the track whose windows stand for most speech."""
    counts = dict.fromkeys(totals, 1)
    while sum(counts.values()) < max_windows:
        track = max(counts, key=lambda track: (totals[track] / counts[track], -track))
        if totals[track] / counts[track] <= window_s:
            break  # every second of speech is heard already
        counts[track] += 1
    return counts


def _cut(spans: Sequence[Span], begin_s: float, end_s: float) -> tuple[Span, ...]:
    """From `begin_s` to `end_s` on the clock of speech, which stands still in pauses, as spans of the recording."""
    found, passed_s = [], 0.0
    for start, end in spans:
        first, last = max(begin_s - passed_s, 0.0), min(end_s - passed_s, end - start)
        if last - first > 1e-6:  # rounding leaves slivers where a window ends with a stretch of speech
            found.append((start + first, start + last))
        passed_s += end - start
    return tuple(found)


def _samples(sound: Sound, window: Window) -> np.ndarray:
    rate = sound.sample_rate
    return np.concatenate(
        [sound.read(round(start * rate), round(end * rate))[window.track] for start, end in window.spans]
    )


def _vote(window: Window, probabilities: Mapping[str, float]) -> Row:
    language, probability = min(probabilities.items(), key=lambda item: (-item[1], item[0]))
    return {
        "track": window.track,
        "start_s": window.spans[0][0],
        "end_s": window.spans[-1][1],
        "speech_s": window.speech_s,
        "language": language,
        "probability": probability,
    }
