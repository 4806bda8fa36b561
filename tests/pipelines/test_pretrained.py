"""Pipelines that cluster by VBx, in folders laid out as pyannote/speaker-diarization-community-1 is."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from sounds import ArraySound
from test_diarize import DIARIZATION, Opens, check, diarize, embedding_of_pyannote, known, save_model

from pipelines.stages.diarize import Diarize
from pipelines.stages.segmentation import load_segmentation
from runtime.errors import SpeechmillError

DIMENSION, KEPT = 256, 128
"""Values of an embedding, and those that are left of them for PLDA."""


def save_plda(folder: Path, **arrays: np.ndarray) -> None:
    """The two files of a PLDA with random transforms, as pyannote lays them out."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    lda = np.linalg.qr(rng.normal(size=(DIMENSION, KEPT)))[0]
    xvec = {"mean1": np.zeros(DIMENSION), "mean2": np.zeros(KEPT), "lda": lda} | arrays
    np.savez(folder / "xvec_transform.npz", **xvec)
    transform = np.linalg.qr(rng.normal(size=(KEPT, KEPT)))[0]
    np.savez(folder / "plda.npz", mu=np.zeros(KEPT), tr=transform, psi=np.linspace(2.0, 0.1, KEPT))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segmentation-3.0, an embedding of random weights and a random PLDA."""
    folder = tmp_path_factory.mktemp("community")
    params = {
        "clustering": "VBxClustering", "segmentation": "$model/segmentation", "segmentation_batch_size": 32,
        "embedding": "$model/embedding", "embedding_batch_size": 32, "embedding_exclude_overlap": True,
        "plda": "$model/plda",
    }  # fmt: skip
    described = {
        "dependencies": {"pyannote.audio": "4.0.0"},
        "pipeline": {"name": DIARIZATION, "params": params},
        "params": {
            "clustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8},
            "segmentation": {"min_duration_off": 0.0},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(described))
    save_model(load_segmentation(), folder / "segmentation")
    save_model(embedding_of_pyannote(), folder / "embedding")
    save_plda(folder / "plda")
    return folder


@pytest.fixture(scope="module")
def stage(folder: Path) -> Diarize:
    return diarize(pipeline=str(folder))


@pytest.fixture(scope="module")
def sound(conversation: Path) -> ArraySound:
    return ArraySound(ArraySound.from_file(conversation).read(7 * 16000, 19 * 16000))


@pytest.mark.slow
def test_a_pipeline_that_clusters_by_vbx_needs_no_trust(folder: Path, stage: Diarize, sound: ArraySound) -> None:
    heard = known((0, 0.0, 12.0))
    row = stage.annotate(sound, heard)
    check(row, 12)
    assert sum(row["speaker_s"].values()) > 5
    assert row == diarize(pipeline=str(folder), trust=True).annotate(sound, heard)


def test_the_chunks_of_a_long_recording_are_linked(folder: Path, sound: ArraySound) -> None:
    chunked = diarize(pipeline=str(folder), chunk_s=10)
    heard = known((0, 0.0, 12.0))
    assert len(chunked.chunks(sound, heard)) == 2
    check(chunked.annotate(sound, heard), 12)


@pytest.mark.parametrize("samples", [1, 400, 4800])
def test_sounds_far_shorter_than_a_window(stage: Diarize, sound: ArraySound, samples: int) -> None:
    check(stage.annotate(ArraySound(sound.samples[:, :samples]), known((0, 0.0, samples / 16000))), samples / 16000)


def test_silence_that_voice_activity_took_for_speech(stage: Diarize) -> None:
    row = stage.annotate(ArraySound(np.zeros((1, 16000 * 12))), known((0, 1.0, 2.0)))
    check(row, 12)
    assert row["turns"] == []


def copy_of(folder: Path, elsewhere: Path) -> Path:
    """The same pipeline, whose PLDA alone lies elsewhere."""
    elsewhere.mkdir()
    described = yaml.safe_load((folder / "config.yaml").read_text())
    for part in ("segmentation", "embedding"):
        described["pipeline"]["params"][part] = str(folder / part)
    (elsewhere / "config.yaml").write_text(yaml.safe_dump(described))
    return elsewhere


def test_a_plda_that_is_missing_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match="plda"):
        diarize(pipeline=str(copy_of(folder, tmp_path / "p")))


def test_a_plda_that_runs_code_is_refused_before_it_runs(folder: Path, tmp_path: Path) -> None:
    mark, copied = tmp_path / "it ran", copy_of(folder, tmp_path / "p")
    save_plda(copied / "plda", mean1=np.array([Opens(mark)], dtype=object))
    with pytest.raises(SpeechmillError, match="allow_pickle"):
        diarize(pipeline=str(copied))
    assert not mark.exists()
