"""Engines: the same bytes from any of them, whatever dies meanwhile, and clear words where they cannot begin."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import poison
import pyarrow.parquet as pq
import pytest
import soundfile
import where
from forked import speechmill
from ray_clusters import ROOT, TwoNodes, alone, need_namespaces
from small_runs import digests, make_input, run_command, run_words

from manifests.lake import Lake
from pipelines.annotate import Annotator
from pipelines.ingest import ingest
from pipelines.progress.usage import Usage
from pipelines.progress.watch import UnitResult
from pipelines.recipes.recipe import IngestConfig
from pipelines.run import Pending
from pipelines.stages.base import Resources
from pipelines.stages.vad import Vad, VadConfig
from pipelines.units.engines import Engine, Group, beam
from pipelines.units.pending import group_by_device
from runtime.errors import SpeechmillError

sys.path.append(str(ROOT / "tests/bench"))
from kill_ray import disturbed

LOOPBACK = ["--", "--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    """Two Ray nodes with a CPU each; the second has a GPU by name."""
    need_namespaces()
    with TwoNodes(0, 1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def milled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with input and recipe, and the digests of the lake that one worker in one process makes of it."""
    folder = tmp_path_factory.mktemp("milled")
    make_input(folder, 6)
    assert speechmill(*run_words(folder, folder / "whole")).returncode == 0
    return folder, digests(folder / "whole")


def on(cluster: TwoNodes, *words: str) -> subprocess.CompletedProcess[str]:
    """A driver on the first node."""
    return subprocess.run(
        cluster.inside(1, *words), cwd=ROOT, env=cluster.env, capture_output=True, text=True, timeout=300
    )


def took(seconds: float) -> UnitResult:
    """A unit of work that takes a tenth of its seconds."""
    spent = Usage()
    spent.observe(seconds, {"cpu_s": seconds / 10})
    return UnitResult(str(seconds), 1, seconds, spent={"annotate": spent})


def test_beam_hands_back_what_its_units_took() -> None:
    (done,) = Engine("beam").run([1.0, 2.0, 4.5], [Group("work", partial(partial, took))])
    whole = done.spent["annotate"]
    assert (done.recordings, done.seconds) == (3, 7.5)
    assert (whole.observations, whole.seconds, whole.of["cpu_s"].with_seconds) == (3, 7.5, pytest.approx(2.525))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["local", "ray", "nodes", "beam", "portable"])
def test_any_engine_makes_the_bytes_of_one_process(
    how: str, milled: tuple[Path, dict[str, str]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder, expected = milled
    assert len(expected) > 50
    words = {
        "local": ["--workers", "2"],
        "ray": ["--engine", "ray"],
        "nodes": ["--engine", "ray", "--ray-address", "10.77.0.1:6379", "--workers", "2"],
        "beam": ["--engine", "beam", "--workers", "2"],
        "portable": ["--engine", "beam", *LOOPBACK],
    }[how]
    given = run_command(folder, tmp_path / "lake", *words)
    if how == "nodes":
        done = on(request.getfixturevalue("nodes"), *given)
    else:
        need_namespaces()
        done = alone(*given)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "lake") == expected
    (summary,) = (tmp_path / "lake/runs").glob("*/summary.json")
    steps = json.loads(summary.read_text())["steps"]
    assert (steps["annotate"]["recordings"], steps["encode"]["recordings"]) == (6, 6)
    spent = {step: steps[step]["spent"][step] for step in ("annotate", "encode")}
    assert {name: sums["seconds"] + sums["first_seconds"] for name, sums in spent.items()} == {
        name: pytest.approx(3600 * steps[name]["hours"], abs=0.01) for name in spent
    }
    assert all(sums["first_cpu_s"] + sums["of"]["cpu_s"]["total"] > 0.1 for sums in spent.values())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray", "beam"])
def test_many_batches_are_selected_by_all_workers_to_the_bytes_of_one(
    engine: str, milled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, expected = milled
    need_namespaces()
    shutil.copytree(folder / "whole", tmp_path / "lake")
    shutil.rmtree(tmp_path / "lake/selections")
    of_two = (
        "import sys; from manifests import select; select.SPAN = 2; "
        "from pipelines.commands.cli import main; sys.exit(main())"
    )
    words = ["select", str(folder / "recipe.toml"), "--lake", str(tmp_path / "lake"), "--quiet", "--workers", "2"]
    words += ["--engine", engine]
    done = alone(sys.executable, "-c", of_two, *words)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "lake") == expected
    (vad,) = (tmp_path / "lake/annotations").glob("vad-*")
    (vad / "batch-000003.parquet").unlink()
    done = alone(sys.executable, "-c", of_two, *words)
    assert (done.returncode, "run `speechmill annotate` first" in done.stderr) == (1, True), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("what", ["worker", "node", "driver"])
def test_kill_9_under_ray_costs_work_and_no_byte(
    what: str, nodes: TwoNodes, milled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, expected = milled
    killed = disturbed(nodes, what, folder, tmp_path / "lake", expected, random.Random(what), 4.0)
    assert killed.after_s > 0
    assert killed.exits == ([-signal.SIGKILL, 0] if what == "driver" else [0])
    assert killed.equal
    assert (tmp_path / "lake.out").read_text() == "", "what Ray prints is no result"


@pytest.mark.slow
def test_recordings_that_kill_their_workers_are_set_aside_alike_by_any_engine(tmp_path: Path) -> None:
    need_namespaces()
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 10 * 16000)
    for name, seconds in {"a": 10, "b": poison.CRASHES_S, "c": 9, "d": poison.EATS_S, "e": 8}.items():
        soundfile.write(tmp_path / f"in/{name}.wav", noise[: int(seconds * 16000)], 16000)
    made, commands = [], []
    # A command of one process dies with its worker, and is given once more.
    for engine, workers in (("local", "2"), ("ray", "2"), ("local", "1"), ("beam", "2")):
        root = tmp_path / f"{engine}-{workers}"
        lake = Lake.at(str(root))
        ingest(lake, [str(tmp_path / "in")], IngestConfig())
        words = sys.executable, "-c", "import poison; poison.main()", str(root), engine, workers
        outcomes = [alone(*words)]
        if outcomes[0].returncode:
            outcomes.append(alone(*words))
        # Rows that a dead worker of the same run saved are counted, too.
        line = r"^5 signal: WorkerDiedError signal: WorkerDiedError$"
        assert re.search(line, outcomes[-1].stdout, re.MULTILINE), (outcomes[-1].stdout, outcomes[-1].stderr)
        made.append(digests(root))
        commands.append(len(outcomes))
    assert made[0] == made[1] == made[2] == made[3]
    assert commands == [1, 1, 2, 1]
    (key,) = (key for key in made[0] if "vad" in key)
    rows = pq.read_table(root / key, use_threads=False).to_pylist()
    names = {r["recording_id"]: Path(r["uris"][0]).stem for _, t in lake.recordings() for r in t.to_pylist()}
    assert {names[row["recording_id"]] for row in rows if row["status"] == "failed"} == {"b", "d"}
    assert {row["error"] for row in rows if row["error"]} == {
        "workers died again and again while at it (out of memory, or a crash)"
    }


@pytest.mark.slow
def test_ray_does_not_begin_a_hopeless_unit_for_ever() -> None:
    need_namespaces()
    done = alone(sys.executable, "-c", "import where; where.hopeless()")
    assert "Ray gave up: " in done.stdout, done.stderr


def test_a_local_worker_that_is_killed_between_two_units_costs_nothing() -> None:
    found = []
    for unit in Engine("local", (2, 2)).run(range(6), [Group("ending", where.ending)]):
        found.append(unit)
        time.sleep(0.5)
    assert sorted(found) == list(range(6))


def test_a_killed_driver_takes_its_local_workers_along(tmp_path: Path) -> None:
    make_input(tmp_path, 8)
    driver = subprocess.Popen(
        run_command(tmp_path, tmp_path / "lake", "--workers", "2"), cwd=ROOT, start_new_session=True
    )
    while not list((tmp_path / "lake").glob("runs/attempts/*.json")):
        assert driver.poll() is None
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 20
    while alive := _session(driver.pid):
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def _session(leader: int) -> list[str]:
    """Processes of a session, its dead leader apart; the resource tracker ends by itself."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.slow
def test_groups_live_where_their_resources_are(nodes: TwoNodes) -> None:
    done = on(nodes, sys.executable, "-c", "import where; where.main()", nodes.address)
    assert done.returncode == 0, done.stderr
    places = json.loads(done.stdout.strip().split("\n")[-1])
    assert places == [["10.77.0.1", "10.77.0.2"]] * 8


@pytest.mark.slow
def test_workers_become_more_when_a_node_joins(nodes: TwoNodes) -> None:
    nodes.kill(2)
    words = nodes.inside(1, sys.executable, "-c", "import where; where.grow()", nodes.address)
    with subprocess.Popen(words, cwd=ROOT, env=nodes.env, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout
        told = (line.strip() for line in driver.stdout if line.startswith("10.77."))  # Ray prints of the dead node
        places = [next(told)]
        nodes.start(2)
        places += told
    assert driver.returncode == 0
    assert set(places[:-1]) == {"10.77.0.1"}
    assert places[-1] == "10.77.0.2"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["3", "3..9"])
def test_more_workers_than_the_cluster_holds_is_an_error_at_once(
    workers: str, nodes: TwoNodes, milled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    words = ["--engine", "ray", "--ray-address", nodes.address, "--workers", workers]
    done = on(nodes, *run_command(milled[0], tmp_path / "lake", *words))
    assert done.returncode == 1
    assert "3 x 1 CPU for annotate-vad do not fit on the available nodes: 1 CPU, 1 CPU and 1 GPU" in done.stderr
    assert "remedy: use fewer --workers" in done.stderr


def test_stages_that_want_a_gpu_make_a_group_with_those_that_read_them() -> None:
    def stage(name: str, gpus: float = 0.0, *needs: str) -> Vad:
        made = Vad(VadConfig())
        made.name, made.needs, made.resources = name, needs, Resources(1.0, gpus)  # type: ignore[misc]
        return made

    cpu = [stage("vad"), stage("quality", 0, "vad")]
    gpu = [stage("diarize", 1, "vad"), stage("talk", 0, "diarize")]
    assert group_by_device(cpu) == [cpu]
    assert group_by_device([cpu[0], gpu[0], gpu[1], cpu[1]]) == [cpu, gpu]
    assert group_by_device([]) == [[]]


def test_a_later_group_reads_what_an_earlier_one_measured_and_does_not_measure_it_again(tmp_path: Path) -> None:
    make_input(tmp_path, 1)
    lake = Lake.at(str(tmp_path / "lake"))
    ingest(lake, [str(tmp_path / "in")], IngestConfig())
    vad = Vad(VadConfig())
    first = Annotator(lake, [vad])
    first.annotate("batch-000000")

    class Reader(Vad):
        needs = ("vad",)

        def annotate(self, sound, known):
            return {"speech_s": known["vad"]["speech_s"] + 1}

    reader = Reader(VadConfig())
    reader.name = "quality"  # type: ignore[misc]
    reader.annotate = lambda sound, known: {"snr_db": known["vad"]["speech_s"]}  # type: ignore[method-assign]
    Annotator(lake, [reader], earlier=[vad]).annotate("batch-000000")
    mark = Annotator(lake, [reader], earlier=[vad]).fingerprints["quality"]
    (row,) = lake.read(lake.annotation_key("quality", mark, "batch-000000")).to_pylist()
    (speech,) = lake.read(lake.annotation_key("vad", first.fingerprints["vad"], "batch-000000")).to_pylist()
    assert row["snr_db"] == speech["speech_s"] > 0


def test_units_that_fail_under_beam_are_counted_told_and_cost_no_other() -> None:
    engine = Engine("beam", None, None, ("--runner=FnApiRunner",))
    units = [UnitResult("good", 2, 3.5), UnitResult("bad"), UnitResult("good", 1, 1.0)]
    results = engine.run(units, [Group("pick", partial(where.picky, "bad"))])
    total = next(results)
    assert (total.recordings, total.seconds, total.failed) == (3, 4.5, 1)
    with pytest.raises(SpeechmillError, match=r"1 units failed: SpeechmillError\('bad is bad'\)") as caught:
        next(results)
    assert "same command" in caught.value.remedy


def test_threads_of_a_beam_process_share_a_worker_and_take_turns() -> None:
    words = "--runner=FnApiRunner", "--direct_running_mode=multi_threading", "--direct_num_workers=4"
    (total,) = Engine("beam", None, None, words).run(
        [UnitResult(str(n), 1) for n in range(12)], [Group("one", where.crowded)]
    )
    assert total.recordings == 12


@pytest.mark.parametrize(
    "options",
    [
        [
            "--runner=DataflowRunner",
            "--project=some-project",
            "--region=europe-west1",
            "--job_name=mill",
            "--temp_location=gs://bucket/tmp",
            "--staging_location=gs://bucket/staging",
        ],
        ["--runner=FlinkRunner", "--flink_master=localhost:8081"],
    ],
)
def test_the_graph_of_a_remote_job_is_whole_and_holds_no_unit(options: list[str], tmp_path: Path) -> None:
    from apache_beam import Pipeline
    from apache_beam.options.pipeline_options import PipelineOptions

    lake = Lake.at(str(tmp_path))
    lake.storage.put("recordings/batch-000000.parquet", b"")
    pipeline = Pipeline(options=PipelineOptions(options))
    groups = [Group("annotate-vad", where.place), Group("annotate-diarize", where.place, 1, 1)]
    beam.build(pipeline, Pending(lake, {"signal": "x"}), groups)
    proto = pipeline.to_runner_api()
    names = {transform.unique_name for transform in proto.components.transforms.values()}
    assert {name for name in names if "/" not in name and "Work" not in name} >= {
        "Start", "Units", "Spread, annotate-vad", "annotate-vad", "Spread, annotate-diarize", "annotate-diarize",
        "Count", "Failures", "Report",
    }  # fmt: skip
    assert b"batch-000000" not in proto.SerializeToString()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--engine", "spark"], 2, "local"),
        (["--engine", "ray", "--ray-address", "127.0.0.1:1"], 1, "no Ray at 127.0.0.1:1"),
        (["--ray-address", "127.0.0.1:1"], 1, "--engine ray"),
        (["--", "--runner=FlinkRunner"], 1, "--engine beam"),
        (["--workers", "4..2"], 2, "MIN..MAX"),
        (["--workers", "many"], 2, "MIN..MAX"),
    ],
)
def test_mistakes_about_engines_are_told(
    words: list[str], code: int, message: str, milled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    done = speechmill(*run_words(milled[0], tmp_path / "lake", *words))
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "lake").exists(), "it was told after work had begun"
