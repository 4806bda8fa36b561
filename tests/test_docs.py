"""docs/: pages that are made of the code say what the code says, links lead somewhere, and examples run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import encoders
import pipelines.stages
from docs.generate import COMMAND, FOLDER, PAGES
from manifests import schemas
from manifests.exchange.convert import FORMS, convert
from manifests.exchange.relations import open_foreign
from manifests.schemas import stages as specs
from pipelines.recipes import recipe as recipes
from pipelines.recipes.keys import encoder_keys, keys
from pipelines.units.engines import Engine, Group
from runtime.errors import RecipeError

ROOT = Path(__file__).parents[1]
WRITTEN = sorted([*FOLDER.glob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("infra/**/*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_made_of_the_code_is_up_to_date(name: str) -> None:
    made, there = PAGES[name]().splitlines(), (FOLDER / name).read_text().splitlines()
    differing = [line for line in made if line not in there] + [line for line in there if line not in made]
    assert made == there, f"run `{COMMAND}` and commit docs/{name}; lines that differ: {differing[:5]}"


def test_every_key_and_every_column_says_what_it_means() -> None:
    all_keys = [*keys(), *(key for of in encoder_keys().values() for key in of)]
    assert not [key.path for key in all_keys if not key.meaning.endswith(".")]
    for name, schema in [("recordings", schemas.RECORDINGS), *schemas.STAGES.items(), ("windows", schemas.WINDOWS)]:
        assert not [column.name for column in schema if b"description" not in (column.metadata or {})], name


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_what_is_there(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        path, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if heading:
            assert heading in anchors(target), f"{page.name} links to {link}, which has no such heading"


def anchors(page: Path) -> set[str]:
    """Names by which headings are linked, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def example(name: str) -> str:
    """The example of docs/extending.md that is a file of this name."""
    blocks = re.findall(r"```python\n(.*?)```", (FOLDER / "extending.md").read_text(), re.DOTALL)
    (found,) = (block for block in blocks if block.startswith(f'"""{name}:'))
    return str(found)


def run_example(name: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": name}
    exec(compile(example(name), name, "exec", dont_inherit=True), names)
    return names


def test_the_encoder_of_the_docs_gives_windows_the_frames_of_the_whole(tmp_path: Path) -> None:
    (tmp_path / "levels.py").write_text(example("levels.py"))
    encoder = encoders.load(f"{tmp_path}/levels.py:Levels", {"floor": 1e-3})
    sound = np.random.default_rng(0).normal(0, 0.1, (2, 3200)).astype(np.float32)
    (whole,) = encoder.encode([encoder.cut(sound, 0, 10)])
    (part,) = encoder.encode([encoder.cut(sound, 4, 3)])
    assert whole.shape == (2, 10, 1)
    np.testing.assert_array_equal(part, whole[:, 4:7])


@pytest.fixture
def pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stage of the docs, whose two files lie in the folders in which stages are looked for."""
    for package, name in ((specs, "spec of pauses"), (pipelines.stages, "pauses.py")):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "pauses.py").write_text(example(name))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    loaded = specs.load_specs()
    monkeypatch.setattr(schemas, "STAGE_SPECS", loaded)
    monkeypatch.setattr(schemas, "STAGES", {name: spec.schema for name, spec in loaded.items()})
    monkeypatch.setattr(recipes, "STAGES", [name for name, spec in loaded.items() if spec.optional])
    yield
    for package in (specs, pipelines.stages):
        sys.modules.pop(f"{package.__name__}.pauses")
        delattr(package, "pauses")


@pytest.mark.usefixtures("pauses")
def test_the_stage_of_the_docs_needs_no_more_than_its_two_files() -> None:
    assert list(schemas.STAGES)[:4] == ["signal", "vad", "pauses", "diarize"]
    raw = {"name": "docs", "annotate": {"pauses": {"pause_s": 0.2}, "vad": {}}}
    recipe = recipes.parse(raw | {"select": {"recordings": {"calm": "pauses < 9"}}})
    assert [stage.name for stage in recipe.make_stages()] == ["vad", "pauses"]
    with pytest.raises(RecipeError, match=r"unknown key 'pause' in annotate\.pauses"):
        recipes.parse({"name": "docs", "annotate": {"pauses": {"pause": 0.2}, "vad": {}}})


@pytest.mark.usefixtures("pauses")
def test_the_stage_of_the_docs_gives_a_row_of_its_schema() -> None:
    _, stage = recipes.parse({"name": "docs", "annotate": {"vad": {}, "pauses": {}}}).make_stages()
    sound: Any = None  # the stage reads the rows of vad alone
    spans = [(0.0, 1.0), (1.2, 2.0), (2.5, 3.0), (2.6, 5.0), (6.0, 7.0)]
    segments = [{"track": 0, "start_s": start, "end_s": end} for start, end in spans]
    row = stage.annotate(sound, {"vad": {"segments": segments}})
    made = schemas.table([{"recording_id": "a", "status": "ok", **row}], stage.schema)
    assert made["pauses"].to_pylist() == [2]
    _, other = recipes.parse({"name": "docs", "annotate": {"vad": {}, "pauses": {"pause_s": 0.1}}}).make_stages()
    assert other.fingerprint({"vad": "v"}) != stage.fingerprint({"vad": "v"})


def test_the_format_of_the_docs_is_written(tmp_path: Path) -> None:
    turns = tmp_path / "a.rttm"
    turns.write_text("SPEAKER a 1 0.5 1.25 <NA> <NA> ann <NA> <NA>\nSPEAKER a 1 2 1 <NA> <NA> bob <NA> <NA>\n")
    run_example("audacity.py")
    try:
        done = convert(open_foreign([str(turns)]), "audacity", str(tmp_path / "labels.txt"))
    finally:
        del FORMS["audacity"]
    assert (tmp_path / "labels.txt").read_text() == "0.500000\t1.750000\tann\n2.000000\t3.000000\tbob\n"
    assert done.files == {str(tmp_path / "labels.txt"): 2}
    assert "recording_id of 2 segments" in done.lost


def test_the_engine_of_the_docs_gives_every_unit_to_a_worker_of_each_group() -> None:
    made: list[str] = []

    def group(name: str, factor: int) -> Group:
        def make() -> Any:
            made.append(name)
            return lambda unit: unit * factor

        return Group(name, make)

    run = run_example("threads.py")["run"]
    found = run(range(20), [group("a", 2), group("b", 3)], Engine("local", (2, 2)))
    assert sorted(found) == [6 * unit for unit in range(20)]
    assert set(made) == {"a", "b"}
    assert len(made) <= 4
