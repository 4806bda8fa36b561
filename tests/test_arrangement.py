"""What ARCHITECTURE.md says of the rooms: which may know which, and that a stage is described in every place."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from manifests import schemas
from manifests.exchange import checks
from pipelines.recipes import recipe
from pipelines.stages.registry import stage_class

ROOT = Path(__file__).parents[1]
MAY_KNOW = {
    "pipelines": {"encoders", "studies", "manifests", "runtime"},
    "studies": {"manifests", "runtime"},
    "studies/slm": {"speechmill", "studies", "manifests", "runtime"},
    "encoders": {"runtime"},
    "runtime": {"manifests.install", "manifests.corrupt", "manifests.storage"},
    "speechmill": {"manifests"},
    "manifests": set[str](),
}
SOUND = {"av", "soundfile", "librosa", "torchaudio", "sphn", "pyloudnorm"}
ENGINES = {"ray", "apache_beam"}
NEVER = {"manifests": SOUND | ENGINES, "studies": SOUND | ENGINES | {"torch"}, "studies/slm": SOUND | ENGINES}
"""Packages of others that a room imports nowhere, also not within a function."""


def imported(room: str) -> Iterator[tuple[str, str]]:
    """Of each import in a room, the file and the module. A room within another one is not a part of it."""
    within = [ROOT / other for other in MAY_KNOW if other.startswith(f"{room}/")]
    for path in sorted((ROOT / room).rglob("*.py")):
        if any(path.is_relative_to(other) for other in within):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((str(path), alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None, f"{path} imports by a relative name"
                yield str(path), node.module


@pytest.mark.parametrize("room", MAY_KNOW)
def test_arrows_between_rooms_point_one_way(room: str) -> None:
    known = [(path, module) for path, module in imported(room) if module.partition(".")[0] in MAY_KNOW.keys() - {room}]
    for path, module in known:
        assert {module, module.partition(".")[0]} & MAY_KNOW[room], f"{path} imports {module}"
    assert not {module.partition(".")[0] for _, module in imported(room)} & NEVER.get(room, set())


def test_the_trainer_is_known_to_its_commands_alone() -> None:
    """It reads what the mill makes, as any trainer does: the mill must not come to depend on it."""
    found = {path for room in MAY_KNOW.keys() - {"studies/slm"} for path, module in imported(room) if "slm" in module}
    assert {str(Path(path).relative_to(ROOT)) for path in found} == {
        "studies/cli.py", "pipelines/commands/generate.py",
    }  # fmt: skip


def test_no_imports_of_files_or_of_rooms_in_pipelines_go_in_a_circle() -> None:
    """Imports within functions and those for types alone count, too."""
    files, rooms = TopologicalSorter[str](), TopologicalSorter[str]()
    for room in MAY_KNOW:
        for path, module in imported(room):
            name = str(Path(path).relative_to(ROOT).with_suffix("")).removesuffix("/__init__").replace("/", ".")
            if not (ROOT / module.replace(".", "/")).is_dir():  # a folder opens what lies in it when that is asked for
                files.add(name, module)
            if name.startswith("pipelines.") and module.startswith("pipelines."):
                one, other = name.split(".")[1:-1], module.split(".")[1:-1]
                if one and other and one[0] != other[0]:
                    rooms.add(one[0], other[0])
    files.prepare()
    rooms.prepare()


@pytest.mark.parametrize("stage", schemas.STAGE_SPECS)
def test_the_specification_of_a_stage_fits_its_columns_and_its_class(stage: str) -> None:
    spec = schemas.STAGE_SPECS[stage]
    columns = set(spec.schema.names)
    assert spec.schema.names[: len(schemas.BASE)] == schemas.BASE_NAMES
    assert {*spec.headline, *spec.listed, *spec.bulky} <= columns
    assert not spec.bulky or set(schemas.judged(stage).names) == columns - set(spec.bulky)
    assert stage not in recipe.STAGES or (stage_class(stage).name, stage_class(stage).schema) == (stage, spec.schema)
    query = "SELECT " + ", ".join(f"({check.bad})" for check in (*checks.STAGES[stage], *checks.FAILURE))
    with duckdb.connect() as connection:
        beside = {"duration_s": pa.float64(), "tracks": pa.int32()}
        rows = spec.schema.empty_table()
        for name, kind in beside.items():
            rows = rows if name in columns else rows.append_column(name, pa.array([], kind))
        connection.register("rows", rows)
        assert connection.execute(f"{query} FROM rows").fetchall() == []


def test_every_file_of_a_stage_is_found_by_its_name() -> None:
    files = {path.stem for path in (ROOT / "manifests/schemas/stages").glob("*.py")} - {"__init__"}
    assert files == set(schemas.STAGES) == set(recipe.STAGES) | {"signal"}  # which every recipe measures
    orders = [spec.order for spec in schemas.STAGE_SPECS.values()]
    assert orders == sorted(set(orders))


def test_a_stage_comes_after_those_whose_rows_it_reads() -> None:
    done: list[str] = []
    for stage in recipe.parse({"name": "all", "annotate": {name: {} for name in recipe.STAGES}}).make_stages():
        assert set(stage.needs) <= set(done)
        done.append(stage.name)


def test_no_column_of_a_stage_takes_the_place_of_another_one() -> None:
    """Rules and views know the columns of all stages by their names alone."""
    own = Counter(name for schema in schemas.STAGES.values() for name in set(schema.names) - set(schemas.BASE_NAMES))
    assert [name for name, count in own.items() if count > 1] == []
    # What signal measures of these is meant to win over what a header claims.
    assert own.keys() & set(schemas.RECORDINGS.names) == {"sample_rate", "channels"}
