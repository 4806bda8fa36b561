"""Text-to-speech with models of the registry, with the times of the phonemes.

Both models first compute the duration of each symbol and then make sound of exactly that length. Their graphs are
changed in memory: the durations become outputs, and noise and pitch, which they would compute, become inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.simulate.speech.reading import Word
from runtime import models
from runtime.errors import SpeechmillError

MOST_SYMBOLS = 500
"""Largest number of symbols in an utterance. Kokoro has styles for at most 510."""


@dataclass(frozen=True)
class Timed:
    """A phoneme with its time, in samples of the sound."""

    symbol: str
    word: int
    """Number of its word."""
    start: int
    stop: int


@dataclass(frozen=True)
class Spoken:
    """A synthesised utterance: float32 (samples,) and its phonemes in order."""

    samples: np.ndarray
    sample_rate: int
    phones: list[Timed]


class Piper:
    """A Piper voice: VITS (Kim et al., 2021) with one speaker, which reads the IPA of espeak-ng. Its pitch is fixed.

    The noise of durations and of sound is drawn here, with the standard deviations that come with the voice.
    """

    HOP_SAMPLES = 256
    DURATIONS = "/Mul_1_output_0"
    """Output with the frames of each symbol before rounding up, which makes fast speech slower than its scale."""
    DURATION_NOISE, SOUND_NOISE = "/dp/RandomNormalLike_output_0", "/RandomNormalLike_output_0"

    def __init__(self, folder: Path) -> None:
        """`folder` has `voice.onnx` and `voice.json`."""
        import onnx
        from onnx import TensorProto, helper
        from onnx.utils import Extractor

        config = json.loads((folder / "voice.json").read_text())
        self.sample_rate = int(config["audio"]["sample_rate"])
        self.symbols = {symbol: ids[0] for symbol, ids in config["phoneme_id_map"].items()}
        self.scales = config["inference"]
        model = onnx.load(str(folder / "voice.onnx"))
        for node in [node for node in model.graph.node if node.op_type == "RandomNormalLike"]:
            model.graph.node.remove(node)
            shape = ["batch", "dimension", f"length of {node.output[0]}"]
            model.graph.input.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, shape))
        inputs = ["input", "input_lengths", "scales", self.DURATION_NOISE]
        self.durations = _session(Extractor(model).extract_model(inputs, [self.DURATIONS]))
        self.sound = _session(model)

    def speak(self, words: Sequence[Word], style: str, rate: float, pitch: float, rng: np.random.Generator) -> Spoken:
        """Synthesise words at a speed: 1 is the voice's own, 2 is twice as fast."""
        symbols = _spelled(words, self.symbols)
        ids = [self.symbols["^"], self.symbols["_"]]
        for one in symbols:
            ids += [one.code, self.symbols["_"]]
        ids.append(self.symbols["$"])
        own = self.scales["length_scale"]
        inputs = {
            "input": np.array([ids]),
            "input_lengths": np.array([len(ids)]),
            "scales": np.array([self.scales["noise_scale"], own, self.scales["noise_w"]], np.float32),
            self.DURATION_NOISE: rng.standard_normal((1, 2, len(ids)), np.float32),
        }
        exact = self.durations.run([self.DURATIONS], inputs)[0].ravel()
        factor = factor_of(exact, rate) if rate != 1 else 1.0
        inputs["scales"][1] = np.float32(own * factor)
        # The graph computes the durations again, so that products at the edge of a frame are rounded as for the sound.
        frames = np.ceil(self.durations.run([self.DURATIONS], inputs)[0].ravel()).astype(int)
        inputs[self.SOUND_NOISE] = rng.standard_normal((1, 192, int(frames.sum())), np.float32)
        samples = self.sound.run(["output"], inputs)[0].ravel()
        # The blank after a symbol counts with it, because the model may put a phoneme into either.
        lengths = frames[2:-1].reshape(-1, 2).sum(axis=1)
        return _timed(samples, self.sample_rate, symbols, int(frames[:2].sum()), lengths, self.HOP_SAMPLES)


def factor_of(exact: np.ndarray, rate: float) -> float:
    """Return the factor for durations in frames with which the sum of all, each rounded up, becomes 1 / rate as long.

    No symbol is shorter than a frame, which limits the speed.
    """
    wanted = np.ceil(exact).sum() / rate
    low, high = 0.1 / rate, 2.0 / rate
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if np.ceil(exact * middle).sum() <= wanted else (low, middle)
    return low


class Kokoro:
    """Kokoro-82M (StyleTTS 2; Li et al., 2023), which reads IPA in the style of a speaker. It uses no noise."""

    HOP_SAMPLES = 600
    sample_rate = 24000
    DURATIONS = "/encoder/Round_output_0"
    PITCH = "/encoder/Reshape_output_0"

    def __init__(self, folder: Path) -> None:
        """`folder` has `model.onnx`, `vocab.json` and `voices.npz`."""
        import onnx
        from onnx import TensorProto, helper

        self.symbols: dict[str, int] = json.loads((folder / "vocab.json").read_text())["vocab"]
        self.styles = dict(np.load(folder / "voices.npz"))
        model = onnx.load(str(folder / "model.onnx"))
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                if name == self.PITCH:
                    node.input[place] = "pitched"
        (at,) = [number for number, node in enumerate(model.graph.node) if self.PITCH in node.output]
        model.graph.node.insert(at + 1, helper.make_node("Mul", [self.PITCH, "pitch"], ["pitched"]))
        model.graph.input.append(helper.make_tensor_value_info("pitch", TensorProto.FLOAT, [1]))
        model.graph.output.append(onnx.ValueInfoProto(name=self.DURATIONS))
        self.sound = _session(model)

    def speak(self, words: Sequence[Word], style: str, rate: float, pitch: float, rng: np.random.Generator) -> Spoken:
        """Synthesise words at a speed, with the fundamental frequency times `pitch`; 1 is the voice's own."""
        symbols = _spelled(words, self.symbols)
        inputs = {
            "tokens": np.array([[0, *(one.code for one in symbols), 0]]),
            "style": self.styles[style][len(symbols) - 1].reshape(1, -1),
            "speed": np.array([rate], np.float32),
            "pitch": np.array([pitch], np.float32),
        }
        samples, durations = self.sound.run(["audio", self.DURATIONS], inputs)
        frames = durations.ravel().astype(int)
        return _timed(samples.ravel(), self.sample_rate, symbols, int(frames[0]), frames[1:-1], self.HOP_SAMPLES)


Model = Piper | Kokoro


def load(name: str) -> Model:
    """Load a model of the registry. Raises SpeechmillError as `runtime.models.verified`."""
    folder = models.verified(name)
    return Piper(folder) if name.startswith("piper") else Kokoro(folder)


@dataclass(frozen=True)
class _Symbol:
    code: int
    word: int
    place: int | None = None
    """Number of the phoneme within its word; None for spaces and marks."""
    phone: str = ""


def _spelled(words: Sequence[Word], codes: Mapping[str, int]) -> list[_Symbol]:
    """Return the symbols of words with their punctuation. A full stop is added if there is none at the end.

    Raises SpeechmillError for a phoneme without a symbol, and for a text that is too long.
    """
    made: list[_Symbol] = []
    for number, word in enumerate(words):
        if number:
            made.append(_Symbol(codes[" "], number))
        for place, phone in enumerate(word.phones):
            known = [codes[sign] for sign in phone if sign in codes]
            if not known:
                what = f"{word.text!r:.50}: the voice has no symbol for the phoneme {phone!r}"
                raise SpeechmillError(what, "change the spelling of the word, or remove it")
            made += [_Symbol(code, number, place, phone) for code in known]
        mark = word.mark or ("." if number + 1 == len(words) else "")
        if mark:
            made.append(_Symbol(codes[mark], number))
    if len(made) > MOST_SYMBOLS:
        what = f"{' '.join(word.text for word in words)!r:.50}: {len(made)} symbols, more than {MOST_SYMBOLS}"
        raise SpeechmillError(what, "split it into two utterances")
    return made


def _timed(
    samples: np.ndarray, sample_rate: int, symbols: Sequence[_Symbol], before: int, lengths: np.ndarray, hop: int
) -> Spoken:
    """Compute the times of phonemes from the `lengths` of symbols, in frames, after `before` frames."""
    phones: list[Timed] = []
    ends = before + np.cumsum(lengths)
    last: tuple[int, int] | None = None
    for one, end, length in zip(symbols, ends.tolist(), lengths.tolist(), strict=True):
        if one.place is None:
            last = None
            continue
        start = (end - length) * hop
        if last == (one.word, one.place):  # one of several symbols of a phoneme, such as a diphthong with its stress
            start = phones.pop().start
        phones.append(Timed(one.phone, one.word, start, min(end * hop, len(samples))))
        last = one.word, one.place
    return Spoken(samples.astype(np.float32), sample_rate, phones)


def _session(model: Any) -> Any:
    """An onnxruntime session with one thread, so that sums have a fixed order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
