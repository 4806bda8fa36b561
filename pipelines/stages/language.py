"""Spoken languages: language detection by Whisper in short windows, decoded to the most probable sequence of
languages."""

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

# The only code of Whisper that differs from ISO 639-1, which has jv for Javanese.
ISO_CODES = {"jw": "jv"}
PAUSE_S, LEAST_S = 0.7, 1.0
"""Uncertain windows are also cut at pauses of `PAUSE_S`, where languages tend to change, into parts with at least
`LEAST_S` of speech."""


@dataclass(frozen=True)
class LanguageConfig:
    model: str = "whisper-base"
    """Name in the registry of models, local folder, or hub id of a Whisper model: for transformers, or converted for
    CTranslate2, which is faster on a CPU and needs CUDA 12 on a GPU."""
    max_windows: int = 24
    """The most windows of a recording that the model is run on; if more tracks than this have speech, one window
    each."""
    window_s: float = 10.0
    """The most speech in a window in seconds, without pauses; 30 at most. A window begins and ends at pauses if
    possible."""
    closer_window_s: float = 5.0
    """The most speech in the shorter windows into which uncertain windows are cut for a second pass; 0 for no second
    pass."""
    sure: float = 0.95
    """A window is uncertain if its language has less probability than this, or if a window beside it has another
    one."""
    always_closer: int = 3
    """This many windows of a recording, those with the least probability, have a second pass in any case."""
    min_speech_s: float = 1.0
    """A recording with less speech than this, over all tracks, has no language."""
    languages: Sequence[str] | None = None
    """Languages to choose from, ISO 639-1, over which probabilities are rescaled; all that the model detects if not
    given."""
    prior_strength: float = 0.2
    """The weight of the number of speakers of a language in the prior: a language with a thousandth of the speakers of
    another one is preferred if the evidence in the recording has odds above 1000 ** prior_strength. With 0, all
    languages have the same prior."""
    speakers: Mapping[str, float] = field(default_factory=dict)
    """Millions of speakers by ISO 639-1 code, for recordings in which languages have other shares than in the world:
    { cy = 50.0 }."""
    language_odds: float = 10.0
    """Odds that the evidence for each further language in a recording must exceed."""
    switch_odds: float = 2.0
    """Odds against a change of language between one window and the next of a track."""
    floor: float = 0.02
    """Share of windows that are assumed to be uninformative; it bounds the evidence of one window against a
    language."""
    whole_s: float = 2.5
    """Windows with less speech than this, in seconds, are weighted in proportion to their speech."""
    batch_size: int = 1
    """Windows in one call of the model; a GPU needs all windows of a recording, or of several recordings."""
    recordings_at_once: int = 1
    """Recordings whose windows share calls. Results change in the last digits."""
    device: str = "cpu"
    """cpu, cuda, or auto: cuda where the process that reads the recipe sees a GPU. Results differ in the last digits
    between devices."""
    compute_type: str = "auto"
    """Number format: int8, float32, float16 (cuda), ... for CTranslate2; float32, float16, bfloat16 for transformers.
    'auto' is float16 on a GPU, and on a CPU int8 for CTranslate2 and float32 for transformers."""
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
        # Resolved here, once in a run: else each worker might find another device, and so have another fingerprint.
        object.__setattr__(self, "device", resolve_device(self.device))
        if self.languages is not None and (isinstance(self.languages, str) or not self.languages):
            raise ValueError(f"languages must be a list of codes, not {self.languages!r}")


@dataclass(frozen=True)
class Window:
    """Part of the speech of a track. The model is run on `spans`, and the result stands for `speech_s` seconds around
    them."""

    track: int
    spans: tuple[Span, ...]
    speech_s: float

    @property
    def length_s(self) -> float:
        return math.fsum(end - start for start, end in self.spans)


class Language(Stage):
    """Rows of `manifests.schemas.LANGUAGE`.

    The speech of each track, without its pauses, is cut at pauses into windows. The model is run on some of them,
    evenly spread, each of which stands for the speech around it. The languages are those of the most probable sequence
    (`switching.decode`), in which the evidence for a language must exceed `language_odds`, and for a change of language
    `switch_odds`. Uncertain windows are cut into shorter ones, on which the model is run in a second pass.
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
        detected = {ISO_CODES.get(code, code) for code in self.model.languages}
        unknown = sorted({*(config.languages or ()), *config.speakers} - detected)
        if unknown:
            what = f"model {config.model!r} does not detect {', '.join(unknown)}"
            raise SpeechmillError(what, f"choose from: {' '.join(sorted(detected))}")
        self.languages = sorted(config.languages or detected)
        millions = {**prior.MILLIONS, **config.speakers}
        self.log_prior = prior.log_prior(self.languages, millions, config.prior_strength)

    def annotate(self, sound: Sound, rows: Mapping[str, Row]) -> Row:
        config = self.config
        windows = place_windows(rows["vad"]["segments"], config.max_windows, config.window_s, config.min_speech_s)
        if not windows:
            nothing: Row = {"language_shares": {}, "track_languages": [], "votes": []}
            return {"language": None, "language_confidence": None, **nothing}
        evidence = self._evidence(sound, windows, config.window_s)
        path = self._decode(windows, evidence)
        if config.closer_window_s:
            windows, evidence, path = self._second_pass(sound, windows, evidence, path)
        votes = [
            {
                "track": window.track, "start_s": window.spans[0][0], "end_s": window.spans[-1][1],
                "speech_s": window.speech_s, "language": self.languages[language],
                "probability": float(self._alone(row)[language]),
            }
            for window, row, language in zip(windows, evidence, path, strict=True)
        ]  # fmt: skip
        shares = _shares(votes)
        main = next(iter(shares))
        alone = [float(self._alone(row)[self.languages.index(main)]) for row in evidence]
        total_s = math.fsum(window.speech_s for window in windows)
        return {
            "language": main,
            "language_confidence": math.fsum(w.speech_s * p for w, p in zip(windows, alone, strict=True)) / total_s,
            "language_shares": shares,
            "track_languages": _by_track(votes),
            "votes": votes,
        }

    def _evidence(self, sound: Sound, windows: Sequence[Window], most_s: float) -> np.ndarray:
        """Evidence of each window for each language, float64 (windows, languages)."""
        detected = self.probabilities([_samples(sound, window) for window in windows], most_s)
        table = np.array([[row[code] for code in self.languages] for row in detected])
        weights = np.array([min(1.0, window.length_s / (self.config.whole_s or 1e-9)) for window in windows])
        return switching.evidence(table, self.config.floor, weights)

    def _decode(self, windows: Sequence[Window], evidence: np.ndarray) -> list[int]:
        """The language of each window on the most probable path, as an index of `languages`."""
        return switching.decode(evidence, _begins(windows), self.log_prior, *self._costs)

    @property
    def _costs(self) -> tuple[float, float]:
        return math.log(self.config.language_odds), math.log(self.config.switch_odds)

    def _alone(self, evidence: np.ndarray) -> np.ndarray:
        """Probability of each language from the evidence of one window and the prior."""
        odds: np.ndarray = np.exp(evidence + self.log_prior - (evidence + self.log_prior).max())
        return odds / odds.sum()

    def _second_pass(
        self, sound: Sound, windows: Sequence[Window], evidence: np.ndarray, path: Sequence[int]
    ) -> tuple[list[Window], np.ndarray, list[int]]:
        """Cut uncertain windows into parts and run the model on these: windows, their evidence and their languages.

        For a window with two languages the model often gives one of them a high probability. So the evidence of the
        whole window counts for each part, by its share, where all parts are in one language; otherwise it counts for
        one of the parts (`switching.score_of_parts`). Of two candidate paths the more probable one is taken: the best
        path by the evidence of parts and whole windows, and the best one by that of parts alone.
        """
        config = self.config
        sure = np.array([self._alone(row)[language] for row, language in zip(evidence, path, strict=True)])
        least = set(np.argsort(sure, kind="stable")[: config.always_closer].tolist())
        parts: list[list[Window]] = []
        for number, window in enumerate(windows):
            beside = [n for n in (number - 1, number + 1) if 0 <= n < len(windows) and windows[n].track == window.track]
            changes = any(path[n] != path[number] for n in beside)
            uncertain = changes or number in least or sure[number] < config.sure
            parts.append(cut_up(window, config.closer_window_s) if uncertain else [window])
        closer = [part for cut in parts if len(cut) > 1 for part in cut]
        if not closer:
            return list(windows), evidence, list(path)
        second = iter(self._evidence(sound, closer, config.closer_window_s))
        alone = np.array(
            [next(second) if len(cut) > 1 else row for row, cut in zip(evidence, parts, strict=True) for _ in cut]
        )
        shares = np.array([part.length_s / w.length_s for w, cut in zip(windows, parts, strict=True) for part in cut])
        of = np.repeat(np.arange(len(parts)), [len(cut) for cut in parts])
        whole = np.where((np.bincount(of) > 1)[:, None], evidence, 0.0)
        together = alone + shares[:, None] * whole[of]
        flat = [part for cut in parts for part in cut]
        paths = [self._decode(flat, together), self._decode(flat, alone)]
        best = max(
            paths,
            key=lambda path: switching.score_of_parts(
                path, alone, whole, of, shares, _begins(flat), self.log_prior, *self._costs
            ),
        )
        if len({*best}) == len({*path}) == 1:  # for a single language, long windows are more accurate
            return list(windows), evidence, list(path)
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

    def _allowed(self, detected: Mapping[str, float]) -> dict[str, float]:
        by_code = {ISO_CODES.get(code, code): probability for code, probability in detected.items()}
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
    """Group spans of speech, in order of time, into pieces of at most `most_s` seconds of speech.

    A longer span is cut into equal parts. A piece with `least_s` of speech also ends at a pause of `pause_s`.

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
    """Cut a window, also at pauses, into windows of at most `most_s` seconds, which share the speech that it stands
    for.

    >>> [(part.spans, part.speech_s) for part in cut_up(Window(0, ((0.0, 2.0), (3.0, 5.0)), 40.0), 2.0)]
    [(((0.0, 2.0),), 20.0), (((3.0, 5.0),), 20.0)]
    """
    length_s = window.length_s
    parts = [Window(window.track, spans, 0.0) for spans in cut_at_pauses(window.spans, most_s, PAUSE_S, LEAST_S)]
    return [replace(part, speech_s=window.speech_s * part.length_s / length_s) for part in parts]


def _begins(windows: Sequence[Window]) -> list[int]:
    """The first window of each track."""
    return [n for n, window in enumerate(windows) if n == 0 or window.track != windows[n - 1].track]


def _share_out(totals: Mapping[int, float], most: Mapping[int, int], max_windows: int) -> dict[int, int]:
    """The number of windows of each track, at most `most`: one each, then one at a time for the track whose windows
    stand for the most speech."""
    counts = dict.fromkeys(totals, 1)
    while sum(counts.values()) < max_windows:
        open_to_more = [track for track in counts if counts[track] < most[track]]
        if not open_to_more:
            break  # the windows contain all speech already
        counts[max(open_to_more, key=lambda track: (totals[track] / counts[track], -track))] += 1
    return counts


def _samples(sound: Sound, window: Window) -> np.ndarray:
    rate = sound.sample_rate
    return np.concatenate(
        [sound.read(round(start * rate), round(end * rate))[window.track] for start, end in window.spans]
    )


def _shares(votes: Sequence[Row]) -> dict[str, float]:
    """Share of the speech in each language, the largest first, and by code where shares are equal."""
    seconds: dict[str, float] = defaultdict(float)
    for vote in votes:
        seconds[vote["language"]] += vote["speech_s"]
    total_s = math.fsum(seconds.values())
    return {code: seconds[code] / total_s for code in sorted(seconds, key=lambda code: (-seconds[code], code))}


def _by_track(votes: Sequence[Row]) -> list[Row]:
    """The speech of each track that has any, and the shares of languages in it."""
    tracks = []
    for track, cast in itertools.groupby(votes, key=lambda vote: vote["track"]):
        own = list(cast)
        shares = _shares(own)
        speech_s = math.fsum(vote["speech_s"] for vote in own)
        tracks.append({"track": track, "speech_s": speech_s, "language": next(iter(shares)), "shares": shares})
    return tracks
