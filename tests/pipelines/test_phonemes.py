"""The stage `phonemes`: what real speech gives, gated by voice activity, apart by track, in bounded pieces."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sounds import ArraySound

from manifests import schemas
from pipelines.recipes.recipe import load
from pipelines.stages.phonemes import Phonemes, PhonemesConfig, groups, pieces
from pipelines.stages.vad import Vad
from runtime.errors import RecipeError


def stage(**settings: object) -> Phonemes:
    made = Phonemes(PhonemesConfig(**settings))  # type: ignore[arg-type]
    made.setup()
    return made


@pytest.fixture(scope="module")
def hama() -> Phonemes:
    return stage()


def annotated(stage: Phonemes, vad: Vad, sound: ArraySound) -> dict:
    return stage.annotate(sound, {"vad": vad.annotate(sound, {})})


def said(row: dict) -> str:
    return "".join(phone for stretch in row["stretches"] for phone in stretch["phones"])


def test_a_row_has_the_stretches_of_vad_with_phones_and_times(hama: Phonemes, vad: Vad, conversation: Path) -> None:
    sound = ArraySound.from_file(conversation)
    segments = vad.annotate(sound, {})["segments"]
    row = annotated(hama, vad, sound)
    assert [{name: s[name] for name in ("track", "start_s", "end_s")} for s in row["stretches"]] == segments
    assert row["phones"] == sum(len(stretch["phones"]) for stretch in row["stretches"]) > 100
    assert 5 < row["phones_per_s"] < 20
    for stretch in row["stretches"]:
        starts, ends = stretch["starts_ms"], stretch["ends_ms"]
        assert len(starts) == len(ends) == len(stretch["phones"])
        assert starts == sorted(starts)
        assert all(start <= end for start, end in zip(starts, ends, strict=True))
        assert all(1000 * stretch["start_s"] - 101 <= at <= 1000 * stretch["end_s"] + 101 for at in starts)
    kept = schemas.table([{"recording_id": "x", "status": "ok", **row}], schemas.PHONEMES).to_pylist()[0]
    assert kept["stretches"] == row["stretches"]


@pytest.mark.recordings
@pytest.mark.parametrize(
    ("name", "phones"),
    [
        # "Mister Quilter is the apostle of the middle classes, and we are glad to welcome his gospel."
        ("leopard/test.wav", "mɪstɚkwɪltɚɪzðiəpɑsələvðəmɪdəlklæsɪzændwiɑɹglædtəwɛlkəmhɪzgɑspəl"),
        # "And so, my fellow Americans, ask not what your country can do for you" (the first half of the recording)
        ("whisperkit/jfk_441khz.m4a", "ændsoʊmaɪfɛloʊəmɛɹɪkənzæsknɑtwʌtjʊɹkʌntɹikændufɔɹju"),
    ],
    ids=["read", "oration"],
)
def test_phones_are_those_of_what_is_said(hama: Phonemes, vad: Vad, recordings: Path, name: str, phones: str) -> None:
    from torchaudio.functional import edit_distance

    heard = said(annotated(hama, vad, ArraySound.from_file(recordings / name)))[: len(phones)]
    assert edit_distance(list(phones), list(heard)) / len(phones) < 0.35


@pytest.mark.recordings
@pytest.mark.parametrize("name", ["speechbrain/noise1.flac", "ina/silence2sec.wav"])
def test_no_speech_has_no_phones(hama: Phonemes, vad: Vad, recordings: Path, name: str) -> None:
    row = annotated(hama, vad, ArraySound.from_file(recordings / name))
    assert (row["phones"], row["phones_per_s"], row["stretches"]) == (0, None, [])


def test_what_is_heard_beside_speech_counts_nowhere(hama: Phonemes, vad: Vad, conversation: Path) -> None:
    """Two parts of one long stretch are said to be speech: what is spoken between them is heard, and not counted."""
    sound = ArraySound.from_file(conversation)
    longest = max(vad.annotate(sound, {})["segments"], key=lambda s: s["end_s"] - s["start_s"])
    start = longest["start_s"]
    parts = [{"track": 0, "start_s": start + first, "end_s": start + first + 1.5} for first in (0.0, 2.3)]
    row = hama.annotate(sound, {"vad": {"segments": parts}})
    assert row["phones"] > 10
    assert row["phones_outside"] > 0
    for part, stretch in zip(parts, row["stretches"], strict=True):
        assert all(part["start_s"] - 0.101 <= at / 1000 <= part["end_s"] + 0.101 for at in stretch["starts_ms"])


def test_tracks_are_heard_apart(hama: Phonemes, vad: Vad, conversation: Path) -> None:
    mono = ArraySound.from_file(conversation).samples[:, : 16000 * 12]
    silent = np.zeros_like(mono)
    row, turned = (annotated(hama, vad, ArraySound(np.concatenate(both))) for both in ([mono, silent], [silent, mono]))
    alone = annotated(hama, vad, ArraySound(mono))
    assert alone["phones"] > 20
    assert {stretch["track"] for stretch in row["stretches"]} == {0}
    assert {stretch["track"] for stretch in turned["stretches"]} == {1}
    assert [s | {"track": 0} for s in turned["stretches"]] == row["stretches"] == alone["stretches"]


def test_long_speech_is_heard_in_pieces_and_stays_one_stretch(hama: Phonemes, conversation: Path) -> None:
    sound = ArraySound.from_file(conversation)
    known = {"vad": {"segments": [{"track": 0, "start_s": 6.0, "end_s": 18.0}]}}
    whole, cut = (made.annotate(sound, known) for made in (stage(longest_s=60.0), stage(longest_s=5.0)))
    assert len(cut["stretches"]) == 1
    assert whole["phones"] == pytest.approx(cut["phones"], rel=0.1)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=3000),
    st.integers(100, 900),
    st.integers(0, 200),
    st.integers(0, 200),
)
def test_pieces_tile_what_is_heard(samples: list[float], longest: int, start: int, before_end: int) -> None:
    sound = ArraySound(np.array(samples, np.float32))
    sound.sample_rate = 1000
    stop = max(start, len(samples) - before_end)
    found = list(pieces(sound, 0, start, stop, longest))
    assert np.array_equal(np.concatenate([piece for _, piece in found]), sound.samples[0, start:stop])
    assert [first for first, _ in found] == [start + sum(len(p) for _, p in found[:n]) for n in range(len(found))]
    assert all(len(piece) <= longest for _, piece in found)
    assert all(len(piece) >= longest // 4 for _, piece in found[1:])


def test_a_long_stretch_is_cut_where_it_is_quiet() -> None:
    loud = np.random.default_rng(0).uniform(-1, 1, 30 * 16000).astype(np.float32)
    loud[16 * 16000 : 16 * 16000 + 3200] *= 0.01
    first, second = pieces(ArraySound(loud), 0, 0, len(loud), 20 * 16000)
    assert 16 * 16000 < second[0] < 16 * 16000 + 3200
    assert first[0] == 0


def test_stretches_that_a_short_pause_parts_are_heard_together() -> None:
    def spans(*times: tuple[float, float], track: int = 0) -> list[dict]:
        return [{"track": track, "start_s": start, "end_s": end} for start, end in times]

    segments = [*spans((0, 2), (2.5, 4), (7, 9), (9.2, 21), (21.1, 24)), *spans((3, 4), track=1)]
    found = groups(segments, pause_s=1.0, longest_s=15.0)
    assert [[s["start_s"] for s in group.segments] for group in found] == [[0, 2.5], [7, 9.2], [21.1], [3]]
    around = [(group.before_s, group.after_s) for group in found]
    assert around == [(0.25, 0.25), (0.25, pytest.approx(0.05)), (pytest.approx(0.05), 0.25), (0.25, 0.25)]
    alone = groups(segments, pause_s=0.0, longest_s=15.0)
    assert [(len(group.segments), group.before_s, group.after_s) for group in alone] == [(1, 0.0, 0.0)] * 6
    assert groups([], 1.0, 20.0) == []


@pytest.mark.recordings
def test_hearing_stretches_together_comes_closer_to_hearing_the_whole(vad: Vad, recordings: Path) -> None:
    sound = ArraySound.from_file(recordings / "whisperkit/jfk_441khz.m4a")
    whole = {"vad": {"segments": [{"track": 0, "start_s": 0.0, "end_s": sound.num_samples / 16000}]}}
    from torchaudio.functional import edit_distance

    apart, together = stage(pause_s=0.0), stage()
    reference = list(said(together.annotate(sound, whole)))
    far, near = (edit_distance(reference, list(said(annotated(made, vad, sound)))) for made in (apart, together))
    assert near < far


def test_settings_that_make_no_sense_are_told() -> None:
    for override, reason in {
        "annotate.phonemes={recogniser='whisper'}": "must be one of hama, pocketsphinx",
        "annotate.phonemes={recogniser='ctc'}": "model must be given for ctc",
        "annotate.phonemes={recogniser='espeak'}": "language must be given for espeak",
        "annotate.phonemes={language='en'}": "not taken by hama",
        "annotate.phonemes={recogniser='espeak',language='en -w x'}": "letters only",
        "annotate.phonemes={longest_s=900}": "longest_s",
        "annotate.phonemes={pause_s=-1}": "pause_s",
        "annotate.phonemes={device='cuda'}": "device must be cpu for hama",
    }.items():
        with pytest.raises(RecipeError, match=reason):
            load("phonemes", (override,))


def test_the_fingerprint_covers_the_recogniser_and_voice_activity_and_a_default_is_its_name() -> None:
    def mark(needs: str = "v", **settings: object) -> str:
        return Phonemes(PhonemesConfig(**settings)).fingerprint({"vad": needs})  # type: ignore[arg-type]

    assert mark() == mark(model="hama") == mark(device="auto")
    changed = [mark(), mark("w"), mark(longest_s=10.0), mark(pause_s=0.0), mark(recogniser="pocketsphinx")]
    assert len(set(changed)) == len(changed)


def test_a_recording_without_vad_rows_needs_it() -> None:
    assert Phonemes.needs == ("vad",)
    with pytest.raises(RecipeError, match="reads the segments of vad"):
        load("phonemes", ("annotate.vad.enabled=false",))
