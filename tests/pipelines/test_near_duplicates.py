"""Copies under another coding, cut and speed leave one recording: no split sees what another one holds."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from copies import COPIES, noisy
from sounds import ArraySound, write_coded

from manifests.lake import Lake
from manifests.select import select
from pipelines.commands.cli import cli
from pipelines.progress.watch import Watch
from pipelines.recipes.recipe import load
from pipelines.run import Run
from pipelines.units.engines import Engine

SETTINGS = (
    "select.recordings={}",
    "select.windows={}",
    "select.splits={train=0.5,test=0.5}",
    "annotate.fingerprint={}",
    *(f"annotate.{stage}.enabled=false" for stage in ("diarize", "language", "quality")),
)


def work(lake: Path, inputs: list[Path]) -> Run:
    found = Lake.at(str(lake))
    run = Run(load("demo", SETTINGS), found, Watch(found.storage, "test", {}, quiet=True), Engine())
    with run.watch:
        run.ingest(map(str, inputs))
        list(run.annotate())
        run.select()
    return run


def verdicts(run: Run) -> dict[str, dict]:
    """By the name of the file, as is what a recording duplicates."""
    lake, names, found = run.lake, dict[str | None, str](), {}
    for _, table in lake.recordings(["recording_id", "uris"]):
        names |= {row["recording_id"]: Path(row["uris"][0]).stem for row in table.to_pylist()}
    for batch in lake.batches():
        for row in lake.read(lake.verdicts_key(run.selection().name, batch)).to_pylist():
            found[names[row["recording_id"]]] = row | {"duplicate_of": names.get(row["duplicate_of"])}
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, conversation: Path) -> list[Path]:
    folder = tmp_path_factory.mktemp("copies")
    speech = ArraySound.from_file(conversation).samples[0]
    first, second = speech[: 16000 * 20], speech[16000 * 20 :]
    sounds = {
        "a-telephone": COPIES["telephone, 8 kHz mu-law"][0](first[16000:]),
        "b-best": first,
        "c-noisy": noisy(first[8000:], 15),
        "d-faster": COPIES["1 % faster, higher"][0](first),
        "e-other": second,
    }
    for name, samples in sounds.items():
        write_coded(folder / f"{name}.wav", np.clip(samples, -1, 1)[None].astype(np.float32), 16000, "pcm_s16le")
    return sorted(folder.iterdir())


def test_one_recording_of_a_group_is_kept_in_the_split_of_the_first(tmp_path: Path, files: list[Path]) -> None:
    run = work(tmp_path / "lake", files[:1] + files[4:])
    before = verdicts(run)
    assert all(row["verdict"] == "kept" for row in before.values())
    after = verdicts(work(tmp_path / "lake", files))
    assert {name: row["duplicate_of"] for name, row in after.items()} == {
        "a-telephone": "b-best", "b-best": None, "c-noisy": "b-best", "d-faster": "b-best", "e-other": None,
    }  # fmt: skip
    assert after["c-noisy"]["reasons"] == ["duplicate"]
    assert after["b-best"]["split"] == before["a-telephone"]["split"]
    assert after["e-other"]["split"] == before["e-other"]["split"]


def test_a_withdrawal_and_a_merge_keep_what_is_left_of_matches(tmp_path: Path, files: list[Path]) -> None:
    root = tmp_path / "lake"
    work(root, files[:2])
    run = work(root, files)
    gone = next(row["recording_id"] for name, row in verdicts(run).items() if name == "b-best")
    runner = CliRunner()
    assert runner.invoke(cli, ["merge", str(root)]).exit_code == 0
    assert len(list(run.lake.batches())) == 1
    assert runner.invoke(cli, ["remove", str(root), gone, "--yes"]).exit_code == 0
    left = {name: row["duplicate_of"] for name, row in verdicts(run).items()}
    assert sorted(name for name, of in left.items() if of is None) == ["d-faster", "e-other"]
    folder = f"matches/{run.selection().matches}"
    assert gone not in str([run.lake.read(key).to_pylist() for key in run.lake.storage.list(folder)])


def test_a_lake_that_was_not_matched_is_not_selected(tmp_path: Path, files: list[Path]) -> None:
    run = work(tmp_path / "lake", files[:2])
    for key in list(run.lake.storage.list("matches")):
        run.lake.storage.delete(key)
    run.lake.storage.delete(f"selections/{run.selection().name}/funnel.json")
    with pytest.raises(FileNotFoundError):
        select(run.lake, run.selection())
