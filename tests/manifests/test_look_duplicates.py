"""`manifest duplicates` tells groups, and passages with how many recordings hold them and where they were met first."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from documented import documented, holds, paths
from planted import drawn, match, write_fingerprints

from manifests import schemas
from manifests.fingerprint import pretty
from manifests.lake import Lake
from pipelines.commands.cli import cli


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """r0 to r9 with one jingle in r2 to r6; r9 is a copy of r8."""
    rng = np.random.default_rng(0)
    made, jingle = [drawn(rng, 30) for _ in range(10)], drawn(rng, 8)
    for number in range(2, 7):
        made[number] = made[number].with_inside(jingle, 10_000)
    made[9] = made[8].changed(rng, 0.05)
    lake = Lake.at(str(tmp_path))
    write_fingerprints(lake, 0, [(f"r{number}", one) for number, one in enumerate(made)])
    matches = match(lake)
    told = {"name": "s", "stages": {"fingerprint": "f"}, "context_s": 1, "continuation_s": 1, "matches": matches.mark}
    lake.storage.put("selections/s/selection.json", pretty(told).encode())
    lake.storage.put("selections/s/funnel.json", b"{}")
    rows = [
        {"recording_id": f"r{number}", "verdict": "rejected" if number == 9 else "kept", "reasons": []}
        | ({"duplicate_of": "r8"} if number == 9 else {})
        for number in range(10)
    ]
    lake.write(lake.verdicts_key("s", "batch-000000"), schemas.table(rows, schemas.VERDICTS))
    return lake


def test_groups_and_passages_are_told(lake: Lake) -> None:
    done = CliRunner().invoke(cli, ["manifest", "duplicates", lake.storage.root, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["groups"] == [{"kept": "r8", "duplicates": ["r9"]}]
    (passage,) = found["passages"]
    assert (passage["recording_id"], passage["repeats"], found["passage_count"]) == ("r2", 5, 1)
    assert (passage["start_s"], passage["end_s"]) == pytest.approx((10, 18), abs=0.8)
    assert {place["recording_id"] for place in passage["places"]} <= {"r3", "r4", "r5", "r6"}
    assert all(any(holds(key, path) for key in documented()["duplicates"]) for path in paths(found))
    shown = CliRunner().invoke(cli, ["manifest", "duplicates", lake.storage.root])
    assert "1 groups of the same sound, 1 duplicates" in shown.output
    assert "r2" in shown.output


def test_a_lake_without_matches_is_told_what_it_needs(tmp_path: Path) -> None:
    lake = Lake.at(str(tmp_path))
    write_fingerprints(lake, 0, [("r0", drawn(np.random.default_rng(0), 5))])
    done = CliRunner().invoke(cli, ["manifest", "duplicates", str(tmp_path)])
    assert done.exit_code == 1
    assert "[annotate.fingerprint]" in done.output
