"""Background sounds of a conversation as endless streams: pink noise, babble, or files of noise or music."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.simulate.bank import Bank, Noise, Voice
from pipelines.simulate.turns import UtterancePool

BLOCK = 1 << 16
"""Samples in a block; constant, so that equal settings give equal bytes."""
PINK_B = (0.049922035, -0.095993537, 0.050612699, -0.004408786)
PINK_A = (1.0, -2.494956002, 2.017265875, -0.522189400)
"""A filter that turns white noise into pink noise within 0.05 dB above 20 Hz at 44.1 kHz (J. O. Smith, Spectral Audio
Signal Processing, section on 1/f noise)."""
BABBLE_VOICES = 6
BABBLE_PAUSES_S = (0.1, 0.6)


def pink(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Pink noise with a root mean square of 1, in blocks of float32 (samples,)."""
    from scipy.signal import lfilter

    impulse = np.zeros(BLOCK)
    impulse[0] = 1
    scale = 1 / math.sqrt(float(np.sum(lfilter(PINK_B, PINK_A, impulse) ** 2)))
    state = np.zeros(len(PINK_A) - 1)
    while True:
        block, state = lfilter(PINK_B, PINK_A, rng.normal(size=BLOCK), zi=state)
        yield (scale * block).astype(np.float32)


def babble(bank: Bank, voices: Sequence[Voice], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless babble of several voices. The root mean square is about 1; pauses lower it slightly."""
    streams = [_talking(bank, voice, own) for voice, own in zip(voices, rng.spawn(len(voices)), strict=True)]
    while True:
        total = np.zeros(BLOCK, np.float32)
        for stream in streams:
            total += next(stream)
        yield total / np.float32(math.sqrt(len(streams)))


def _talking(bank: Bank, voice: Voice, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Utterances of one voice with random pauses, in blocks; the speech has a root mean square of 1."""
    pool = UtterancePool(voice.utterances, rng)
    held = np.zeros(0, np.float32)
    while True:
        while len(held) < BLOCK:
            pause = np.zeros(round(rng.uniform(*BABBLE_PAUSES_S) * bank.rate), np.float32)
            utterance = pool.draw_next()
            held = np.concatenate([held, pause, bank.read(utterance.recording_id, *utterance.sound)])
        yield held[:BLOCK]
        held = held[BLOCK:]


def from_file(bank: Bank, noise: Noise, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """A file from a random position on, repeated endlessly, with a root mean square of 1."""
    at = int(rng.integers(noise.num_samples))
    while True:
        parts: list[np.ndarray] = []
        missing = BLOCK
        while missing:
            stop = min(noise.num_samples, at + missing)
            parts.append(bank.read(noise.recording_id, at, stop))
            missing -= stop - at
            at = stop % noise.num_samples
        yield np.concatenate(parts)
