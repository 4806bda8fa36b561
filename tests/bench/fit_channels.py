"""Measure how transmission channels shift speaker embeddings, and write `pipelines/stages/channels.npz`.

The tuning half of the voices of `tests/bench/judge.py` is sent through codecs, rooms, noise and pairs of these. The
mean shift of the embedding by each channel, over all voices, spans the directions that the diarizer removes.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import click
import numpy as np
from judge import voices_of
from sounds import ArraySound, have_recordings, recordings_or_packaged

from pipelines.simulate import beds
from pipelines.simulate.channels import band_passed, coded
from pipelines.simulate.rooms import drawn_room
from pipelines.simulate.settings import Settings
from pipelines.simulate.voices import side_of
from pipelines.stages.clustering import unit
from pipelines.stages.speakers import CHANNELS, DIMENSION, SpeakerEmbedding, features
from pipelines.stages.vad import Vad, VadConfig

RATE = 16000
PART_S = 2.5
PARTS = 6
DIRECTIONS = 4
CODECS = ("mulaw", "amr", "opus", "g722")
ROOMS = {"small": 2.0, "medium": 2.0, "large": 3.0}
"""Distance of the speaker in metres, by kind of room."""
Channel = Callable[[np.ndarray], np.ndarray]


def channels(rng: np.random.Generator) -> dict[str, Channel]:
    """Return functions that send sound, float32 (samples,) at 16 kHz, through each channel, by name."""

    def through(codec: str) -> Channel:
        return lambda sound: np.concatenate([block[0] for block in coded([sound[None]], RATE, codec)])

    def room(kind: str) -> Channel:
        def heard(sound: np.ndarray) -> np.ndarray:
            place = drawn_room([kind], rng)
            assert place is not None
            return np.convolve(sound, place.response(ROOMS[kind], RATE, rng))[: len(sound)]

        return heard

    def noise(snr_db: float) -> Channel:
        def noisy(sound: np.ndarray) -> np.ndarray:
            blocks, length = [], 0
            for block in beds.pink(rng):
                blocks.append(block)
                length += len(block)
                if length >= len(sound):
                    break
            level = np.sqrt(np.mean(sound**2)) * 10 ** (-snr_db / 20)
            return sound + level * np.concatenate(blocks)[: len(sound)]

        return noisy

    def both(first: Channel, then: Channel) -> Channel:
        return lambda sound: then(first(sound))

    single: dict[str, Channel] = {
        "none": lambda sound: sound,
        "below 3.9 kHz": lambda sound: np.concatenate(
            [block[0] for block in band_passed([sound[None]], RATE, (20.0, 3900.0))]
        ),
        **{name: through(name) for name in CODECS},
        **{f"{kind} room": room(kind) for kind in ROOMS},
        **{f"noise at {snr_db} dB": noise(snr_db) for snr_db in (20, 10)},
    }
    pairs = {f"{kind} room, {name}": both(room(kind), through(name)) for kind in ROOMS for name in CODECS[:3]}
    return {
        **single,
        **pairs,
        "noise, amr": both(noise(15), through("amr")),
        "noise, mulaw": both(noise(10), through("mulaw")),
        "small room, noise": both(room("small"), noise(15)),
        "medium room, noise, mulaw": both(both(room("medium"), noise(15)), through("mulaw")),
    }


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True), required=False)
@click.option(
    "--out", type=click.Path(path_type=Path),
    help=f"File to write; {CHANNELS.name} of the package, or none without the test recordings.",
)  # fmt: skip
def main(folder: Path | None, out: Path | None) -> None:
    """Measure channels on the voices in FOLDER, by default the test recordings, and write the directions to remove."""
    out = out or (CHANNELS if folder or have_recordings() else None)
    folder = folder or recordings_or_packaged()
    rng = np.random.default_rng(0)
    embedding = SpeakerEmbedding("cpu", 32, 1)
    embedding.compensate = lambda vectors: vectors  # type: ignore[assignment]  # its directions are measured here
    vad = Vad(VadConfig())
    vad.setup()
    settings = Settings(side="tuning")
    sent = channels(rng)
    means: list[np.ndarray] = []  # of each voice, (channels, dimension)
    voices = voices_of(folder)
    tuning = {voice: paths for voice, paths in voices.items() if side_of(voice, settings) == "tuning"}
    for voice, paths in sorted((tuning or voices).items()):
        sound = ArraySound.from_file(folder / paths[0])
        spans = [(row["start_s"], row["end_s"]) for row in vad.annotate(sound, {})["segments"] if row["track"] == 0]
        parts = [sound.samples[0, round(start * RATE) : round(end * RATE)] for start, end in spans]
        speech = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        length = round(PART_S * RATE)
        if len(speech) < length:
            print(f"{voice}: less than {PART_S} s of speech")
            continue
        speech = speech * (0.05 / np.sqrt(np.mean(speech**2)))
        by_channel = np.zeros((len(sent), DIMENSION))
        for number, channel in enumerate(sent.values()):
            heard = channel(speech).astype(np.float32)
            cut = [heard[start : start + length] for start in range(0, len(speech) - length + 1, length)][:PARTS]
            by_channel[number] = unit(embedding([features(part) for part in cut])).mean(axis=0)
        means.append(by_channel)
        print(f"{voice}: {len(speech) / RATE:.1f} s of speech", flush=True)
    by_voice = np.stack(means)
    shifts = (by_voice - by_voice.mean(axis=1, keepdims=True)).mean(axis=0)
    _, sizes, directions = np.linalg.svd(shifts, full_matrices=False)
    share = np.cumsum(sizes**2) / np.sum(sizes**2)
    for name, shift in zip(sent, shifts, strict=True):
        print(f"{name:<28} shifts embeddings by {np.linalg.norm(shift):.3f}")
    explained = share[DIRECTIONS - 1]
    print(f"{len(means)} voices, {len(sent)} channels; {DIRECTIONS} directions explain {explained:.2f} of the shifts")
    mean = by_voice.mean(axis=(0, 1))
    if out:
        np.savez(out, mean=mean.astype(np.float32), directions=directions[:DIRECTIONS].astype(np.float32))


if __name__ == "__main__":
    main()
