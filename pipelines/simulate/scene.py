"""Scenes: everything that is drawn for a conversation except its utterances. It depends on its number and the seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.simulate.bank import Bank, Voice
from pipelines.simulate.beds import BABBLE_VOICES
from pipelines.simulate.rooms import DISTANCES_M, Room, drawn_room
from pipelines.simulate.settings import SIDES, Settings
from pipelines.simulate.turns import Schedule, schedule

LEVEL_LIMIT = 2.0
"""Levels of speakers are limited to this number of standard deviations."""


@dataclass(frozen=True)
class Speaker:
    """A speaker in a conversation."""

    voice: str
    share: float
    """Share of the speaking time, as drawn."""
    level_db: float
    """Level relative to the nominal level."""
    channel: int
    distance_m: float | None
    """Distance to the microphone; None if there is no room."""
    response: np.ndarray | None = dataclasses.field(repr=False, compare=False)
    """Impulse response from the position of the speaker, float32 (samples,)."""


@dataclass(frozen=True)
class Leak:
    """The leakage of one side of a telephone call into the other one."""

    below_db: float
    late_samples: int


@dataclass(frozen=True)
class Bed:
    """The background sound of each channel, with a seed for each channel."""

    kind: str
    snr_db: float
    seeds: tuple[int, ...]
    voices: tuple[Voice, ...] = ()
    """The voices of babble."""
    noise: int = 0
    """Index of the noise of the bank, for a bed of files."""


@dataclass(frozen=True)
class Scene:
    """One conversation without its utterances."""

    name: str
    number: int
    rate: int
    num_samples: int
    speakers: tuple[Speaker, ...]
    rooms: tuple[Room | None, ...]
    """The room of each channel."""
    codec: str
    bed: Bed
    leak: Leak | None

    @property
    def channels(self) -> int:
        return len(self.rooms)

    def as_dict(self, bank: Bank) -> dict[str, Any]:
        """The scene as values for JSON."""
        speakers = []
        for speaker in self.speakers:
            values = {name: getattr(speaker, name) for name in ("voice", "share", "level_db", "channel", "distance_m")}
            room = self.rooms[speaker.channel]
            far = room.direct_to_reverberant_db(speaker.distance_m) if room and speaker.distance_m else None
            speakers.append(values | {"direct_to_reverberant_db": far})
        bed = {
            "kind": self.bed.kind,
            "snr_db": None if self.bed.kind == "none" else self.bed.snr_db,
            "voices": [voice.name for voice in self.bed.voices],
            "recording_id": bank.noises[self.bed.noise].recording_id if self.bed.kind == "files" else None,
        }
        return {
            "name": self.name,
            "number": self.number,
            "sample_rate": self.rate,
            "num_samples": self.num_samples,
            "channels": self.channels,
            "speakers": speakers,
            "rooms": [room and dataclasses.asdict(room) for room in self.rooms],
            "codec": self.codec,
            "bed": bed,
            "leak": self.leak and {"below_db": self.leak.below_db, "late_s": self.leak.late_samples / self.rate},
        }


def conversation(settings: Settings, bank: Bank, number: int) -> tuple[Scene, Schedule]:
    """The conversation with a number. It depends on the settings and the bank, not on other conversations."""
    entropy = [settings.seed, SIDES.index(settings.side), number]
    for_scene, for_turns = map(np.random.default_rng, np.random.SeedSequence(entropy).spawn(2))
    scene = _scene(settings, bank, number, for_scene)
    by_name = {voice.name: voice.utterances for voice in bank.voices}
    turns = schedule(
        [speaker.share for speaker in scene.speakers],
        [by_name[speaker.voice] for speaker in scene.speakers],
        scene.num_samples,
        scene.rate,
        settings.turns,
        for_turns,
    )
    return scene, turns


def _scene(settings: Settings, bank: Bank, number: int, rng: np.random.Generator) -> Scene:
    num_samples = round(rng.uniform(*settings.minutes) * 60 * settings.rate)
    count = int(rng.integers(settings.speakers[0], settings.speakers[1] + 1))
    order = rng.permutation(len(bank.voices))
    voices = [bank.voices[place] for place in order]
    rooms = tuple(drawn_room(settings.rooms, rng) for _ in range(settings.channels))
    shares = rng.dirichlet([settings.turns.concentration] * count)
    speakers = []
    for place in range(count):
        channel = place % settings.channels
        level = float(np.clip(rng.normal(), -LEVEL_LIMIT, LEVEL_LIMIT)) * settings.level_spread_db
        room, distance_m, response = rooms[channel], None, None
        if room is not None:
            distance_m = round(float(rng.uniform(*DISTANCES_M)), 2)
            response = room.response(distance_m, settings.rate, rng)
        speakers.append(
            Speaker(voices[place].name, float(shares[place]), round(level, 2), channel, distance_m, response)
        )
    leak = None
    if settings.channels == 2:
        late = round(rng.uniform(*settings.leak_ms) / 1000 * settings.rate)
        leak = Leak(round(float(rng.uniform(*settings.leak_db)), 2), late)
    codec = str(rng.choice(settings.codecs))
    bed = _bed(settings, bank, voices[count:], rng)
    name = f"{settings.side}-{settings.seed}-{number:06d}"
    return Scene(name, number, settings.rate, num_samples, tuple(speakers), rooms, codec, bed, leak)


def _bed(settings: Settings, bank: Bank, others: list[Voice], rng: np.random.Generator) -> Bed:
    kind = str(rng.choice(settings.beds))
    snr_db = round(float(rng.uniform(*settings.snr_db)), 2)
    seeds = tuple(int(seed) for seed in rng.integers(2**63, size=settings.channels))
    noise = int(rng.integers(max(1, len(bank.noises))))
    return Bed(kind, snr_db, seeds, tuple(others[:BABBLE_VOICES]) if kind == "babble" else (), noise)
