"""Sortformer models of random weights: turns as the library itself tells them, and folders that hold something else."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sounds import ArraySound
from transformers import (
    Nemotron3DiarizationConfig,
    Nemotron3DiarizationForAudioFrameClassification,
    Nemotron3DiarizationProcessor,
    NemotronAsrStreamingFeatureExtractor,
)

from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.sortformer import Sortformer, is_sortformer, load
from runtime.errors import SpeechmillError

SPEAKERS, MELS, STEP = 4, 16, 30
STEP_SAMPLES = STEP * 8 * 160
"""Samples of one step of the tiny model, 2.4 s."""


def save(folder: Path, bias: list[float] | None = None, sound: np.ndarray | None = None, **config: int) -> Path:
    """A tiny model in a new folder.

    With `bias`, speakers speak with these logits whatever is heard; with `sound`, in half of the frames of that.
    """
    torch.manual_seed(0)
    audio = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_mel_bins": MELS, "initializer_range": 0.3,
    }  # fmt: skip
    model = Nemotron3DiarizationForAudioFrameClassification(
        Nemotron3DiarizationConfig(
            audio_config=audio, head_config={"hidden_size": 16, "num_speakers": SPEAKERS, "audio_hidden_size": 32},
            streaming_config={"num_speakers": SPEAKERS, "speaker_cache_length": 24}, chunk_length=STEP,
            initializer_range=0.3, **{"chunk_right_context": 5, "fifo_length": 10, "speaker_cache_update_period": 20}
            | config,
        )
    ).eval()  # fmt: skip
    processor = Nemotron3DiarizationProcessor(NemotronAsrStreamingFeatureExtractor(feature_size=MELS))
    last = model.classifier.out_proj
    if bias is not None:
        torch.nn.init.zeros_(last.weight)
        last.bias.data = torch.tensor(bias)
    if sound is not None:
        last.weight.data *= 10
        with torch.inference_mode():
            logits = model(**processor(sound, sampling_rate=16000)).logits[0]
        last.bias.data = last.bias.data - logits.median(dim=0).values.clone()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def speech(conversation: Path) -> np.ndarray:
    """23 s of two speakers, float32 (samples,)."""
    samples: np.ndarray = ArraySound.from_file(conversation).samples[0, 7 * 16000 :]
    return samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, speech: np.ndarray) -> Path:
    return save(tmp_path_factory.mktemp("sortformer"), sound=speech)


def heard(model: Sortformer, samples: np.ndarray) -> list[tuple[str, float, float]]:
    return model.turns(lambda start, stop: samples[start:stop], len(samples))


def spoken(turns: list[tuple[str, float, float]]) -> set[tuple[str, int]]:
    """The frames in which each speaker speaks."""
    return {(speaker, frame) for speaker, start, end in turns for frame in range(round(start * 100), round(end * 100))}


@pytest.mark.parametrize("config", [{}, {"chunk_left_context": 3}, {"fifo_length": 40, "chunk_right_context": 0}])
def test_turns_are_those_of_the_library_for_the_whole_sound(
    tmp_path: Path, speech: np.ndarray, config: dict[str, int]
) -> None:
    """The library is asked as its documentation shows, in one call."""
    folder = save(tmp_path, sound=speech, **config)
    model = load(folder, "tiny", "cpu")
    processor = Nemotron3DiarizationProcessor.from_pretrained(folder)
    library = Nemotron3DiarizationForAudioFrameClassification.from_pretrained(folder).eval()
    for length in (160, 5000, STEP_SAMPLES, STEP_SAMPLES + 6400, 5 * STEP_SAMPLES + 77, len(speech)):
        turns = heard(model, speech[:length])
        inputs = processor(speech[:length], sampling_rate=16000)
        with torch.inference_mode():
            logits = library(**inputs).logits
        (told,) = processor.extract_speaker_dict(logits, inputs.attention_mask)
        expected = [(f"speaker {turn['Speaker']}", turn["Start"], turn["End"]) for turn in told]
        # The last bits of a product depend on the rows beside it: a frame at the threshold may fall to either side.
        assert len(spoken(turns) ^ spoken(expected)) <= 0.001 * length / 160
        assert turns == sorted(turns, key=lambda turn: (turn[1], turn[0]))
        assert all(0 <= start < end <= length / 16000 for _, start, end in turns)
    assert len(turns) > 100
    assert len({speaker for speaker, _, _ in turns}) == SPEAKERS


def test_a_recording_is_read_in_bounded_parts(folder: Path) -> None:
    lengths = []

    def read(start: int, stop: int) -> np.ndarray:
        lengths.append(stop - start)
        return np.zeros(stop - start, np.float32)

    load(folder, "tiny", "cpu").turns(read, 20 * STEP_SAMPLES + 1)
    assert len(lengths) == 20
    assert max(lengths) <= STEP_SAMPLES + 5 * 8 * 160 + 512


def test_overlaps_are_kept_and_turns_go_on_from_step_to_step(tmp_path: Path) -> None:
    model = load(save(tmp_path, [-9.0, 9.0, -9.0, 1.0]), "tiny", "cpu")
    assert model.num_speakers == SPEAKERS
    duration_s = 3 * STEP_SAMPLES / 16000
    assert heard(model, np.zeros(3 * STEP_SAMPLES, np.float32)) == [
        ("speaker 1", 0.0, pytest.approx(duration_s)),
        ("speaker 3", 0.0, pytest.approx(duration_s)),
    ]
    # The logit 1 is a probability of 0.73.
    strict = load(tmp_path, "tiny", "cpu", threshold=0.8)
    assert [speaker for speaker, _, _ in heard(strict, np.zeros(16000, np.float32))] == ["speaker 1"]


def test_who_is_not_heard_has_no_turns(tmp_path: Path) -> None:
    assert heard(load(save(tmp_path, [-1.0] * SPEAKERS), "tiny", "cpu"), np.zeros(STEP_SAMPLES, np.float32)) == []


@pytest.mark.parametrize("samples", [0, 1, 159])
def test_sound_shorter_than_a_frame_has_no_turns(tmp_path: Path, samples: int) -> None:
    assert heard(load(save(tmp_path, [9.0] * SPEAKERS), "tiny", "cpu"), np.ones(samples, np.float32)) == []


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_two_loads_hear_the_same(folder: Path, speech: np.ndarray, precision: str) -> None:
    one, other = (load(folder, "tiny", "cpu", precision) for _ in range(2))
    turns = heard(one, speech)
    assert heard(one, speech) == heard(other, speech) == turns
    plain = spoken(heard(load(folder, "tiny", "cpu"), speech))
    assert len(plain ^ spoken(turns)) <= (0 if precision == "float32" else 0.1 * len(plain))


def test_values_that_are_not_finite_are_told(tmp_path: Path) -> None:
    model = load(save(tmp_path, [float("nan")] * SPEAKERS), "tiny", "cpu")
    with pytest.raises(SpeechmillError, match="not finite") as caught:
        heard(model, np.zeros(16000, np.float32))
    assert "precision" in caught.value.remedy


def change(name: str, **values: Any) -> Callable[[Path], None]:
    """Change values of a JSON file of a folder."""

    def changed(folder: Path) -> None:
        read = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(read | values))

    return changed


def lose_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["silence_embeds"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def of_nemo(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "sortformer.nemo").touch()


def at_8_khz(folder: Path) -> None:
    extractor = NemotronAsrStreamingFeatureExtractor(feature_size=MELS, sampling_rate=8000)
    Nemotron3DiarizationProcessor(extractor).save_pretrained(folder)


def of_other_mels(folder: Path) -> None:
    Nemotron3DiarizationProcessor(NemotronAsrStreamingFeatureExtractor(feature_size=20)).save_pretrained(folder)


WRONG = {
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    "of NeMo": (of_nemo, "checkpoint of NeMo"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "not the configuration of a model"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "not the configuration of a model"),
    "another type": (change("config.json", model_type="wav2vec2"), "of the type 'wav2vec2'"),
    "pickled weights": (pickled, "no weights in safetensors"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights in safetensors"),
    "cut weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "no Sortformer"),
    "a lost tensor": (lose_a_tensor, "lack 1 tensors, silence_embeds"),
    "no processor": (lambda folder: (folder / "processor_config.json").unlink(), "feature extractor"),
    "no context": (change("config.json", chunk_right_context=STEP), "chunk_right_context"),
    "a text": (change("config.json", chunk_length="many"), "chunk_length"),
    "endless steps": (change("config.json", chunk_length=0, chunk_right_context=-1), "chunk_length is 0"),
    "another width": (change("config.json", streaming_config={"num_speakers": 5}), "num_speakers"),
    "another rate": (at_8_khz, "8000 Hz"),
    "other features": (of_other_mels, "20 mel bins"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_sortformer_is_refused(folder: Path, tmp_path: Path, wrong: str) -> None:
    spoil, told = WRONG[wrong]
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    spoil(copied)
    with pytest.raises(SpeechmillError, match=told) as caught:
        load(copied, "lab/other", "cpu")
    assert "'lab/other'" in str(caught.value)
    assert "nvidia/Nemotron-3-Diarization" in caught.value.remedy


def test_a_folder_brings_no_code(folder: Path, tmp_path: Path, speech: np.ndarray) -> None:
    copied, mark = tmp_path / "copied", tmp_path / "it ran"
    shutil.copytree(folder, copied)
    (copied / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own:\n    pass\n")
    own = {"AutoConfig": "own.Own", "AutoModelForAudioFrameClassification": "own.Own", "AutoProcessor": "own.Own"}
    kernel = "lab/kernel"
    change("config.json", auto_map=own, attn_implementation=kernel, _attn_implementation=kernel)(copied)
    change("processor_config.json", auto_map=own)(copied)
    assert (
        heard(load(copied, "tiny", "cpu"), speech[:32000]) == heard(load(folder, "tiny", "cpu"), speech[:32000]) != []
    )
    assert not mark.exists()


def test_which_folders_are_for_transformers(folder: Path, tmp_path: Path) -> None:
    assert is_sortformer(folder)
    assert not is_sortformer(tmp_path)
    assert not is_sortformer(tmp_path / "nowhere")
    (tmp_path / "model.nemo").touch()
    assert is_sortformer(tmp_path)  # `load` says what is wrong with it
    (tmp_path / "config.yaml").touch()
    assert not is_sortformer(tmp_path)
    assert not is_sortformer(tmp_path / "config.yaml")


def test_the_stage_hears_a_recording_by_a_sortformer_as_a_whole(tmp_path: Path, conversation: Path) -> None:
    sound = ArraySound.from_file(conversation)
    folder = save(tmp_path / "m", sound=sound.samples[0])
    stage = Diarize(DiarizeConfig(pipeline=str(folder), chunk_s=10.0))
    stage.setup()
    heard = {"vad": {"segments": [{"track": 0, "start_s": 1.0, "end_s": 29.0}]}}
    assert stage.chunks(sound, heard) == [(0.0, 30.0)]
    row = stage.annotate(sound, heard)
    expected = load(folder, "m", "cpu").turns(lambda start, stop: sound.samples[0, start:stop], sound.num_samples)
    found = sorted((turn["start_s"], turn["end_s"]) for turn in row["turns"])
    np.testing.assert_allclose(found, sorted((start, end) for _, start, end in expected), atol=1e-6)
    assert row["num_speakers"] == len({speaker for speaker, *_ in expected}) > 1
    assert (row["speakers_confidence"], set(row["speaker_confidence"].values())) == (None, {None})


def test_a_most_of_speakers_is_refused_for_a_sortformer(tmp_path: Path) -> None:
    stage = Diarize(DiarizeConfig(pipeline=str(save(tmp_path / "m")), max_speakers=2))
    with pytest.raises(SpeechmillError, match="max_speakers"):
        stage.setup()


def test_a_sortformer_needs_no_package_of_pyannote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, bias=[3.0, -3.0, -3.0, -3.0])
    stage = Diarize(DiarizeConfig(pipeline=str(tmp_path)))
    assert (stage.packages, stage.extra) == (("torch", "transformers"), "diarize-sortformer")
    assert "pyannote.audio" in Diarize(DiarizeConfig()).packages
    monkeypatch.setitem(sys.modules, "pyannote", None)
    for name in [name for name in sys.modules if name.startswith("pyannote.")]:
        monkeypatch.delitem(sys.modules, name)
    stage.setup()
    sound = ArraySound(np.random.default_rng(0).normal(0, 0.1, (1, 16000)))
    row = stage.annotate(sound, {"vad": {"segments": [{"track": 0, "start_s": 0.0, "end_s": 1.0}]}})
    assert row["num_speakers"] == 1


def test_the_recipe_sets_the_threshold(tmp_path: Path) -> None:
    save(tmp_path, bias=[1.0, -3.0, -3.0, -3.0])  # a probability of 0.73
    sound = ArraySound(np.random.default_rng(0).normal(0, 0.1, (1, 16000)))
    speech = {"vad": {"segments": [{"track": 0, "start_s": 0.0, "end_s": 1.0}]}}
    found = []
    for threshold in (0.5, 0.8):
        stage = Diarize(DiarizeConfig(pipeline=str(tmp_path), sortformer_threshold=threshold))
        stage.setup()
        found.append(stage.annotate(sound, speech)["num_speakers"])
    assert found == [1, 0]
    with pytest.raises(ValueError, match="sortformer_threshold must lie between 0 and 1"):
        DiarizeConfig(sortformer_threshold=1.0)
