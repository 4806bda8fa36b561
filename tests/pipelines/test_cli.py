"""The command line from end to end: a real conversation to counted shards, the same from any number of workers."""

import contextlib
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import duckdb
import lhotse
import pyarrow.parquet as pq
import pytest
from forked import speechmill

from manifests.rules import check_rules
from manifests.selection import Selection
from pipelines.recipes import recipe
from runtime.errors import RecipeError

ROOT = Path(__file__).parents[2]


def digests(lake: Path) -> dict[str, str]:
    return {
        str(path.relative_to(lake)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(lake.rglob("*"))
        if path.is_file() and path.relative_to(lake).parts[0] != "runs"
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, conversation: Path) -> Path:
    """The lake that one worker mills of the conversation by the recipe `demo`."""
    lake = tmp_path_factory.mktemp("demo") / "demo-lake"
    done = speechmill("run", "demo", "--in", str(conversation), "--lake", str(lake))
    assert done.returncode == 0, done.stderr
    (lake.parent / "told.txt").write_text(done.stdout)
    return lake


def test_a_conversation_becomes_counted_shards(demo: Path) -> None:
    ledger = pq.read_table(demo / "datasets/demo/ledger.parquet").to_pylist()
    assert sorted(row["patch"] for row in ledger) == [1, 2, 3, 4, 5, 6]
    first = next(row for row in ledger if row["patch"] == 1)
    assert (first["windows"], first["frames"]) == (2, 2 * 640)  # of 3: nobody speaks in the first
    assert (first["context_tokens"], first["continuation_tokens"]) == (2 * 160, 2 * 480)
    patch3 = next(row for row in ledger if row["patch"] == 3)
    assert (patch3["context_tokens"], patch3["continuation_tokens"]) == (2 * 53, 2 * 160)
    dataset = demo / "datasets/demo"
    listed = json.loads((dataset / "fields.json").read_text())["train"]
    cuts = lhotse.CutSet.from_shar({kind: [str(dataset / name) for name in names] for kind, names in listed.items()})
    assert [cut.load_latents().shape for cut in cuts] == [(640, 80)] * 2
    assert json.loads((dataset / "recipe.json").read_text())["select"]["continuation_s"] == 6.0


def test_the_documented_demo_prints_what_is_documented(demo: Path) -> None:
    told = (demo.parent / "told.txt").read_text()
    blocks = (ROOT / "docs/start.md").read_text().split("```")[1::2]
    (block,) = (block for block in blocks if "1 new" in block)
    assert block.strip() == told.strip(), "paste into docs/start.md what `make demo` prints"


def test_the_commands_of_the_tutorial_print_what_is_documented(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from docs.paste import PAGE, update_output

    page = PAGE.read_text()
    assert update_output(page, str(demo)) == page, "run `make demo && python -m docs.paste demo-lake`"
    monkeypatch.chdir(demo.parent)
    (example,) = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", page, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(example[0], {})
    assert printed.getvalue() == example[1]


def test_the_same_run_again_changes_nothing(demo: Path, conversation: Path) -> None:
    before = digests(demo)
    again = speechmill("run", "demo", "--in", str(conversation), "--lake", str(demo))
    assert "1 known" in again.stdout
    assert digests(demo) == before


@pytest.mark.slow
def test_two_workers_make_the_bytes_of_one(demo: Path, conversation: Path, tmp_path: Path) -> None:
    two = speechmill("run", "demo", "--in", str(conversation), "--lake", str(tmp_path / "two"), "--workers", "2")
    assert two.returncode == 0, two.stderr
    assert digests(tmp_path / "two") == digests(demo)


def test_ingest_tells_what_it_left_out_by_suffix(tmp_path: Path, conversation: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "call.wav").write_bytes(conversation.read_bytes())
    for name in ("a.json", "b.json", "c.tar.gz"):
        (folder / name).write_bytes(b"")
    done = speechmill("ingest", "demo", "--in", str(folder), "--lake", str(tmp_path / "lake"))
    assert "0 unreadable; left out 3: 2 .json, 1 .tar.gz" in done.stdout
    told = json.loads(
        speechmill("ingest", "demo", "--in", str(folder), "--lake", str(tmp_path / "lake"), "--json").stdout
    )
    assert told["ingest"]["left_out"] == {".json": 2, ".tar.gz": 1}


def test_models_are_listed_verified_and_found() -> None:
    assert "campplus" in speechmill("models", "list").stdout
    verified = speechmill("models", "verify", "silero-vad", "campplus")
    assert (verified.returncode, verified.stdout.count(" ok\n")) == (0, 2)
    assert speechmill("models", "where", "silero-vad").stdout.endswith("silero_vad.jit\n")


def test_a_shard_cut_short_by_one_byte_is_found_and_named(tmp_path: Path, demo: Path) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(demo, lake)
    assert speechmill("tokens", "verify", "demo", "--lake", str(lake)).returncode == 0
    for _ in range(5):  # short processes that read Parquet used to abort as they ended
        shown = speechmill("tokens", "show", "demo", "--lake", str(lake))
        assert (shown.returncode, "1,280" in shown.stdout) == (0, True)
    shard = lake / "datasets/demo/train/latents.000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    done = speechmill("tokens", "verify", "demo", "--lake", str(lake))
    assert done.returncode == 3
    assert "latents.000000.tar" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "nope", "--in", ".", "--lake", "LAKE"], 1, "no recipe 'nope'"),
        (["run", "demo", "--in", "nowhere", "--lake", "LAKE"], 1, "there is no 'nowhere'"),
        (["run", "demo", "--lake", "LAKE"], 2, "--in"),
        (["select", "demo", "--lake", "LAKE", "--set", "encode.encoder=mel"], 2, "logmel"),
        (["select", "demo", "--lake", "LAKE", "--set", "encode.settings.bins=8"], 2, "num_mels"),
        (["select", "demo", "--lake", "ftp://host/x"], 2, "s3://bucket/prefix"),
        (["tokens", "show", "demo", "--lake", "LAKE"], 1, "there is no lake at"),
        (["tokens", "show", "demo", "--lake", "LAKE", "--by", "colour"], 2, "num_speakers"),
        (["tokens", "show", "demo", "stray", "--lake", "LAKE"], 2, "stray"),
        (["models", "where", "nope"], 1, "silero-vad"),
        (["select", "demo", "--lake", "LAKE", "--set", "select.grid=1"], 2, "did you mean 'grid_s'"),
        (["select", "demo", "--lake", "LAKE", "--set", "select.recordings.x='nix > 1'"], 2, "select.recordings.x"),
    ],
)
def test_mistakes_are_told_with_an_exit_code(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    done = speechmill(*[str(tmp_path / "lake") if word == "LAKE" else word for word in words])
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("name", recipe.shipped())
def test_the_rules_of_shipped_recipes_name_columns_that_their_stages_make(name: str) -> None:
    loaded = recipe.load(name)
    assert loaded.name == name
    stages = dict.fromkeys(["signal", *loaded.stages], "x")
    of = {"recordings": loaded.select.recordings, "windows": loaded.select.windows}
    rules = Selection("s", stages, context_s=1, continuation_s=1, **of)
    check_rules(duckdb.connect(), rules)


@pytest.mark.parametrize("override", ["annotate.vad.threshold=2", "select.splits={a=0.5}", "name=a.b", "nonsense"])
def test_overrides_are_checked(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.load("demo", (override,))
    assert caught.value.remedy
