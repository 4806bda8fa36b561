"""What ARCHITECTURE.md says of the rooms: which may know which, and that a stage is described in every place."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from manifests import schemas
from manifests.exchange import checks
from manifests.sums import MEASURES
from pipelines.recipes import recipe

ROOT = Path(__file__).parents[1]
MAY_KNOW = {
    "pipelines": {"encoders", "studies", "manifests", "runtime"},
    "studies": {"manifests", "runtime"},
    "encoders": {"runtime"},
    "runtime": {"manifests.install", "manifests.corrupt", "manifests.storage"},
    "speechmill": {"manifests"},
    "manifests": set[str](),
}
SOUND = {"av", "soundfile", "librosa", "torchaudio", "sphn", "pyloudnorm"}
ENGINES = {"ray", "apache_beam"}
NEVER = {"manifests": SOUND | ENGINES, "studies": SOUND | ENGINES | {"torch"}}
"""Packages of others that a room imports nowhere, also not within a function."""


def imported(room: str) -> Iterator[tuple[str, str]]:
    """Of each import in a room, the file and the module."""
    for path in sorted((ROOT / room).rglob("*.py")):
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


def test_a_stage_is_described_wherever_stages_are_told_apart() -> None:
    """Without its rules or measures, `select` and `manifest validate` would end in a KeyError."""
    stages = set(schemas.STAGES)
    assert set(recipe.STAGES) == stages - {"signal"}  # which every recipe measures
    assert set(checks.STAGES) == stages
    assert set(MEASURES) == stages | {"recordings"}
    for stage, names in MEASURES.items():
        assert set(names) <= set((schemas.STAGES | {"recordings": schemas.RECORDINGS})[stage].names)


def test_no_column_of_a_stage_takes_the_place_of_another_one() -> None:
    """Rules and views know the columns of all stages by their names alone."""
    own = Counter(name for schema in schemas.STAGES.values() for name in set(schema.names) - set(schemas.BASE_NAMES))
    assert [name for name, count in own.items() if count > 1] == []
    # What signal measures of these is meant to win over what a header claims.
    assert own.keys() & set(schemas.RECORDINGS.names) == {"sample_rate", "channels"}
