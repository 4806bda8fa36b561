"""Selecting many recordings at once gives what selecting them one by one gives, to the last bit."""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference_select import reference_select

from manifests import schemas
from manifests import select as module
from manifests.funnel import Funnel
from manifests.lake import Lake
from manifests.matches import matches_key
from manifests.select import select
from manifests.selection import Selection
from pipelines.recipes import recipe

MARKS = dict.fromkeys(schemas.STAGES, "m")
SAMPLES = st.integers(0, 80 * 16000)
"""Times of 16 kHz sound: many lie between two numbers of six decimals."""
TIMES = st.one_of(SAMPLES.map(lambda n: n / 16000), st.integers(0, 800).map(lambda n: n / 10), st.floats(0, 80))
SHARES = st.floats(0, 1)
SPANS = st.lists(
    st.tuples(TIMES, TIMES).map(sorted).flatmap(lambda s: st.tuples(st.just(s[0]), st.just(s[1]), st.integers(0, 1))),
    max_size=12,
)


@st.composite
def recordings(draw: st.DrawFn, number: int) -> dict[str, dict[str, Any]]:
    """One recording as a row of each table; a stage that it never reached has none."""
    base = {"recording_id": f"{number:020x}", "status": "ok"}
    failed_at = draw(st.sampled_from([None] * 7 + ["ingest", *schemas.STAGES]))
    failed = base | {"status": "failed", "error_type": "UnreadableAudioError"}
    claimed = {"uris": [f"{number}.wav"], "claimed_duration_s": draw(st.sampled_from([None, 0.0, 33.25]))}
    claimed |= {"source": draw(st.sampled_from([None, "here"])), "licence": "MIT"}
    rows = {"recordings": (failed if failed_at == "ingest" else base) | claimed}
    if failed_at == "ingest":
        return rows
    tracks = draw(st.sampled_from([1, 2]))
    duration_s = draw(st.one_of(st.just(80.0), SAMPLES.map(lambda n: n / 16000)))
    spans = [{"start_s": start, "end_s": end, "track": track} for start, end, track in draw(SPANS)]
    speakers = st.sampled_from(["A", "B", "C"])
    turns = [{"start_s": s, "end_s": e, "track": t, "speaker": draw(speakers)} for s, e, t in draw(SPANS)]
    known: dict[str, dict[str, Any]] = {
        "signal": {
            "duration_s": duration_s,
            "pcm_sha256": draw(st.sampled_from(["same", f"{number}", f"{number}"])),
            "tracks": tracks,
            "channel_relation": draw(st.sampled_from(["mono", "speakers"])),
            "leakage_db": draw(st.one_of(st.none(), st.floats(-30, 0))),
        },
        "vad": {
            "segments": draw(st.sampled_from([spans, None])),
            "speech_share": draw(SHARES),
            "speech_per_track_s": [draw(TIMES) for _ in range(tracks)],
        },
        "diarize": {"turns": draw(st.sampled_from([turns, turns, None])), "num_speakers": draw(st.integers(0, 3))},
        "language": {
            "language": draw(st.sampled_from([None, "en"])),
            "language_confidence": draw(SHARES),
            "language_shares": draw(st.sampled_from([None, {"en": 1.0}, {"en": 0.5, "de": 0.5}])),
        },
        "quality": {"dnsmos_ovrl": draw(st.floats(1, 5)), "music_likelihood": draw(SHARES)},
    }
    for stage, row in known.items():
        rows[stage] = failed if stage == failed_at else base | row
    return rows


@st.composite
def batches(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    sizes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    return [[draw(recordings(100 * batch + row)) for row in range(size)] for batch, size in enumerate(sizes)]


@st.composite
def shared(draw: st.DrawFn, made: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Rows of MATCHES of each batch: stretches that recordings share with ones that were met before them."""
    met: list[tuple[str, float]] = []
    rows: list[list[dict[str, Any]]] = []
    for batch in made:
        rows.append([])
        for row in batch:
            known = row.get("signal", {})
            if known.get("pcm_sha256") is None or known["duration_s"] < 9:
                continue
            one = row["signal"]["recording_id"], known["duration_s"]
            for other in met:
                for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
                    rows[-1].append(draw(stretches(one, other)))
            met.append(one)
    return rows


@st.composite
def stretches(draw: st.DrawFn, one: tuple[str, float], other: tuple[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {"speed": 1.0, "confidence": 0.5, "evidence": 20.0}
    for name, (recording_id, duration_s) in (("", one), ("other_", other)):
        start, end = sorted(draw(st.lists(st.integers(0, int(duration_s * 1000)), min_size=2, max_size=2)))
        start, end = draw(st.sampled_from([(start, end), (0, 5000), (0, int(duration_s * 1000))]))
        row |= {"other_id" if name else "recording_id": recording_id, f"{name}share": draw(SHARES)}
        row |= {f"{name}start_s": start / 1000, f"{name}end_s": end / 1000}
    return row


def write(folder: str, made: list[list[dict[str, Any]]]) -> Lake:
    lake = Lake.at(folder)
    for number, rows in enumerate(made):
        batch = f"batch-{number:06d}"
        for name, schema in {"recordings": schemas.RECORDINGS, **schemas.STAGES}.items():
            key = lake.recordings_key(batch) if name == "recordings" else lake.annotation_key(name, "m", batch)
            lake.write(key, schemas.table([row[name] for row in rows if name in row], schema))
    return lake


def compare(lake: Lake, selection: Selection) -> None:
    """Bytes and counts of `select`, against the same said plainly."""
    funnel, told = select(lake, selection), Funnel("plainly")
    for batch, (verdicts, windows) in reference_select(lake, selection).items():
        plain = pa.Table.from_pylist(verdicts, schemas.VERDICTS), pa.Table.from_pylist(windows, schemas.WINDOWS)
        for key, table in zip((lake.verdicts_key, lake.windows_key), plain, strict=True):
            made = lake.read(key(selection.name, batch))
            assert made.to_pylist() == table.to_pylist()
            lake.write("plain.parquet", table)
            assert lake.storage.read("plain.parquet") == lake.storage.read(key(selection.name, batch))
        for row in verdicts:
            told.tally("recordings", row["verdict"], row["reasons"], 1, row["duration_s"])
        for row in windows:
            told.tally("windows", "kept" if row["kept"] else "rejected", row["reasons"], 1, row["duration_s"])
    assert funnel.count == told.count
    for what, seconds in told.seconds.items():
        assert funnel.seconds[what] == pytest.approx(seconds)


FEW = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
PLENTY = settings(FEW, max_examples=40)


GEOMETRIES = st.tuples(
    batches(),
    st.sampled_from([(2, 6), (0, 0.3), (10, 30)]),
    st.sampled_from([None, 1.0, 2.55, 20.0]),
    st.sampled_from([0.1, 0.4, 1 / 3]),
    st.sampled_from(["none", "turns"]),
    st.sampled_from([["signal", "vad", "diarize"], ["signal", "vad"], ["signal"], list(schemas.STAGES)]),
    st.sampled_from([1, 20_000]),
)


@FEW
@given(GEOMETRIES)
def test_a_geometry_is_cut_as_one_by_one(geometry: tuple[Any, ...]) -> None:
    cut_alike(*geometry)


@pytest.mark.slow
@PLENTY
@given(GEOMETRIES)
def test_any_geometry_is_cut_as_one_by_one(geometry: tuple[Any, ...]) -> None:
    cut_alike(*geometry)


def cut_alike(
    made: list[list[dict[str, Any]]],
    window: tuple[float, float],
    stride_s: float | None,
    grid_s: float,
    align: str,
    stages: list[str],
    at_once: int,
) -> None:
    selection = Selection(
        "plain", dict.fromkeys(stages, "m"), context_s=window[0], continuation_s=window[1],
        stride_s=stride_s, grid_s=grid_s, align=align,
        splits={"train": 0.5, "test": 0.5},
        recordings={"long": "duration_s >= 9", "here": "source = 'here' or duration_s > 30"},
        windows={"a": "speech_share >= 0.3", "b": "speech_share >= 0.3", "overlap": "coalesce(overlap_share, 0) < 0.5"},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", at_once)
        compare(write(folder, made), selection)


def test_a_span_that_ends_where_a_window_starts_is_not_in_it(tmp_path: Path) -> None:
    long, short = ({"start_s": start, "end_s": end, "track": 0} for start, end in ((0.0, 20.0), (1.0, 8.0)))
    base = {"recording_id": "0", "status": "ok"}
    row = {
        "recordings": base | {"uris": ["0.wav"], "source": "here", "licence": "MIT"},
        "signal": base | {"duration_s": 24.0, "pcm_sha256": "0", "tracks": 1},
        "vad": base | {"segments": [long, short]},
        "diarize": base | {"turns": [long | {"speaker": "A"}, short | {"speaker": "B"}]},
    }
    stages = dict.fromkeys(("signal", "vad", "diarize"), "m")
    selection = Selection("edge", stages, context_s=2, continuation_s=6)
    lake = write(str(tmp_path), [[row | dict.fromkeys(("language", "quality"), base)]])
    compare(lake, selection)
    windows = lake.read(lake.windows_key("edge", "batch-000000")).to_pylist()
    assert [window["num_speakers"] for window in windows] == [2, 1, 1]


MATCHED = st.tuples(
    batches().flatmap(lambda made: st.tuples(st.just(made), shared(made))),
    st.sampled_from([(2, 6), (0, 0.3), (10, 30)]),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(["repeated_share < 0.5", "repeats <= 2", "duration_s > 30"]),
    st.sampled_from([1, 20_000]),
)


@FEW
@given(MATCHED)
def test_what_repeats_is_found_as_one_by_one(matched: tuple[Any, ...]) -> None:
    matched_alike(*matched)


@pytest.mark.slow
@settings(PLENTY, max_examples=150)
@given(MATCHED)
def test_whatever_repeats_is_found_as_one_by_one(matched: tuple[Any, ...]) -> None:
    matched_alike(*matched)


def matched_alike(
    given: tuple[list[list[dict[str, Any]]], list[list[dict[str, Any]]]],
    window: tuple[float, float],
    most_repeats: int | None,
    rule: str,
    at_once: int,
) -> None:
    made, matches = given
    selection = Selection(
        "plain", dict.fromkeys(("signal", "vad", "diarize"), "m"), context_s=window[0], continuation_s=window[1],
        splits={"train": 0.5, "test": 0.5}, recordings={"long": "duration_s >= 9", "rare": rule},
        windows={"new": "repeated_share < 0.9"},
        most_repeats=most_repeats, matches="m",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", at_once)
        patch.setattr(module, "SPAN", 2)
        lake = write(folder, made)
        for number, rows in enumerate(matches):
            lake.write(matches_key("m", f"batch-{number:06d}"), schemas.table(rows, schemas.MATCHES))
        compare(lake, selection)


SHIPPED = batches(), st.sampled_from(recipe.shipped())


@FEW
@given(*SHIPPED)
def test_a_shipped_recipe_selects_as_one_by_one(made: list[list[dict[str, Any]]], name: str) -> None:
    selected_alike(made, name)


@pytest.mark.slow
@settings(PLENTY, max_examples=15)
@given(*SHIPPED)
def test_every_shipped_recipe_selects_as_one_by_one(made: list[list[dict[str, Any]]], name: str) -> None:
    selected_alike(made, name)


def selected_alike(made: list[list[dict[str, Any]]], name: str) -> None:
    config = recipe.load(name)
    marks = dict.fromkeys(("signal", *config.stages), "m")
    lengths = {"context_s": config.select.context_s / 4, "continuation_s": config.select.continuation_s / 4}
    selection = Selection(name, marks, **{**vars(config.select), "stride_s": None, **lengths})
    with tempfile.TemporaryDirectory() as folder:
        compare(write(folder, made), selection)
