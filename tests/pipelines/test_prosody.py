"""The stage `prosody` on sound whose pitch, rate and pauses are set, and on a real conversation."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyannote.database.util import load_rttm
from scipy.signal import butter, lfilter, sosfilt
from sounds import ArraySound

from manifests import schemas
from pipelines.recipes.recipe import load
from pipelines.stages.base import Row
from pipelines.stages.pitch import FRAME_S, Frames, PitchTracker
from pipelines.stages.prosody import NAMES, Prosody, ProsodyConfig, covered, of_pitch, speakers
from pipelines.stages.vad import Vad
from runtime.errors import RecipeError

RATE = 16000
FORMANTS = {
    "a": ((700, 80), (1220, 90), (2600, 120)),
    "i": ((300, 60), (2300, 100), (3000, 120)),
    "u": ((320, 60), (800, 80), (2400, 120)),
}


def stage(**settings: object) -> Prosody:
    made = Prosody(ProsodyConfig(**({"speakers": False} | settings)))  # type: ignore[arg-type]
    made.setup()
    return made


@pytest.fixture(scope="module")
def prosody() -> Prosody:
    return stage()


def vowel(pitch_hz: np.ndarray, name: str = "a") -> np.ndarray:
    """Pulses of a glottis, one a period of the pitch at each sample, through the formants of a vowel."""
    sound = np.diff(np.floor(np.cumsum(pitch_hz / RATE)), prepend=0)
    sound = lfilter([1, -1], [1, -1.965, 0.96515], sound)
    for hz, width_hz in FORMANTS[name]:
        r = math.exp(-math.pi * width_hz / RATE)
        sound = lfilter([1 - r], [1, -2 * r * math.cos(2 * math.pi * hz / RATE), r * r], sound)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def contour(median_hz: float, sd_semitones: float, seconds: float) -> np.ndarray:
    """Pitch that rises and falls like a sine."""
    times = np.arange(round(seconds * RATE)) / RATE
    return median_hz * 2 ** (math.sqrt(2) * sd_semitones * np.sin(2 * math.pi * 0.7 * times) / 12)


def syllables(per_s: float, seconds: float) -> np.ndarray:
    """A vowel that swells and fades `per_s` times a second, by 20 dB."""
    times = np.arange(round(seconds * RATE)) / RATE
    return vowel(contour(140, 1, seconds)) * (0.55 - 0.45 * np.cos(2 * math.pi * per_s * times)).astype(np.float32)


def known(*segments: tuple[int, float, float], turns: tuple[tuple[str, int, float, float], ...] = ()) -> dict[str, Row]:
    names = ("speaker", "track", "start_s", "end_s")
    return {
        "vad": {"segments": [dict(zip(names[1:], segment, strict=True)) for segment in segments]},
        "diarize": {"turns": [dict(zip(names, turn, strict=True)) for turn in turns]},
    }


def checked(row: Row) -> Row:
    """What holds of every row."""
    told = schemas.table([{"recording_id": "r", "status": "ok", **row}], schemas.PROSODY).to_pylist()[0]
    assert json.loads(json.dumps(row)) == {name: told[name] for name in row}
    assert sum(voice["alone_s"] for voice in row["voices"]) == pytest.approx(row["alone_s"], abs=1e-5)
    return row


@pytest.mark.parametrize("median_hz", [65, 110, 210, 400])
@pytest.mark.parametrize("band", [None, (300, 3400)])
def test_pitch_is_that_which_was_set_through_a_telephone_too(
    prosody: Prosody, median_hz: float, band: tuple[float, float] | None
) -> None:
    samples = np.concatenate([vowel(contour(median_hz, 2, 4.3), name) for name in FORMANTS])
    if band:
        samples = sosfilt(butter(4, band, "bandpass", fs=RATE, output="sos"), samples)
    row = checked(prosody.annotate(ArraySound(samples), known((0, 0.0, 12.9))))
    assert row["pitch_median_hz"] == pytest.approx(median_hz, rel=0.03)
    assert row["pitch_sd_semitones"] == pytest.approx(2, rel=0.1)
    assert row["pitch_range_semitones"] == pytest.approx(2 * 2 * math.sqrt(2) * math.sin(0.45 * math.pi), rel=0.06)
    assert row["voiced_share"] > 0.97


def test_octave_errors_do_not_widen_the_range() -> None:
    pitch = contour(110, 2, 4)[::256]
    wrong = np.concatenate([pitch, pitch[:8] / 2, pitch[:8] * 4])
    assert of_pitch(wrong)["pitch_sd_semitones"] == pytest.approx(of_pitch(pitch)["pitch_sd_semitones"])
    assert of_pitch(pitch[:60]) == {}


@pytest.mark.parametrize("per_s", [2.5, 4.0, 6.0])
def test_the_rate_is_that_of_the_syllables(prosody: Prosody, per_s: float) -> None:
    row = checked(prosody.annotate(ArraySound(syllables(per_s, 10)), known((0, 0.0, 10.0))))
    assert row["syllables_per_s"] == pytest.approx(per_s, rel=0.06)
    noise = 0.05 * np.random.default_rng(0).normal(size=10 * RATE)
    assert prosody.annotate(ArraySound(noise), known((0, 0.0, 10.0)))["syllables_per_s"] < 0.3  # nothing is voiced


def test_each_speaker_is_measured_where_nobody_else_is_heard() -> None:
    low, high = vowel(contour(100, 1, 8)), vowel(contour(220, 3, 8), "i")
    samples = np.concatenate([low, high])
    samples[6 * RATE : 8 * RATE] += high[: 2 * RATE]
    turns = (("A", 0, 0.0, 8.0), ("B", 0, 6.0, 16.0))
    told = stage(speakers=True).annotate(ArraySound(samples), known((0, 0.0, 16.0), turns=turns))
    a, b = checked(told)["voices"]
    assert (a["speaker"], a["alone_s"], b["speaker"], b["alone_s"]) == ("A", 6.0, "B", 8.0)
    assert a["pitch_median_hz"] == pytest.approx(100, rel=0.03)
    assert b["pitch_median_hz"] == pytest.approx(220, rel=0.05)
    assert told["pitch_sd_semitones"] == pytest.approx(1 * 6 / 14 + 3 * 8 / 14, rel=0.1)


def test_tracks_are_measured_apart_where_nobody_diarizes(prosody: Prosody) -> None:
    samples = np.stack([vowel(contour(100, 1, 8)), vowel(contour(200, 1, 8))])
    told = checked(prosody.annotate(ArraySound(samples), known((0, 0.0, 5.0), (1, 4.0, 8.0))))
    first, second = told["voices"]
    assert (first["track"], first["alone_s"], second["track"], second["alone_s"]) == (0, 4.0, 1, 3.0)
    assert first["pitch_median_hz"] == pytest.approx(100, rel=0.03)
    assert second["pitch_median_hz"] == pytest.approx(200, rel=0.03)


def test_pauses_are_silences_of_one_speaker_that_nobody_fills() -> None:
    """Of A 0.5 and 1 s; a gap of 0.1 s is too short, one of 5 s too long, and in one of them B speaks."""
    spans = [(0.0, 3.0), (3.5, 5.0), (5.1, 6.0), (7.0, 8.0), (13.0, 14.0), (16.0, 17.0)]
    turns = (*(("A", 0, *span) for span in spans), ("B", 0, 14.5, 15.5))
    told = known(*((0, *span) for span in [*spans, (14.5, 15.5)]), turns=turns)
    row = stage(speakers=True).annotate(ArraySound(vowel(contour(100, 1, 17))), told)
    a, b = checked(row)["voices"]
    speech_s = 8.4
    assert a["alone_s"] == pytest.approx(speech_s)
    assert a["pause_median_s"] == pytest.approx(0.75)
    assert a["pause_share"] == pytest.approx(1.5 / (speech_s + 1.5), abs=1e-6)
    assert a["pauses_per_min"] == pytest.approx(2 * 60 / (speech_s + 1.5), abs=1e-5)
    assert {name: b[name] for name in NAMES} == dict.fromkeys(NAMES)  # one second is too little


def test_the_range_of_loudness_is_that_of_the_levels(prosody: Prosody) -> None:
    samples = vowel(contour(120, 0.1, 12))
    samples[: 6 * RATE] *= 10 ** (-12 / 20)
    row = prosody.annotate(ArraySound(samples), known((0, 0.0, 12.0)))
    assert row["loudness_range_lu"] == pytest.approx(12, abs=1.0)
    assert prosody.annotate(ArraySound(samples[6 * RATE :]), known((0, 0.0, 6.0)))["loudness_range_lu"] < 1.5
    softer = prosody.annotate(ArraySound(0.1 * samples), known((0, 0.0, 12.0)))
    assert softer["loudness_range_lu"] == pytest.approx(row["loudness_range_lu"], abs=0.05)
    assert softer["pitch_median_hz"] == pytest.approx(row["pitch_median_hz"], rel=0.01)


def test_without_speech_or_sound_there_is_nothing_to_tell(prosody: Prosody) -> None:
    row = checked(prosody.annotate(ArraySound(np.zeros((2, RATE))), known()))
    assert row == {"voices": [], "alone_s": 0, **dict.fromkeys(NAMES)}
    silent = checked(prosody.annotate(ArraySound(np.zeros(5 * RATE)), known((0, 0.0, 5.0))))
    assert (silent["voiced_share"], silent["pitch_median_hz"], silent["syllables_per_s"]) == (0, None, 0)


@pytest.fixture(scope="module")
def heard(vad: Vad, conversation: Path) -> tuple[ArraySound, dict[str, Row]]:
    """A real conversation with its reference turns."""
    sound = ArraySound.from_file(conversation)
    (reference,) = load_rttm(conversation.with_suffix(".rttm")).values()
    turns = [(label, 0, span.start, span.end) for span, _, label in reference.itertracks(yield_label=True)]
    return sound, known(turns=tuple(turns)) | {"vad": vad.annotate(sound, {})}


def test_a_real_conversation(heard: tuple[ArraySound, dict[str, Row]]) -> None:
    sound, rows = heard
    made = stage(speakers=True)
    row = checked(made.annotate(sound, rows))
    assert len(row["voices"]) == 2
    for voice in row["voices"]:
        assert voice["alone_s"] > 3
        assert 70 < voice["pitch_median_hz"] < 300
        assert 0.5 < voice["pitch_sd_semitones"] < 6
        assert 2 < voice["syllables_per_s"] < 7
        assert 0.3 < voice["voiced_share"] < 0.95
        assert 3 < voice["loudness_range_lu"] < 25
    assert made.annotate(sound, rows) == row


def test_chunks_change_next_to_nothing_and_are_heard_by_themselves(heard: tuple[ArraySound, dict[str, Row]]) -> None:
    sound, rows = heard
    whole, parts = stage(speakers=True), stage(speakers=True, chunk_s=10.0)
    spans = parts.chunks(sound, rows)
    assert len(spans) > 1

    class Alone(ArraySound):
        """Only what lies in one chunk can be read."""

        def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
            assert span[0] * RATE - 1 < start < (stop or 0) < span[1] * RATE + 1
            return super().read(start, stop)

    told = []
    for span in spans:
        told.append(json.loads(json.dumps(parts.annotate_chunk(Alone(sound.samples), rows, span))))
    row, expected = parts.join(sound, rows, told), whole.annotate(sound, rows)
    assert row["alone_s"] == expected["alone_s"]
    for name in NAMES:
        assert row[name] == (expected[name] and pytest.approx(expected[name], rel=0.03)), name


def test_windows_of_the_network_leave_no_seam() -> None:
    tracker = PitchTracker("swift-f0", 50, 600, 0.5)
    samples = vowel(contour(130, 2, 65))
    found = tracker.frames(samples, 0.0)
    assert len(found.pitch_hz) == len(samples) // 256
    around = tracker.frames(samples[256 * 1800 : 256 * 1960], 0.0).pitch_hz  # across the edge at 1,875 frames
    assert around[20:-20] == pytest.approx(found.pitch_hz[1820:1940], rel=1e-3)
    packed = Frames.unpacked(0.0, found.packed())
    assert packed.pitch_hz == pytest.approx(found.pitch_hz, rel=5e-4, nan_ok=True)
    assert packed.level_lu == pytest.approx(found.level_lu, abs=0.006)


def test_frames_of_spans() -> None:
    mine = covered([(0.5, 1.0), (2.0, 2.5)], 0.2, round(2 / FRAME_S))
    assert mine.sum() * FRAME_S == pytest.approx(0.7, abs=2 * FRAME_S)
    assert not covered([], 0.0, 4).any()


def test_turns_count_only_where_there_is_speech() -> None:
    told = known((0, 1.0, 2.0), (0, 3.0, 5.0), turns=(("A", 0, 0.0, 4.0), ("B", 0, 3.5, 9.0)))
    a, b = speakers(told, apart=True)
    assert (a.speech, a.alone) == ([(1.0, 2.0), (3.0, 4.0)], [(1.0, 2.0), (3.0, 3.5)])
    assert (b.speech, b.alone) == ([(3.5, 5.0)], [(4.0, 5.0)])


def test_speakers_are_told_apart_where_the_recipe_diarizes() -> None:
    assert Prosody(load("prosody").stages["prosody"]).needs == ("vad", "diarize")
    alone = load("prosody", ("annotate.diarize.enabled=false",)).stages["prosody"]
    assert Prosody(alone).needs == ("vad",)
    with pytest.raises(RecipeError, match="reads the turns of diarize"):
        load("phonemes", ("annotate.prosody={speakers=true}",))
    rules = ("annotate.prosody={}", "select.recordings.lively=pitch_sd_semitones >= 1 and syllables_per_s >= 3")
    assert "prosody" in load("demo", rules).stages
    with pytest.raises(RecipeError, match="which the stage prosody measures"):
        load("demo", rules[1:])


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"pitch_floor_hz": 30}, "pitch_floor_hz"),
        ({"pitch_ceiling_hz": 60}, "pitch_ceiling_hz"),
        ({"confidence": 1.5}, "confidence"),
        ({"chunk_s": 1}, "chunk_s"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        ProsodyConfig(**settings)
