"""Mixing: the sound of a conversation in blocks, from placed utterances through rooms, leakage, beds and codecs.

Memory is bounded by the longest utterance and its reverberation, however long the conversation is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipelines.audio.resample import rechunk
from pipelines.simulate.bank import Bank
from pipelines.simulate.beds import BLOCK, babble, from_file, pink
from pipelines.simulate.channels import coded
from pipelines.simulate.scene import Scene
from pipelines.simulate.turns import Placed

LEVEL_DB = -26.0
"""Nominal level of speech in dB of full scale, by ITU-T P.56; the levels of speakers are relative to it."""
FADE_S = 0.02
"""Length in seconds of the fade at the end of speech that is broken off."""


def mixed(scene: Scene, placed: Sequence[Placed], bank: Bank) -> Iterator[np.ndarray]:
    """The sound of a conversation in blocks, float32 (channels, samples), with a full scale of 1 and not clipped."""
    own = [itertools.tee(speech_of(scene, placed, bank, channel), scene.channels) for channel in range(scene.channels)]
    channels = []
    for channel in range(scene.channels):
        sound = own[channel][0]
        if scene.leak is not None:
            sound = _leaking(sound, own[1 - channel][1], scene)
        sound = _over_bed(sound, scene, channel, bank)
        if scene.codec != "none":
            rows = coded((block[None] for block in sound), scene.rate, scene.codec)
            sound = (block[0] for block in rechunk(rows, BLOCK))
        channels.append(sound)
    return map(np.stack, zip(*channels, strict=True))


def speech_of(scene: Scene, placed: Sequence[Placed], bank: Bank, channel: int) -> Iterator[np.ndarray]:
    """The speech of a channel in its room, before leakage, bed and codec, in blocks of float32 (samples,)."""
    own_speech = [one for one in placed if scene.speakers[one.speaker].channel == channel]
    own_speech.sort(key=lambda one: one.sound_start)
    return overlap_added(((one.sound_start, at_microphone(scene, one, bank)) for one in own_speech), scene.num_samples)


def bed_of(scene: Scene, channel: int, bank: Bank) -> Iterator[np.ndarray] | None:
    """The endless bed of a channel at its level, in blocks of float32 (BLOCK,); None if there is none."""
    bed, rng = scene.bed, np.random.default_rng(scene.bed.seeds[channel])
    if bed.kind == "none":
        return None
    if bed.kind == "pink":
        blocks = pink(rng)
    elif bed.kind == "babble":
        blocks = babble(bank, bed.voices, rng)
    else:
        blocks = from_file(bank, bank.noises[bed.noise], rng)
    level = np.float32(gain(LEVEL_DB - bed.snr_db))
    return (level * block for block in blocks)


def at_microphone(scene: Scene, placed: Placed, bank: Bank) -> np.ndarray:
    """An utterance at the microphone, with its reverberation, float32 (samples,)."""
    from scipy.signal import fftconvolve

    speaker = scene.speakers[placed.speaker]
    start, stop = placed.sound
    dry = bank.read(placed.utterance.recording_id, start, stop) * np.float32(gain(LEVEL_DB + speaker.level_db))
    if placed.broken_off:
        fade = min(len(dry), round(FADE_S * scene.rate))
        dry[len(dry) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    if speaker.response is None:
        return dry
    wet: np.ndarray = fftconvolve(dry, speaker.response)
    return wet.astype(np.float32)


def overlap_added(events: Iterable[tuple[int, np.ndarray]], num_samples: int) -> Iterator[np.ndarray]:
    """Add sounds (samples,) that begin at given samples, and yield the sum in blocks, `num_samples` in total.

    Events must be in order of their starts. Each is computed when its block is made. Sound beyond the end is cut off.
    """
    pending = np.zeros(BLOCK, np.float32)
    waiting = iter(events)
    upcoming = next(waiting, None)
    for first in range(0, num_samples, BLOCK):
        while upcoming is not None and upcoming[0] < first + BLOCK:
            at, sound = upcoming[0] - first, upcoming[1]
            if at + len(sound) > len(pending):
                pending = np.pad(pending, (0, at + len(sound) - len(pending)))
            pending[at : at + len(sound)] += sound
            upcoming = next(waiting, None)
        yield pending[: min(BLOCK, num_samples - first)]
        pending = pending[BLOCK:].copy()
        if len(pending) < BLOCK:
            pending = np.pad(pending, (0, BLOCK - len(pending)))


def gain(db: float) -> float:
    """The factor of amplitude for a level in dB."""
    return float(10 ** (db / 20))


def _leaking(own: Iterator[np.ndarray], other: Iterator[np.ndarray], scene: Scene) -> Iterator[np.ndarray]:
    """One side of a call, with the other side added at a lower level and with a delay."""
    assert scene.leak is not None
    level, held = np.float32(gain(-scene.leak.below_db)), np.zeros(scene.leak.late_samples, np.float32)
    for block, leaking in zip(own, other, strict=True):
        held = np.concatenate([held, leaking])
        yield block + level * held[: len(block)]
        held = held[len(block) :]


def _over_bed(speech: Iterator[np.ndarray], scene: Scene, channel: int, bank: Bank) -> Iterator[np.ndarray]:
    bed = bed_of(scene, channel, bank)
    if bed is None:
        yield from speech
        return
    for block, under in zip(speech, bed, strict=False):  # the bed is endless
        yield block + under[: len(block)]
