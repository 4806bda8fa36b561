"""Views over small lakes written by hand: what SQL sees is what select sees, and nothing outside the lake."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from lakes import STAGES, rules, write_lake

from manifests.choice import ChoiceError, choose
from manifests.lake import Lake
from manifests.select import select
from manifests.view_columns import VIEWS, columns_of_views, parts_needed
from manifests.views import open_views

BATCHES = [
    [
        {"id": "kept", "duration_s": 20.0, "speech": [(0, 9), (10, 12)]},
        {"id": "closed", "duration_s": 7.0, "ingest_error": "PermissionError"},
        {"id": "broken", "duration_s": 30.0, "error": "UnreadableAudioError"},
    ],
    [{"id": "short", "duration_s": 4.0}],
    [{"id": "gone", "duration_s": 7.0, "ingest_error": "PermissionError"}],
]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return write_lake(tmp_path / "a[1]'s lake", BATCHES)


def annotations(lake: Lake) -> dict[str, tuple[float | None, float | None]]:
    rows = open_views(lake).execute("SELECT recording_id, duration_s, speech_share FROM annotations").fetchall()
    return {row[0]: row[1:] for row in rows}


def test_annotations_hold_one_row_a_recording_failures_included(lake: Lake) -> None:
    expected = {
        "kept": (20.0, 0.55), "broken": (None, 0.0), "short": (4.0, 0.0), "closed": (None, None), "gone": (None, None),
    }  # fmt: skip
    assert annotations(lake) == expected
    assert "POSITIONAL JOIN" in definition(lake)
    lake.storage.delete(lake.annotation_key("vad", "v", "batch-000001"))
    assert annotations(lake) == expected | {"short": (4.0, None)}
    assert "POSITIONAL JOIN" not in definition(lake)


def definition(lake: Lake) -> str:
    query = "SELECT sql FROM duckdb_views() WHERE view_name = 'annotations'"
    return str(open_views(lake).execute(query).fetchall()[0][0])


def test_a_stage_in_another_order_is_joined_by_id(lake: Lake) -> None:
    key = lake.annotation_key("vad", "v", "batch-000000")
    table = lake.read(key)
    lake.write(key, table.take([1, 1]))
    assert "POSITIONAL JOIN" not in definition(lake)


def test_every_view_is_there_whatever_the_lake_holds(lake: Lake) -> None:
    connection = open_views(lake)
    for name, schema in VIEWS.items():
        assert connection.sql(f"FROM {name}").columns == schema.names
    assert connection.execute("SELECT count(*) FROM windows").fetchall() == [(0,)]
    select(lake, rules())
    assert open_views(lake).execute("SELECT count(*), count(*) FILTER (kept) FROM windows").fetchall() == [(2, 1)]


def test_the_newest_selection_is_looked_at_unless_one_is_named(lake: Lake) -> None:
    select(lake, rules())
    assert choose(lake).selection == "sel"
    assert choose(lake).stages == STAGES
    with pytest.raises(ChoiceError, match="no selection 'nix'") as caught:
        choose(lake, selection="nix")
    assert "sel" in caught.value.remedy


def test_a_stage_of_two_fingerprints_must_be_chosen(lake: Lake) -> None:
    lake.storage.put(
        "annotations/vad-w/batch-000000.parquet", lake.storage.read("annotations/vad-v/batch-000000.parquet")
    )
    with pytest.raises(ChoiceError, match="vad") as caught:
        choose(lake)
    assert "--stage vad=v" in caught.value.remedy
    assert choose(lake, stages={"vad": "w"}).stages["vad"] == "w"


@pytest.mark.parametrize(
    "query",
    ["FROM read_text('/etc/hostname')", "FROM glob('/etc/*')", "COPY recordings TO '/tmp/x.csv'", "SET threads = 1"],
)
def test_sql_reaches_nothing_outside_the_lake(lake: Lake, query: str) -> None:
    with pytest.raises(duckdb.Error):
        open_views(lake).execute(query)


class Elsewhere:
    """A storage that DuckDB cannot open by itself, as an object store is."""

    def __init__(self, lake: Lake) -> None:
        self.inner, self.root = lake.storage, "elsewhere://bucket/lake"

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


def test_any_storage_is_read_through_its_filesystem(lake: Lake) -> None:
    select(lake, rules())
    elsewhere = Lake(Elsewhere(lake))
    assert annotations(elsewhere) == annotations(lake)
    connection = open_views(elsewhere)
    query = "SELECT recording_id, verdict, windows, (SELECT count(*) FROM windows) FROM recordings ORDER BY ALL"
    assert connection.execute(query).fetchall() == open_views(lake).execute(query).fetchall()
    with pytest.raises(duckdb.Error):
        connection.execute("FROM read_text('/etc/hostname')")


def test_one_view_has_every_column_of_a_recording_and_one_those_of_a_window_and_its_recording(lake: Lake) -> None:
    select(lake, rules())
    connection = open_views(lake)
    columns = columns_of_views()
    for view in ("recordings", "windows"):
        assert connection.sql(f"FROM {view}").columns == columns[view]
    query = (
        "SELECT recording_id, duration_s, speech_share, error_type, verdict, windows FROM recordings "
        "WHERE recording_id IN ('kept', 'closed') ORDER BY ALL"
    )
    assert connection.execute(query).fetchall() == [
        ("closed", None, None, "PermissionError", "failed", 0),
        ("kept", 20.0, 0.55, None, "kept", 2),
    ]
    query = "SELECT duration_s < recording_duration_s, recording_duration_s, recording_windows, verdict FROM windows"
    assert connection.execute(query).fetchall() == [(True, 20.0, 2, "kept")] * 2


def test_what_a_header_claims_is_shown_until_a_recording_is_decoded(lake: Lake) -> None:
    decoded = lake.annotation_key("signal", "s", "batch-000001")
    for key, rate in ((lake.recordings_key("batch-000001"), 8000), (decoded, 16000)):
        table = lake.read(key)
        place = table.schema.get_field_index("sample_rate")
        lake.write(key, table.set_column(place, table.schema.field(place), pa.array([rate], pa.int32())))
    query = "SELECT sample_rate, claimed_sample_rate FROM recordings WHERE recording_id = 'short'"
    assert open_views(lake).execute(query).fetchall() == [(16000, 8000)]
    lake.storage.delete(decoded)
    assert open_views(lake).execute(query).fetchall() == [(8000, 8000)]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT language, sum(duration_s) FROM recordings GROUP BY ALL ORDER BY ALL",
        "SELECT verdict, reasons, count(*) FROM recordings GROUP BY ALL ORDER BY ALL",
        "SELECT windows FROM recordings ORDER BY ALL",
        "SELECT codec, count(*), sum(recording_duration_s) FROM windows GROUP BY ALL",
        "SELECT duplicate_of, recording_windows, kept FROM windows ORDER BY ALL",
        "SELECT reasons, split FROM windows ORDER BY ALL",
    ],
)
def test_the_parts_that_sql_needs_answer_it_as_all_of_them_do(lake: Lake, query: str) -> None:
    select(lake, rules())
    parts = parts_needed(query)
    assert len(parts) <= 4
    assert open_views(lake, parts=parts).execute(query).fetchall() == open_views(lake).execute(query).fetchall()
