"""Spoken languages: Whisper's language detection on short windows, and the sequence of languages behind them."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from manifests.schemas import LANGUAGE
from pipelines.stages import prior, switching, whisper
from pipelines.stages.base import Resources, Row, Sound, Stage
from runtime import models
from runtime.batches import Batches, resolve_device
from runtime.errors import SpeechmillError

Span = tuple[float, float]

# Whisper's one code that is not the language's own: ISO 639-1 has jv for Javanese.
ISO_CODES = {"jw": "jv"}
PAUSE_S, LEAST_S = 0.7, 1.0
"""Windows in doubt are also cut at pauses of `PAUSE_S`, into parts with `LEAST_S` of speech: languages change there."""


@dataclass(frozen=True)
class LanguageConfig:
    model: str = "whisper-base"
    """Name in the registry of models, local folder, or hub id of a Whisper model: for transformers, or converted for
    CTranslate2, which is faster on a CPU and needs CUDA 12 on a GPU."""
    max_windows: int = 24
    """Windows heard in a recording; more only where more tracks than this have speech, which get one each."""
    window_s: float = 10.0
    """Most speech in a window, pauses left out; 30 at most. A window begins and ends at pauses where it can."""
    closer_window_s: float = 5.0
    """Most speech in the windows in which speech is heard again where a window is in doubt; 0 hears nothing again."""
    sure: float = 0.95
    """A window is in doubt if its language has less probability than this, or if the language changes beside it."""
    always_closer: int = 3
    """So many windows of a recording are heard again in any case: those whose language is least sure."""
    min_speech_s: float = 1.0
    """A recording with less speech than this, over all tracks, has no language."""
    languages: Sequence[str] | None = None
    """Languages to choose from, ISO 639-1, probabilities rescaled over them; all that the model knows if not given."""
    prior_strength: float = 0.2
    """How much it counts that a language has many speakers: a language with a thousandth of the speakers of another
    needs evidence of odds 1000 ** prior_strength to be preferred, once a recording. 0 counts all languages alike."""
    speakers: Mapping[str, float] = field(default_factory=dict)
    """Millions of speakers by ISO 639-1 code, where your recordings have other shares than the world: { cy = 50.0 }."""
    language_odds: float = 10.0
    """Odds that the evidence for each further language in a recording must beat."""
    switch_odds: float = 2.0
    """Odds against a change of language between one window and the next of a track."""
    floor: float = 0.02
    """Share of windows taken to tell nothing of their language: bounds what one window can say against a language."""
    whole_s: float = 2.5
    """Windows with less speech than this count less, in proportion to their speech."""
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
        for name in ("language_odds", "switch_odds"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("min_speech_s", "closer_window_s", "prior_strength", "whole_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.always_closer < 0:
            raise ValueError(f"always_closer must be at least 0, not {self.always_closer}")
        if not 0 < self.window_s <= 30:
            raise ValueError(f"window_s must be above 0 and at most 30, not {self.window_s}")
        if not 0 < self.floor < 1:
            raise ValueError(f"floor must lie between 0 and 1, not {self.floor}")
        if not 0 <= self.sure <= 1:
            raise ValueError(f"sure must lie between 0 and 1, not {self.sure}")
        for code, millions in self.speakers.items():
            if not 0 < millions < math.inf:
                raise ValueError(f"speakers.{code} must be a number above 0, not {millions}")
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

    @property
    def heard_s(self) -> float:
        return math.fsum(end - start for start, end in self.spans)


class Language(Stage):
    """Rows of `manifests.schemas.LANGUAGE`.

    Each track's speech, pauses taken out, is cut at pauses into windows, of which some spread evenly are heard; each
    stands for the speech around it. The languages are those of the most probable sequence (`switching.decode`): a
    language must have more evidence than odds for it to be spoken at all, and to be changed to. Where windows are in
    doubt, they are cut into shorter ones and heard again.
    """

    name = "language"
    version = 2
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
        unknown = sorted({*(config.languages or ()), *config.speakers} - known)
        if unknown:
            raise SpeechmillError(
                f"model {config.model!r} does not tell {', '.join(unknown)}", f"choose from: {' '.join(sorted(known))}"
            )
        self.languages = sorted(config.languages or known)
        millions = {**prior.MILLIONS, **config.speakers}
        self.log_prior = prior.log_prior(self.languages, millions, config.prior_strength)

    def annotate(self, sound: Sound, known: Mapping[str, Row]) -> Row:
        config = self.config
        windows = place_windows(known["vad"]["segments"], config.max_windows, config.window_s, config.min_speech_s)
        if not windows:
            nothing: Row = {"language_shares": {}, "track_languages": [], "votes": []}
            return {"language": None, "language_confidence": None, **nothing}
        said = self._said(sound, windows, config.window_s)
        spoken = self._decode(windows, said)
        if config.closer_window_s:
            windows, said, spoken = self._hear_closer(sound, windows, said, spoken)
        votes = [
            {
                "track": window.track, "start_s": window.spans[0][0], "end_s": window.spans[-1][1],
                "speech_s": window.speech_s, "language": self.languages[language],
                "probability": float(self._alone(row)[language]),
            }
            for window, row, language in zip(windows, said, spoken, strict=True)
        ]  # fmt: skip
        shares = _shares(votes)
        main = next(iter(shares))
        alone = [float(self._alone(row)[self.languages.index(main)]) for row in said]
        total_s = math.fsum(window.speech_s for window in windows)
        return {
            "language": main,
            "language_confidence": math.fsum(w.speech_s * p for w, p in zip(windows, alone, strict=True)) / total_s,
            "language_shares": shares,
            "track_languages": _by_track(votes),
            "votes": votes,
        }

    def _said(self, sound: Sound, windows: Sequence[Window], most_s: float) -> np.ndarray:
        """What each window says of each language, float64 (windows, languages)."""
        found = self.probabilities([_samples(sound, window) for window in windows], most_s)
        table = np.array([[row[code] for code in self.languages] for row in found])
        weights = np.array([min(1.0, window.heard_s / (self.config.whole_s or 1e-9)) for window in windows])
        return switching.evidence(table, self.config.floor, weights)

    def _decode(self, windows: Sequence[Window], said: np.ndarray) -> list[int]:
        """The language of each window on the most probable path, as an index of `languages`."""
        return switching.decode(said, _begins(windows), self.log_prior, *self._costs)

    @property
    def _costs(self) -> tuple[float, float]:
        return math.log(self.config.language_odds), math.log(self.config.switch_odds)

    def _alone(self, said: np.ndarray) -> np.ndarray:
        """Probability of each language, from the evidence of one window and the prior."""
        odds: np.ndarray = np.exp(said + self.log_prior - (said + self.log_prior).max())
        return odds / odds.sum()

    def _hear_closer(
        self, sound: Sound, windows: Sequence[Window], said: np.ndarray, spoken: Sequence[int]
    ) -> tuple[list[Window], np.ndarray, list[int]]:
        """All windows, those in doubt cut up and heard again, with what they say and the language of each.

        A window with two languages says one of them, often surely: so what it says as a whole counts for each part by
        its share where the parts are in one language, and else for one of the parts (`switching.told_by_parts`). The
        more probable of two paths is taken: the best one by parts and wholes in one language, and that by parts alone.
        """
        config = self.config
        sure = np.array([self._alone(row)[language] for row, language in zip(said, spoken, strict=True)])
        least = set(np.argsort(sure, kind="stable")[: config.always_closer].tolist())
        parts: list[list[Window]] = []
        for number, window in enumerate(windows):
            beside = [n for n in (number - 1, number + 1) if 0 <= n < len(windows) and windows[n].track == window.track]
            changes = any(spoken[n] != spoken[number] for n in beside)
            doubted = changes or number in least or sure[number] < config.sure
            parts.append(cut_up(window, config.closer_window_s) if doubted else [window])
        closer = [part for cut in parts if len(cut) > 1 for part in cut]
        if not closer:
            return list(windows), said, list(spoken)
        heard = iter(self._said(sound, closer, config.closer_window_s))
        alone = np.array(
            [next(heard) if len(cut) > 1 else row for row, cut in zip(said, parts, strict=True) for _ in cut]
        )
        shares = np.array([part.heard_s / w.heard_s for w, cut in zip(windows, parts, strict=True) for part in cut])
        of = np.repeat(np.arange(len(parts)), [len(cut) for cut in parts])
        whole = np.where((np.bincount(of) > 1)[:, None], said, 0.0)
        together = alone + shares[:, None] * whole[of]
        flat = [part for cut in parts for part in cut]
        paths = [self._decode(flat, together), self._decode(flat, alone)]
        best = max(
            paths,
            key=lambda path: switching.told_by_parts(
                path, alone, whole, of, shares, _begins(flat), self.log_prior, *self._costs
            ),
        )
        if len({*best}) == len({*spoken}) == 1:  # one language is told best by windows that are as long as may be
            return list(windows), said, list(spoken)
        mixed = np.array([len({best[n] for n in np.flatnonzero(of == number)}) > 1 for number in range(len(parts))])
        return flat, np.where(mixed[of][:, None], alone, together), best

    def probabilities(self, windows: Sequence[np.ndarray], most_s: float = 30.0) -> list[dict[str, float]]:
        """Probability by ISO 639-1 code of the language of each window, float32 (samples,) at 16 kHz, at most
        `most_s` long, which is 30 s or less: the shorter, the cheaper."""
        frames = whisper.frames(most_s)
        rows = [(self.model.features(window, frames),) for window in windows]
        return [self._allowed(row) for row in self.batches(rows)]

    def _detect(self, rows: Sequence[tuple[np.ndarray]]) -> list[dict[str, float]]:
        """Probability of every language by its code, for the features (mels, frames) of each row."""
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
    >>> for window in place_windows(segments, max_windows=2, window_s=5.0):
    ...     print(window.spans, window.speech_s)
    ((0.0, 4.0),) 4.0
    ((10.0, 14.0),) 4.0
    """
    speech: dict[int, list[Span]] = defaultdict(list)
    for segment in segments:
        if segment["end_s"] > segment["start_s"]:
            speech[segment["track"]].append((segment["start_s"], segment["end_s"]))
    totals = {track: math.fsum(end - start for start, end in spans) for track, spans in speech.items()}
    if not totals or math.fsum(totals.values()) < min_speech_s:
        return []
    pieces = {track: cut_at_pauses(sorted(spans), window_s) for track, spans in speech.items()}
    counts = _share_out(totals, {track: len(cut) for track, cut in pieces.items()}, max_windows)
    windows = []
    for track, count in sorted(counts.items()):
        edges = [index * len(pieces[track]) // count for index in range(count + 1)]
        for first, last in itertools.pairwise(edges):
            around = pieces[track][first:last]
            around_s = math.fsum(end - start for spans in around for start, end in spans)
            windows.append(Window(track, around[len(around) // 2], around_s))
    return windows


def cut_at_pauses(
    spans: Sequence[Span], most_s: float, pause_s: float = math.inf, least_s: float = 0.0
) -> list[tuple[Span, ...]]:
    """Spans of speech put together, in order of time, into pieces of at most `most_s` seconds of speech; a longer span
    is cut into equal parts. A piece with `least_s` of speech also ends at a pause of `pause_s`.

    >>> cut_at_pauses([(0.0, 4.0), (5.0, 6.0), (7.0, 13.0)], 5.0)
    [((0.0, 4.0), (5.0, 6.0)), ((7.0, 10.0),), ((10.0, 13.0),)]
    >>> cut_at_pauses([(0.0, 2.0), (3.0, 3.5), (5.0, 6.0)], 5.0, pause_s=1.0, least_s=1.0)
    [((0.0, 2.0),), ((3.0, 3.5), (5.0, 6.0))]
    """
    pieces: list[list[Span]] = []
    room_s = 0.0
    for start, end in spans:
        paused = bool(pieces) and start - pieces[-1][-1][1] >= pause_s and most_s - room_s >= least_s
        parts = max(1, math.ceil((end - start) / most_s - 1e-9))
        edges = [start + (end - start) * part / parts for part in range(parts)] + [end]
        for number, span in enumerate(itertools.pairwise(edges)):
            length_s = span[1] - span[0]
            if not pieces or length_s > room_s + 1e-9 or (paused and number == 0):
                pieces.append([])
                room_s = most_s
            pieces[-1].append(span)
            room_s -= length_s
    return [tuple(piece) for piece in pieces]


def cut_up(window: Window, most_s: float) -> list[Window]:
    """A window as windows of at most `most_s` seconds, cut at pauses too, which share the speech that it stands for.

    >>> [(part.spans, part.speech_s) for part in cut_up(Window(0, ((0.0, 2.0), (3.0, 5.0)), 40.0), 2.0)]
    [(((0.0, 2.0),), 20.0), (((3.0, 5.0),), 20.0)]
    """
    heard_s = window.heard_s
    parts = [Window(window.track, spans, 0.0) for spans in cut_at_pauses(window.spans, most_s, PAUSE_S, LEAST_S)]
    return [replace(part, speech_s=window.speech_s * part.heard_s / heard_s) for part in parts]


def _begins(windows: Sequence[Window]) -> list[int]:
    """The first window of each track."""
    return [n for n, window in enumerate(windows) if n == 0 or window.track != windows[n - 1].track]


def _share_out(totals: Mapping[int, float], most: Mapping[int, int], max_windows: int) -> dict[int, int]:
    """Windows by track, at most `most`: one each, then one at a time where each window stands for most speech."""
    counts = dict.fromkeys(totals, 1)
    while sum(counts.values()) < max_windows:
        open_to_more = [track for track in counts if counts[track] < most[track]]
        if not open_to_more:
            break  # every second of speech is heard already
        counts[max(open_to_more, key=lambda track: (totals[track] / counts[track], -track))] += 1
    return counts


def _samples(sound: Sound, window: Window) -> np.ndarray:
    rate = sound.sample_rate
    return np.concatenate(
        [sound.read(round(start * rate), round(end * rate))[window.track] for start, end in window.spans]
    )


def _shares(votes: Sequence[Row]) -> dict[str, float]:
    """Share of the speech in each language: largest first, ties by code, so that equal input gives equal rows."""
    seconds: dict[str, float] = defaultdict(float)
    for vote in votes:
        seconds[vote["language"]] += vote["speech_s"]
    total_s = math.fsum(seconds.values())
    return {code: seconds[code] / total_s for code in sorted(seconds, key=lambda code: (-seconds[code], code))}


def _by_track(votes: Sequence[Row]) -> list[Row]:
    """For each track with speech: its speech and the shares of languages in it."""
    found = []
    for track, cast in itertools.groupby(votes, key=lambda vote: vote["track"]):
        own = list(cast)
        shares = _shares(own)
        speech_s = math.fsum(vote["speech_s"] for vote in own)
        found.append({"track": track, "speech_s": speech_s, "language": next(iter(shares)), "shares": shares})
    return found
