"""Languages of real recordings, of one language and of several; windows that stand for all speech; little speech."""

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sounds import ArraySound

from manifests import schemas
from pipelines.stages import prior
from pipelines.stages.language import Language, LanguageConfig, Window, cut_up, place_windows
from pipelines.stages.vad import Vad
from runtime.errors import SpeechmillError

FILES = {
    "watson/de-DE_NarrowbandModel_sample1.wav": "de",
    "watson/fr-FR_Narrowband_sample1.wav": "fr",
    "watson/ja-JP_Broadband_sample1.wav": "ja",
    "watson/ar-AR_Broadband_sample1.wav": "ar",
    "whisperkit/jfk_441khz.m4a": "en",
}


@pytest.fixture(scope="module")
def stage() -> Language:
    made = Language(LanguageConfig())
    made.setup()
    return made


def annotated(stage: Language, vad: Vad, sound: ArraySound) -> dict:
    return stage.annotate(sound, {"vad": vad.annotate(sound, {})})


def speech(*spans: tuple[int, float, float]) -> dict[str, dict]:
    return {"vad": {"segments": [{"track": t, "start_s": start, "end_s": end} for t, start, end in spans]}}


@pytest.mark.recordings
@pytest.mark.parametrize(("name", "language"), FILES.items())
def test_real_recordings_have_their_language(
    recordings: Path, stage: Language, vad: Vad, name: str, language: str
) -> None:
    row = annotated(stage, vad, ArraySound.from_file(recordings / name))
    assert row["language"] == language
    assert row["language_shares"] == {language: 1.0}
    (track,) = row["track_languages"]
    assert track["language"] == language
    assert track["shares"] == {language: 1.0}
    assert track["speech_s"] == pytest.approx(sum(vote["speech_s"] for vote in row["votes"]))
    mean = sum(vote["probability"] * vote["speech_s"] for vote in row["votes"]) / track["speech_s"]
    assert row["language_confidence"] == pytest.approx(mean)
    assert row["language_confidence"] > 0.5


@pytest.mark.recordings
def test_english_of_britain_is_not_welsh(recordings: Path, stage: Language, vad: Vad) -> None:
    row = annotated(stage, vad, ArraySound.from_file(recordings / "watson/en-GB_Broadband_sample1.wav"))
    assert row["language_shares"] == {"en": 1.0}


@pytest.mark.recordings
def test_languages_that_alternate_have_their_shares(recordings: Path, stage: Language, vad: Vad) -> None:
    """English, Spanish, English, Spanish, English: stretches of 6 to 10 s of two speakers, by turns on one track."""
    english = ArraySound.from_file(recordings / "watson/en-US_Broadband_sample1.flac").samples[0]
    spanish = ArraySound.from_file(recordings / "watson/es-ES_Broadband_sample1.flac").samples[0]
    stretches = [("en", english, 0, 10), ("es", spanish, 0, 8), ("en", english, 12, 21), ("es", spanish, 12, 18),
                 ("en", english, 25, 35)]  # fmt: skip
    pause = np.zeros(8000, np.float32)
    parts, edges, at_s = [], [], 0.0
    for language, sound, start, end in stretches:
        level = np.sqrt(np.mean(np.square(sound))) / 0.05
        parts += [sound[start * 16000 : end * 16000] / level, pause]
        edges.append((language, at_s, at_s + end - start + 0.5))
        at_s = edges[-1][2]
    sound = ArraySound(np.concatenate(parts))
    heard = vad.annotate(sound, {})
    said = {"en": 0.0, "es": 0.0}
    for segment in heard["segments"]:
        for language, start, end in edges:
            said[language] += max(0.0, min(end, segment["end_s"]) - max(start, segment["start_s"]))
    row = stage.annotate(sound, {"vad": heard})
    assert row["language_shares"].keys() == said.keys()
    assert row["language_shares"]["es"] == pytest.approx(said["es"] / sum(said.values()), abs=0.1)
    languages = [language for language, _ in itertools.groupby(vote["language"] for vote in row["votes"])]
    assert languages == ["en", "es", "en", "es", "en"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper model of random weights as transformers saves it, which tells four languages."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=20, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.3, num_mel_bins=80,
            decoder_start_token_id=3, pad_token_id=0, bos_token_id=0, eos_token_id=0, suppress_tokens=[],
            begin_suppress_tokens=[],
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    generation["lang_to_id"] = {"<|en|>": 4, "<|de|>": 5, "<|fr|>": 6, "<|jw|>": 7}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def test_a_model_of_transformers_tells_what_the_library_tells(tiny: Path, conversation: Path) -> None:
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    speech = ArraySound.from_file(conversation).samples[0]
    windows = [speech[: 28 * 16000], speech[16000 : 5 * 16000], speech[8 * 16000 : 20 * 16000]]
    model = WhisperForConditionalGeneration.from_pretrained(tiny).eval()
    model.generation_config.lang_to_id = {"<|en|>": 4, "<|de|>": 5, "<|fr|>": 6, "<|jw|>": 7}
    found = []
    for batch_size in (1, 3):
        stage = Language(LanguageConfig(model=str(tiny), batch_size=batch_size))
        stage.setup()
        found.append(stage.probabilities(windows))
    for one, other, window in zip(*found, windows, strict=True):
        assert list(one) == ["en", "de", "fr", "jv"]
        assert sum(one.values()) == pytest.approx(1)
        assert one == pytest.approx(other, abs=1e-5)
        features = WhisperFeatureExtractor.from_pretrained(tiny)(window, sampling_rate=16000, return_tensors="pt")
        token = int(model.detect_language(features.input_features)[0])
        assert max(one, key=one.__getitem__) == ["en", "de", "fr", "jv"][token - 4]
    assert found[0][0] != pytest.approx(found[0][1], abs=1e-4)


def test_a_model_of_transformers_hears_short_windows_without_the_silence_after_them(
    tiny: Path, conversation: Path
) -> None:
    """As a model of that context with the same weights does."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    speech = ArraySound.from_file(conversation).samples[0]
    stage = Language(LanguageConfig(model=str(tiny)))
    stage.setup()
    short = speech[16000 : 11 * 16000]
    (found,) = stage.probabilities([short], 10.0)
    (whole,) = stage.probabilities([short])
    (again,) = stage.probabilities([short], 10.0)
    assert found == again
    assert found != pytest.approx(whole, abs=1e-4)
    weights = WhisperForConditionalGeneration.from_pretrained(tiny).state_dict()
    weights["model.encoder.embed_positions.weight"] = weights["model.encoder.embed_positions.weight"][:550]
    config = WhisperForConditionalGeneration.config_class.from_pretrained(tiny, max_source_positions=550)
    model = WhisperForConditionalGeneration(config).eval()
    model.load_state_dict(weights)
    features = WhisperFeatureExtractor.from_pretrained(tiny)(short, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        start = torch.full((1, 1), 3)
        logits = model(input_features=features.input_features[:, :, :1100], decoder_input_ids=start).logits[0, -1]
    assert list(found.values()) == pytest.approx(logits[[4, 5, 6, 7]].softmax(-1).tolist(), abs=1e-5)


def test_a_model_of_one_language_is_refused(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "english")
    (tmp_path / "english/generation_config.json").unlink()
    with pytest.raises(SpeechmillError, match="detects no languages"):
        Language(LanguageConfig(model=str(tmp_path / "english"))).setup()


def test_arithmetic_that_transformers_does_not_know_is_told(tiny: Path) -> None:
    with pytest.raises(SpeechmillError, match="'int8' is not known to transformers"):
        Language(LanguageConfig(model=str(tiny), compute_type="int8")).setup()


@pytest.mark.recordings
def test_two_languages_share_a_recording_by_their_speech(recordings: Path, vad: Vad) -> None:
    parts = [ArraySound.from_file(recordings / name) for name in list(FILES)[:2]]
    sound = ArraySound(np.stack([np.pad(p.samples[0], (0, 16000 * 30 - p.num_samples)) for p in parts]))
    stage = Language(LanguageConfig(max_windows=2))
    stage.setup()
    heard = vad.annotate(sound, {})
    row = stage.annotate(sound, {"vad": heard})
    german_s, french_s = heard["speech_per_track_s"]
    assert german_s > french_s > 0
    assert row["language"] == "de"
    assert row["language_shares"] == pytest.approx(
        {"de": german_s / (german_s + french_s), "fr": french_s / (german_s + french_s)}
    )
    assert {(vote["track"], vote["language"]) for vote in row["votes"]} == {(0, "de"), (1, "fr")}
    assert [(track["track"], track["language"], track["shares"]) for track in row["track_languages"]] == [
        (0, "de", {"de": 1.0}),
        (1, "fr", {"fr": 1.0}),
    ]
    # Of the windows that voted for another language, too, the winner's probability counts.
    assert row["language_confidence"] < row["votes"][0]["probability"]
    table = schemas.table([{"recording_id": "r", "status": "ok", **row}], schemas.LANGUAGE)
    (read,) = table.to_pylist(maps_as_pydicts="strict")
    assert read["language_shares"] == pytest.approx(row["language_shares"])
    assert read["track_languages"] == row["track_languages"]


def test_the_same_sound_gives_the_same_row(stage: Language, vad: Vad, conversation: Path) -> None:
    sound = ArraySound.from_file(conversation)
    row = annotated(stage, vad, sound)
    assert row["language"] == "en"
    assert annotated(stage, vad, sound) == row


def test_the_choice_can_be_restricted(vad: Vad, conversation: Path) -> None:
    stage = Language(LanguageConfig(languages=["fr", "de"]))
    stage.setup()
    sound = ArraySound.from_file(conversation)
    assert annotated(stage, vad, sound)["language"] in ("fr", "de")
    assert sum(stage.probabilities([sound.samples[0]])[0].values()) == pytest.approx(1)


def test_codes_are_iso_639_1(stage: Language, conversation: Path) -> None:
    (found,) = stage.probabilities([ArraySound.from_file(conversation).samples[0]])
    assert "jv" in found
    assert "jw" not in found
    assert sum(found.values()) == pytest.approx(1, abs=1e-3)


def test_no_speech_has_no_language(stage: Language) -> None:
    nothing = {"language": None, "language_confidence": None, "language_shares": {}, "track_languages": [], "votes": []}
    silence = ArraySound(np.zeros((2, 32000)))
    assert stage.annotate(silence, speech()) == nothing
    assert stage.annotate(silence, speech((0, 0.0, 0.4), (1, 1.0, 1.4))) == nothing


def test_a_quarter_second_of_speech_on_a_track_votes(stage: Language, conversation: Path) -> None:
    mono = ArraySound.from_file(conversation).samples[0]
    row = stage.annotate(ArraySound(np.stack([mono, mono])), speech((0, 7.0, 20.0), (1, 8.0, 8.25)))
    assert [track["speech_s"] for track in row["track_languages"]] == pytest.approx([13.0, 0.25])
    assert row["votes"][-1]["speech_s"] == pytest.approx(0.25)
    assert row["language_shares"]["en"] >= 13 / 13.25


SEGMENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 600_000), st.integers(0, 200_000)), min_size=1, max_size=30
)


@given(SEGMENTS, st.integers(1, 12), st.sampled_from([1.0, 7.5, 30.0]))
def test_windows_stand_for_every_second_of_speech_once(
    drawn: list[tuple[int, int, int]], max_windows: int, window_s: float
) -> None:
    clock = dict.fromkeys(range(4), 0)
    segments = []
    for track, length, pause in drawn:
        start = clock[track] + pause
        clock[track] = start + length
        segments.append({"track": track, "start_s": start / 16000, "end_s": clock[track] / 16000})
    windows = place_windows(segments, max_windows, window_s)
    tracks = {segment["track"] for segment in segments}
    for track in tracks:
        mine = [window for window in windows if window.track == track]
        total_s = sum(s["end_s"] - s["start_s"] for s in segments if s["track"] == track)
        assert math.fsum(window.speech_s for window in mine) == pytest.approx(total_s)
        spans = [span for window in mine for span in window.spans]
        assert spans == sorted(spans)
        assert all(before[1] <= after[0] + 1e-9 for before, after in itertools.pairwise(spans))
        for window in mine:
            assert 0 < window.length_s <= min(window_s, window.speech_s) + 1e-6
            for start, end in window.spans:
                assert any(
                    s["track"] == track and s["start_s"] - 1e-9 <= start < end <= s["end_s"] + 1e-9 for s in segments
                )
            parts = cut_up(window, window_s / 2)
            assert [part.track for part in parts] == [track] * len(parts)
            assert math.fsum(part.length_s for part in parts) == pytest.approx(window.length_s)
            assert math.fsum(part.speech_s for part in parts) == pytest.approx(window.speech_s)
            assert max(part.length_s for part in parts) <= window_s / 2 + 1e-6
    assert len(windows) <= max(max_windows, len(tracks))
    if len(windows) < max_windows:  # all is heard
        assert all(window.length_s == pytest.approx(window.speech_s) for window in windows)


def test_windows_are_spread_over_the_speech_and_not_the_clock() -> None:
    """A minute of speech, an hour of silence, a minute of speech: two windows in each."""
    segments = [{"track": 0, "start_s": start, "end_s": start + 60.0} for start in (0.0, 3660.0)]
    windows = place_windows(segments, max_windows=4, window_s=20.0)
    assert [window.spans for window in windows] == [((start, start + 20.0),) for start in (0.0, 40.0, 3660.0, 3700.0)]
    assert [window.speech_s for window in windows] == [20.0, 40.0, 20.0, 40.0]


def test_windows_begin_and_end_at_pauses() -> None:
    segments = [{"track": 0, "start_s": start, "end_s": start + 4.0} for start in (0.0, 5.0, 10.0)]
    windows = place_windows(segments, max_windows=8, window_s=10.0)
    assert windows == [Window(0, ((0.0, 4.0), (5.0, 9.0)), 8.0), Window(0, ((10.0, 14.0),), 4.0)]


def test_tracks_share_the_windows_by_their_speech() -> None:
    segments = [{"track": 0, "start_s": 0.0, "end_s": 300.0}, {"track": 1, "start_s": 0.0, "end_s": 100.0}]
    windows = place_windows(segments, max_windows=8, window_s=10.0)
    assert [window.track for window in windows] == [0] * 6 + [1] * 2


def test_speakers_are_known_of_every_language_that_the_model_tells(stage: Language) -> None:
    assert set(stage.languages) <= prior.MILLIONS.keys()
    assert stage.log_prior.max() == stage.log_prior[stage.languages.index("en")] == 0


def test_speakers_of_the_recipe_count_instead_of_the_world_s(stage: Language) -> None:
    wales = Language(LanguageConfig(speakers={"cy": 1730.0}))
    wales.setup()
    assert wales.log_prior[wales.languages.index("cy")] == 0
    assert stage.log_prior[stage.languages.index("cy")] < -1


@pytest.mark.parametrize(
    "settings",
    [{"max_windows": 0}, {"window_s": 31}, {"min_speech_s": -1}, {"cpu_threads": 0}, {"languages": "en"},
     {"languages": []}, {"device": "tpu"}, {"closer_window_s": -1}, {"prior_strength": -0.1}, {"language_odds": 0.5},
     {"switch_odds": 0}, {"floor": 0}, {"floor": 1}, {"sure": 1.1}, {"whole_s": -1}, {"speakers": {"cy": 0}}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        LanguageConfig(**settings)


def test_a_language_that_the_model_does_not_tell_is_refused() -> None:
    for config in (LanguageConfig(languages=["en", "xx"]), LanguageConfig(speakers={"xx": 1.0})):
        with pytest.raises(SpeechmillError, match="does not detect xx"):
            Language(config).setup()


def test_a_folder_without_whisper_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SpeechmillError, match=r"neither model\.bin nor"):
        Language(LanguageConfig(model=str(tmp_path))).setup()


def test_the_fingerprint_moves_with_settings_weights_and_voice_activity(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"w")
    prints = {
        Language(LanguageConfig()).fingerprint({"vad": "v"}),
        Language(LanguageConfig()).fingerprint({"vad": "w"}),
        Language(LanguageConfig(max_windows=4)).fingerprint({"vad": "v"}),
        Language(LanguageConfig(prior_strength=0.5)).fingerprint({"vad": "v"}),
        Language(LanguageConfig(speakers={"cy": 50.0})).fingerprint({"vad": "v"}),
        Language(LanguageConfig(model=str(tmp_path))).fingerprint({"vad": "v"}),
    }
    assert len(prints) == 6
