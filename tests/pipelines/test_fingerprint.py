"""The stage `fingerprint`: landmarks of real speech that copies keep, whatever the blocks, tracks and edges."""

from pathlib import Path

import numpy as np
import pytest
from copies import COPIES
from sounds import ArraySound

from manifests import schemas
from pipelines.stages import landmarks as marks
from pipelines.stages.fingerprint import Fingerprint, FingerprintConfig
from pipelines.stages.landmarks import landmarks


@pytest.fixture(scope="module")
def speech(conversation: Path) -> ArraySound:
    return ArraySound.from_file(conversation)


def share_kept(sound: ArraySound, copy: ArraySound, speed: float, most: int = 16) -> float:
    """Share of the landmarks of a sound that a copy has within 40 ms, at most `most` bits apart."""
    times_ms, bits = landmarks(sound)
    own_ms, own_bits = landmarks(copy)
    near = np.abs(own_ms[None] * speed - times_ms[:, None]) <= 40
    return float((near & (np.bitwise_count(own_bits[None] ^ bits[:, None]) <= most)).any(axis=1).mean())


def test_a_row_has_a_few_landmarks_a_second_in_order(speech: ArraySound) -> None:
    row = Fingerprint(FingerprintConfig()).annotate(speech, {})
    assert 4 < row["landmark_count"] / (speech.num_samples / 16000) < 9
    assert row["times_ms"] == sorted(set(row["times_ms"]))
    assert all(0 <= bits < 2**63 for bits in row["landmarks"])
    kept = schemas.table([{"recording_id": "x", "status": "ok", **row}], schemas.FINGERPRINT).to_pylist()[0]
    assert kept["landmarks"] == row["landmarks"]


@pytest.mark.parametrize("name", COPIES)
def test_copies_keep_landmarks(speech: ArraySound, name: str) -> None:
    changed, speed = COPIES[name]
    least = 0.6 if "noise" in name or "compressed" in name else 0.85
    assert share_kept(speech, ArraySound(changed(speech.samples[0])), speed) >= least


def test_other_speech_keeps_none_and_a_mix_has_those_of_its_tracks(speech: ArraySound) -> None:
    first, second = np.array_split(speech.samples[0], 2)
    assert share_kept(ArraySound(first), ArraySound(second), 1.0) <= 0.02
    both = np.stack([first[: len(second)], second])
    assert landmarks(ArraySound(both))[1].tolist() == landmarks(ArraySound(both.mean(axis=0)))[1].tolist()


def test_blocks_leave_no_trace(speech: ArraySound, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [found.tolist() for found in landmarks(speech)]
    monkeypatch.setattr(marks, "BLOCK_FRAMES", 300)
    assert [found.tolist() for found in landmarks(speech)] == whole


@pytest.mark.parametrize("samples", [np.zeros((1, 0)), np.ones((1, 1)), np.zeros((2, 80_000)), np.full((1, 9000), 0.5)])
def test_silence_and_crumbs_have_none(samples: np.ndarray) -> None:
    times_ms, bits = landmarks(ArraySound(samples))
    assert len(times_ms) == len(bits) <= 2
    assert len(times_ms) == 0 or samples.any()


def test_a_cut_has_the_landmarks_of_its_place(speech: ArraySound) -> None:
    cut = ArraySound(speech.samples[:, 16000 * 10 + 77 : 16000 * 20 + 77])
    times_ms, bits = landmarks(speech)
    own_ms, own_bits = landmarks(cut)
    inside = (own_ms > 2500) & (own_ms < 7500)  # nearer to the edges there is other sound in the means of 2 s
    near = np.abs(times_ms[None] - own_ms[inside, None] - 10_005) <= 24
    close = np.bitwise_count(bits[None] ^ own_bits[inside, None]) <= 8
    assert (near & close).any(axis=1).mean() > 0.9
