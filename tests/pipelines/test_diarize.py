"""Diarization on real conversations: error against references, channels, chunks, and pipelines by path."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from forked import speechmill
from hypothesis import given
from hypothesis import strategies as st
from pyannote.audio import Model
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.embedding import WeSpeakerResNet34
from pyannote.core import Annotation, Segment, Timeline
from pyannote.database.util import load_rttm
from pyannote.metrics.diarization import DiarizationErrorRate
from sounds import ArraySound

from manifests import schemas
from pipelines.simulate.channels import coded
from pipelines.stages.base import Row
from pipelines.stages.clustering import log_odds
from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.linking import chunk_edges, link
from pipelines.stages.segmentation import Segmentation, load_segmentation
from pipelines.stages.speakers import DIMENSION, MIN_FRAMES, SpeakerEmbedding, features
from pipelines.stages.stretches import FRAMES
from pipelines.stages.vad import Vad
from runtime.errors import RecipeError, SpeechmillError


def diarize(**settings: object) -> Diarize:
    stage = Diarize(DiarizeConfig(**settings))
    stage.setup()
    return stage


@pytest.fixture(scope="module")
def stage() -> Diarize:
    return diarize()


@pytest.fixture(scope="module")
def embedding() -> SpeakerEmbedding:
    return SpeakerEmbedding("cpu", 8, 1)


def known(*segments: tuple[int, float, float]) -> dict[str, Row]:
    return {"vad": {"segments": [{"track": track, "start_s": start, "end_s": end} for track, start, end in segments]}}


def error_rate(row: Row, rttm: Path, duration_s: float) -> float:
    """Diarization error rate without a collar, overlap scored."""
    (reference,) = load_rttm(rttm).values()
    found = Annotation()
    for number, turn in enumerate(row["turns"]):
        found[Segment(turn["start_s"], turn["end_s"]), number] = turn["speaker"]
    return float(DiarizationErrorRate()(reference, found, uem=Timeline([Segment(0, duration_s)])))


def check(row: Row, duration_s: float) -> None:
    """What holds of every row."""
    schemas.table([{"recording_id": "r", "status": "ok", **row}], schemas.DIARIZE)
    turns = row["turns"]
    assert [turn["start_s"] for turn in turns] == sorted(turn["start_s"] for turn in turns)
    assert all(0 <= turn["start_s"] < turn["end_s"] <= duration_s + 1e-6 for turn in turns)
    names = list(dict.fromkeys(turn["speaker"] for turn in turns))
    assert names == [f"SPEAKER_{number:02d}" for number in range(row["num_speakers"])]
    assert sorted(row["speaker_confidence"]) == sorted(names)
    sure = [turn["confidence"] for turn in turns] + [row["speakers_confidence"]]
    assert all(value is None or 0 <= value <= 1 for value in sure)
    if row["method"] == "pipeline" and row["speakers_confidence"] is not None:  # other pipelines give none at all
        assert None not in sure


def test_the_packaged_conversation(stage: Diarize, vad: Vad, conversation: Path) -> None:
    sound = ArraySound.from_file(conversation)
    heard = {"vad": vad.annotate(sound, {})}
    row = stage.annotate(sound, heard)
    check(row, 30)
    assert row["method"] == "pipeline"
    assert row["num_speakers"] == 2
    assert row["overlap_s"] > 0
    assert row["speakers_confidence"] is not None
    assert error_rate(row, conversation.with_suffix(".rttm"), 30) < 0.1
    assert row["speakers_confidence"] > 0.3
    assert np.mean([turn["confidence"] for turn in row["turns"]]) > 0.7
    assert stage.annotate(sound, heard) == row
    assert torch.are_deterministic_algorithms_enabled() is False


@pytest.mark.recordings
@pytest.mark.slow
def test_chunks_are_diarized_as_well_as_the_whole(stage: Diarize, vad: Vad, recordings: Path) -> None:
    sound = ArraySound.from_file(recordings / "lca_calls" / "lca_40_mix16k.flac")
    heard, duration_s = {"vad": vad.annotate(sound, {})}, sound.num_samples / 16000
    reference = recordings / "lca_calls" / "lca_40.rttm"
    lengths = []

    class Watched(ArraySound):
        def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
            block = super().read(start, stop)
            lengths.append(block.shape[1] / 16000)
            return block

    whole, chunked = stage.annotate(sound, heard), diarize(chunk_s=60).annotate(Watched(sound.samples), heard)
    for row in (whole, chunked):
        check(row, duration_s)
    assert whole["num_speakers"] == 2
    assert chunked["num_speakers"] == 2
    assert len(lengths) == 5
    assert max(lengths) <= 1.2 * 60
    assert error_rate(whole, reference, duration_s) < 0.09
    assert error_rate(chunked, reference, duration_s) < error_rate(whole, reference, duration_s) + 0.01


def speech_of_both(conversation: Path) -> list[np.ndarray]:
    """The sound of the packaged conversation in which one speaker alone speaks, silent elsewhere, for each of the
    two."""
    sound = ArraySound.from_file(conversation).samples[0]
    reference: Annotation = next(iter(load_rttm(conversation.with_suffix(".rttm")).values()))
    voices = []
    for label in reference.labels():
        others = reference.label_timeline(next(other for other in reference.labels() if other != label))
        alone = reference.label_timeline(label).support().extrude(others)
        voice = np.zeros_like(sound)
        for span in alone:
            voice[round(span.start * 16000) : round(span.end * 16000)] = sound[
                round(span.start * 16000) : round(span.end * 16000)
            ]
        voices.append(voice)
    return voices


def test_one_speaker_a_side_has_the_turns_that_voice_activity_found(
    stage: Diarize, vad: Vad, conversation: Path
) -> None:
    sound = ArraySound(np.stack(speech_of_both(conversation)))
    heard = {"vad": vad.annotate(sound, {})}
    row = stage.annotate(sound, heard)
    check(row, 30)
    assert (row["method"], row["num_speakers"]) == ("channels", 2)
    found = sorted((turn["track"], turn["start_s"], turn["end_s"]) for turn in row["turns"])
    expected = sorted((span["track"], span["start_s"], span["end_s"]) for span in heard["vad"]["segments"])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0.1 < row["speakers_confidence"] < 1
    assert all(0.5 < turn["confidence"] <= 1 for turn in row["turns"] if turn["end_s"] - turn["start_s"] > 1)


@pytest.mark.parametrize("chunk_s", [600.0, 12.0])
def test_two_speakers_on_one_side_are_told_apart_and_from_the_other_side(
    vad: Vad, conversation: Path, chunk_s: float
) -> None:
    first, second = speech_of_both(conversation)
    sound = ArraySound(np.stack([first + second, np.roll(first, 16000 * 3)]))
    heard = {"vad": vad.annotate(sound, {})}
    row = diarize(chunk_s=chunk_s).annotate(sound, heard)
    check(row, 30)
    speakers = {track: {turn["speaker"] for turn in row["turns"] if turn["track"] == track} for track in (0, 1)}
    assert [len(speakers[track]) for track in (0, 1)] == [2, 1]
    assert not speakers[0] & speakers[1]
    # The turns of a side cover what voice activity found there, and nothing else.
    assert sum(row["speaker_s"][speaker] for speaker in speakers[1]) == pytest.approx(
        heard["vad"]["speech_per_track_s"][1]
    )
    turns = [Segment(turn["start_s"], turn["end_s"]) for turn in row["turns"] if turn["track"] == 0]
    assert Timeline(turns).support().duration() == pytest.approx(heard["vad"]["speech_per_track_s"][0])


def test_speech_of_a_side_in_which_no_voice_is_found_stays_in_the_row(stage: Diarize) -> None:
    noise = np.random.default_rng(0).normal(0, 0.001, (2, 16000 * 12))
    row = stage.annotate(ArraySound(noise), known((0, 1.0, 2.0), (1, 3.0, 3.02)))
    check(row, 12)
    assert [(turn["track"], turn["start_s"], turn["end_s"]) for turn in row["turns"]] == [(0, 1.0, 2.0), (1, 3.0, 3.02)]


def test_another_pipeline_takes_each_side_for_one_speaker() -> None:
    sound = ArraySound(np.zeros((2, 16000 * 10)))
    never_set_up = Diarize(DiarizeConfig(pipeline="lab/pipeline"))
    row = never_set_up.annotate(sound, known((0, 3.0, 5.0), (0, 6.0, 7.0), (1, 1.0, 4.0)))
    check(row, 10)
    assert row["method"] == "channels"
    assert [(turn["speaker"], turn["track"], turn["start_s"]) for turn in row["turns"]] == [
        ("SPEAKER_00", 1, 1.0),
        ("SPEAKER_01", 0, 3.0),
        ("SPEAKER_01", 0, 6.0),
    ]
    assert (row["speakers_confidence"], row["speaker_confidence"]) == (None, {"SPEAKER_00": None, "SPEAKER_01": None})
    assert (row["overlap_s"], row["turn_count"], row["speaker_s"]) == (1.0, 3, {"SPEAKER_00": 3.0, "SPEAKER_01": 3.0})


@pytest.mark.parametrize("samples", [0, 16000 * 5])
def test_without_speech_no_model_is_run(samples: int) -> None:
    row = Diarize(DiarizeConfig()).annotate(ArraySound(np.zeros((1, samples))), known())
    assert (row["turns"], row["num_speakers"], row["overlap_share"]) == ([], 0, 0)
    assert row["speakers_confidence"] is None


@pytest.mark.parametrize("samples", [1, 400, 4800])
def test_sounds_far_shorter_than_a_window(stage: Diarize, conversation: Path, samples: int) -> None:
    sound = ArraySound(ArraySound.from_file(conversation).samples[:, 160000 : 160000 + samples])
    check(stage.annotate(sound, known((0, 0.0, samples / 16000))), samples / 16000)


@pytest.mark.parametrize("step_s", [0.5, 10.0])
def test_windows_of_any_step_leave_no_frame_out(step_s: float) -> None:
    heard = Segmentation(step_s, "cpu", "float32", 8, 1)(np.zeros(16000 * 21, np.float32))
    assert np.diff(heard.starts).max() <= FRAMES
    assert heard.num_frames == 1 + (16000 * 21 - 991) // 270
    assert np.isfinite(heard.averaged(heard.classes)).all()


def test_noise_that_voice_activity_took_for_speech(stage: Diarize) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (1, 16000 * 12))
    check(stage.annotate(ArraySound(noise), known((0, 1.0, 2.0))), 12)


def test_a_pipeline_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match="nowhere") as caught:
        diarize(pipeline=str(tmp_path / "nowhere"))
    assert "folder" in caught.value.remedy


def test_a_hub_id_is_fingerprinted_by_the_commit_it_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache as a download leaves it, read offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--lab--pipeline"
    marks = {}
    for commit in ("a" * 40, "b" * 40):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.yaml").write_text("pipeline: {}")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        marks[commit] = Diarize(DiarizeConfig(pipeline="lab/pipeline")).fingerprint({"vad": "v"})
    assert marks["a" * 40] != marks["b" * 40]
    pinned = Diarize(DiarizeConfig(pipeline="lab/pipeline", revision="a" * 40))
    assert pinned.model_hashes() == {f"lab/pipeline@{'a' * 40}": "a" * 40}


def test_embeddings_know_the_speaker_over_lengths_and_channels(embedding: SpeakerEmbedding, conversation: Path) -> None:
    sound = ArraySound.from_file(conversation).samples[0]
    # One speaker in the first and third, the other in the second and fourth, as the packaged reference has it.
    parts = [sound[start * 16000 : (start + 2) * 16000] for start in (12, 15, 19, 24)]
    telephone = np.concatenate([block[0] for block in coded([parts[1][None]], 16000, "mulaw")])
    given = [features(part) for part in [*parts, parts[0][:12000], telephone]]
    vectors = embedding(given)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    alike = vectors @ vectors.T
    assert min(alike[0, 2], alike[1, 3]) > max(alike[0, 1], alike[0, 3], alike[2, 1], alike[2, 3])
    assert alike[0, 4] > alike[1, 4] + 0.1
    assert alike[1, 5] > alike[0, 5] + 0.1
    # A vector does not depend on what else is embedded with it.
    for number, frames in enumerate(given):
        np.testing.assert_allclose(embedding([frames])[0], vectors[number], atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_features_of_samples_that_cannot_be_written_to() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    expected = features(samples.copy())
    samples.flags.writeable = False
    np.testing.assert_array_equal(features(samples), expected)


def test_too_little_sound_has_no_embedding(embedding: SpeakerEmbedding) -> None:
    assert features(np.zeros(399, np.float32)).shape == (0, 80)
    rng = np.random.default_rng(0)
    found = embedding([rng.normal(size=(count, 80)).astype(np.float32) for count in (0, MIN_FRAMES - 1, MIN_FRAMES)])
    assert found.shape == (3, DIMENSION)
    assert np.isfinite(found).all(axis=1).tolist() == [False, False, True]


@given(
    st.floats(1, 5000),
    st.floats(10, 700),
    st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 60)).map(lambda span: (span[0], sum(span))), max_size=20),
)
def test_edges_cover_the_recording_in_bounded_chunks(
    duration_s: float, chunk_s: float, speech: list[tuple[float, float]]
) -> None:
    edges = chunk_edges(duration_s, chunk_s, speech)
    assert edges[0] == 0
    assert edges[-1] == duration_s
    assert all(0 < after - before <= 1.2 * chunk_s + 1e-6 for before, after in itertools.pairwise(edges))


def test_linking_finds_the_people_behind_noisy_chunks() -> None:
    rng = np.random.default_rng(0)
    people = np.eye(16)[:3]
    order = [int(person) for chunk in range(40) for person in rng.permutation(3)]
    chunks = [index // 3 for index in range(120)]
    vectors = people[order] + rng.normal(0, 0.05, (120, 16))
    expected = [list(dict.fromkeys(order)).index(person) for person in order]
    assert link(vectors, chunks, [10.0] * 120, log_odds) == expected
    # With two people at most, the third is given to another; who spoke most stays.
    assert max(link(vectors, chunks, [10.0] * 120, log_odds, max_speakers=2)) == 1


def test_linking_keeps_two_speakers_of_a_chunk_apart_and_gives_fragments_away() -> None:
    def odds(cosine: np.ndarray, one_s: np.ndarray, other_s: np.ndarray) -> np.ndarray:
        return cosine - 0.99

    vectors = np.array([[1.0, 0.0], [0.99, 0.1], [1.0, 0.0], [0.0, 1.0], [np.nan, 0.0], [0.2, 0.9]])
    chunks, speech_s = [0, 0, 1, 1, 2, 2], [20.0, 20.0, 30.0, 20.0, 1.0, 2.0]
    assert link(vectors, chunks, speech_s, odds) == [0, 1, 0, 2, 0, 3]
    assert link(vectors, chunks, speech_s, odds, min_speech_s=5.0) == [0, 1, 0, 2, 0, 2]
    assert link(vectors, chunks, speech_s, odds, min_share=0.05) == [0, 1, 0, 2, 0, 2]
    assert link(np.full((2, 2), np.nan), [0, 1], [1.0, 1.0], odds) == [0, 0]
    assert link(np.zeros((0, 2)), [], [], odds) == []


def test_a_brief_fragment_of_a_speaker_joins_them_even_within_one_chunk() -> None:
    vectors = np.eye(4)[[0, 1, 0, 2, 3]]
    vectors[3] = [0.5, 0.0, 0.85, 0.0]
    chunks = [0, 0, 1, 1, 1]
    assert link(vectors, chunks, [20.0, 20.0, 20.0, 2.0, 2.0], log_odds) == [0, 1, 0, 0, 2]
    assert link(vectors, chunks, [20.0, 20.0, 20.0, 20.0, 2.0], log_odds) == [0, 1, 0, 2, 3]


def test_the_fingerprint_moves_with_configuration_and_with_what_is_read() -> None:
    one = Diarize(DiarizeConfig()).fingerprint({"vad": "a"})
    assert one == Diarize(DiarizeConfig()).fingerprint({"vad": "a"})
    assert one != Diarize(DiarizeConfig()).fingerprint({"vad": "b"})
    assert one != Diarize(DiarizeConfig(one_speaker_prior=0.5)).fingerprint({"vad": "a"})
    assert set(Diarize(DiarizeConfig()).model_hashes()) == {"pyannote-segmentation-3.0", "campplus"}


@pytest.mark.parametrize(
    "settings",
    [
        {"window_step_s": 0},
        {"window_step_s": 11},
        {"one_speaker_prior": 50},
        {"side_prior": -50},
        {"min_speaker_s": -1},
        {"min_speaker_share": 1},
        {"chunk_s": 1},
        {"link_threshold": -1},
        {"max_speakers": 0},
        {"batch_size": 0},
        {"threads": 0},
        {"device": "tpu"},
        {"precision": "float8"},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        DiarizeConfig(**settings)


CLUSTERING = {"method": "centroid", "threshold": 0.45, "min_cluster_size": 12}
PARAMS = {"clustering": CLUSTERING, "segmentation": {"min_duration_off": 0.0}}
DIARIZATION = "pyannote.audio.pipelines.SpeakerDiarization"


class Opens:
    """What a pickle may hold: a call that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def pipeline_of(folder: Path, name: str = DIARIZATION, **config: object) -> Path:
    """A folder with a config.yaml of a pipeline whose models lie beside it, as repositories on a hub have them."""
    folder.mkdir(exist_ok=True)
    params = {
        "segmentation": "$model/segmentation", "embedding": {"checkpoint": str(folder), "subfolder": "embedding"},
        "plda": "$model/plda",
        "clustering": "AgglomerativeClustering",
    }  # fmt: skip
    described = {"pipeline": {"name": name, "params": params}, "params": PARAMS, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(described))
    (folder / "plda").mkdir()
    ones, many = np.ones(4), np.eye(4)
    np.savez(folder / "plda/xvec_transform.npz", mean1=ones, mean2=ones, lda=many)
    np.savez(folder / "plda/plda.npz", mu=ones, tr=many, psi=ones)
    return folder


def save_model(model: Model, folder: Path, **more: object) -> None:
    """A checkpoint as pyannote writes it, with its own classes beside the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = {
        "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "pytorch-lightning_version": "2.6.0",
        "versions": {"torch": torch.__version__}, **more,
    }  # fmt: skip
    model.on_save_checkpoint(saved)
    torch.save({**saved, **more}, folder / "pytorch_model.bin")


@pytest.mark.slow
def test_a_pipeline_of_pyannotes_own_classes_needs_no_trust(tmp_path: Path, conversation: Path) -> None:
    folder = pipeline_of(tmp_path / "p")
    save_model(load_segmentation(), folder / "segmentation")
    save_model(embedding_of_pyannote(), folder / "embedding")
    trusting, careful = (diarize(pipeline=str(folder), trust=trust) for trust in (True, False))
    sound = ArraySound(ArraySound.from_file(conversation).read(7 * 16000, 19 * 16000))
    heard = known((0, 0.0, 12.0))
    row = careful.annotate(sound, heard)
    schemas.table([{"recording_id": "r", "status": "ok", **row}], schemas.DIARIZE)
    assert row["num_speakers"] == len({turn["speaker"] for turn in row["turns"]}) > 0
    assert row["speakers_confidence"] is None
    assert row == trusting.annotate(sound, heard)


def embedding_of_pyannote() -> Model:
    torch.manual_seed(0)
    model = WeSpeakerResNet34()
    model.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0, classes=["a", "b"]
    )
    return model


@pytest.mark.parametrize("part", ["segmentation", "embedding"])
def test_a_checkpoint_that_runs_code_is_refused_before_it_runs(tmp_path: Path, part: str) -> None:
    mark = tmp_path / "it ran"
    folder = pipeline_of(tmp_path / "p")
    models = {"segmentation": load_segmentation(), "embedding": embedding_of_pyannote()}
    for name, model in models.items():
        save_model(model, folder / name, **({"callbacks": Opens(mark)} if name == part else {}))
    with pytest.raises(RecipeError, match="may run code") as caught:
        diarize(pipeline=str(folder))
    assert "trust = true" in caught.value.remedy
    assert not mark.exists()
    diarize(pipeline=str(folder), trust=True)
    assert mark.exists()


def test_a_checkpoint_of_a_class_of_others_is_refused(tmp_path: Path) -> None:
    folder = pipeline_of(tmp_path / "p")
    other = {"architecture": {"module": "subprocess", "class": "Popen"}, "versions": {"pyannote.audio": "4.0.0"}}
    save_model(load_segmentation(), folder / "segmentation", **{"pyannote.audio": other})
    with pytest.raises(RecipeError, match=r"subprocess\.Popen") as caught:
        diarize(pipeline=str(folder))
    assert "trust = true" in caught.value.remedy


def test_a_configuration_that_calls_other_classes_is_refused_before_it_does(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    popen = {"name": "subprocess.Popen", "params": {"args": ["touch", str(mark)]}}
    configurations = [
        {"pipeline": popen},
        {"pipeline": {"name": "os.system", "params": {"command": f"touch '{mark}'"}}},
        {"pipeline": {"name": DIARIZATION, "params": {}}, "preprocessors": {"audio": popen}},
        {"pipeline": {"name": ["subprocess.Popen"]}},
        {"pipeline": {"name": DIARIZATION, "params": {"segmentation": popen}}},
        {"pipeline": {"name": DIARIZATION, "params": {"segmentation": 5}}},
        {"pipeline": "subprocess.Popen"},
        ["subprocess.Popen"],
    ]
    texts = [yaml.safe_dump(configuration) for configuration in configurations]
    texts.append(f"pipeline: !!python/object/apply:os.system ['touch {mark}']")
    for text in texts:
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(RecipeError) as caught:
            diarize(pipeline=str(tmp_path))
        assert "pipeline" in caught.value.remedy
        assert not mark.exists(), text


def test_a_command_refuses_such_a_pipeline_and_says_when_a_recipe_trusts_one(
    tmp_path: Path, conversation: Path
) -> None:
    mark, lake = tmp_path / "it ran", str(tmp_path / "lake")
    folder = tmp_path / "p"
    folder.mkdir()
    popen = {"name": "subprocess.Popen", "params": {"args": ["touch", str(mark)]}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"pipeline": popen}))
    words = ["demo", "--lake", lake, "--set", f"annotate={{vad={{}}, diarize={{pipeline='{folder}'}}}}"]
    words += ["--set", "select.recordings={}", "--set", "select.windows={}"]
    done = speechmill("run", *words, "--in", str(conversation))
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "subprocess.Popen" in done.stderr
    assert "trust = true in [annotate.diarize]" in done.stderr
    assert not mark.exists()
    elsewhere = [word.replace(lake, str(tmp_path / "other")) for word in words]
    assert speechmill("ingest", *elsewhere, "--in", str(conversation)).returncode == 0
    trusting = speechmill("annotate", *elsewhere, "--set", "annotate.diarize.trust=true")
    assert f"diarize: trust = true: the files of {folder} may run code of their own" in trusting.stderr
