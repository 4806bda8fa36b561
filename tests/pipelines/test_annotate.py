"""Annotation of a batch: one row a recording and stage, failures included, committed once, never run twice."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests import schemas
from manifests.lake import Lake
from manifests.select import select
from manifests.selection import Selection
from pipelines import annotate as module
from pipelines.annotate import Annotator
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig
from pipelines.stages.language import Language, LanguageConfig
from pipelines.stages.vad import Vad, VadConfig
from pipelines.units.pending import pending_batches, stage_fingerprints


class FailingVad(Vad):
    """The real stage, on a recording of which it cannot say anything."""

    def annotate(self, sound, known):
        if sound.num_samples < 16000:
            raise FloatingPointError("too short for me")
        return super().annotate(sound, known)


@pytest.fixture
def lake(tmp_path: Path, conversation: Path) -> Lake:
    folder = tmp_path / "in"
    folder.mkdir()
    speech, rate = soundfile.read(conversation, dtype="int16")
    soundfile.write(folder / "a.wav", speech, rate)
    soundfile.write(folder / "b.flac", speech, rate)
    soundfile.write(folder / "c.wav", np.zeros(8000), 16000)
    bad = np.zeros(30000)
    bad[20000] = np.nan
    soundfile.write(folder / "d.wav", bad, 16000, subtype="FLOAT")
    (folder / "e.wav").write_bytes(b"")
    lake = Lake.at(str(tmp_path / "lake"))
    ingest(lake, [str(folder)], IngestConfig())
    return lake


def test_every_recording_has_a_row_in_every_stage_and_select_closes_over_them(lake: Lake) -> None:
    annotator = Annotator(lake, [FailingVad(VadConfig())])
    told = []
    result = annotator.annotate("batch-000000", lambda *args: told.append(args))
    assert (result.recordings, [f.reason for f in result.failures]) == (
        4,
        ["vad: FloatingPointError", "signal: UnreadableAudioError"],
    )
    assert result.seconds == pytest.approx(60.5)
    assert len(told) == 4
    names = {r["recording_id"]: Path(r["uris"][0]).stem for _, t in lake.recordings() for r in t.to_pylist()}
    tables = {
        stage: {
            names[row["recording_id"]]: row
            for row in lake.read(lake.annotation_key(stage, mark, "batch-000000")).to_pylist()
        }
        for stage, mark in annotator.fingerprints.items()
    }
    assert {stage: {n: row["status"] for n, row in rows.items()} for stage, rows in tables.items()} == {
        "signal": {"a": "ok", "b": "ok", "c": "ok", "d": "failed"},
        "vad": {"a": "ok", "b": "ok", "c": "failed", "d": "failed"},
    }
    assert "sample 20000" in tables["signal"]["d"]["error"]
    assert tables["vad"]["c"]["error"] == "too short for me"
    assert tables["vad"]["a"]["segments"] == tables["vad"]["b"]["segments"] != []
    rules = {"speech": "speech_share > 0.2"}
    funnel = select(lake, Selection("s", annotator.fingerprints, context_s=2, continuation_s=6, recordings=rules))
    verdicts = lake.read(lake.verdicts_key("s", "batch-000000")).to_pylist()
    assert {names[row["recording_id"]]: (row["verdict"], *row["reasons"]) for row in verdicts} == {
        "a": ("kept",),
        "b": ("rejected", "duplicate"),
        "c": ("failed", "vad: FloatingPointError"),
        "d": ("failed", "signal: UnreadableAudioError", "vad: UnreadableAudioError"),
        "e": ("failed", "ingest: UnreadableAudioError"),
    }
    assert funnel.part("windows", "kept")[0] == 3


@pytest.mark.parametrize(("number", "stops"), [(errno.ENOSPC, True), (errno.EMFILE, True), (errno.EIO, False)])
def test_what_the_machine_lacks_is_no_recordings_fault(number: int, stops: bool, lake: Lake) -> None:
    class Short(Vad):
        def annotate(self, sound, known):
            raise OSError(number, os.strerror(number))

    annotator = Annotator(lake, [Short(VadConfig())])
    if stops:
        with pytest.raises(OSError, match=os.strerror(number)):
            annotator.annotate("batch-000000")
        assert list(lake.annotated("vad", annotator.fingerprints["vad"])) == []
    else:
        assert annotator.annotate("batch-000000").failed == 4


def test_a_scratch_disk_that_is_full_while_decoding_stops_too(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args, **settings):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "decode_sound", full)
    with pytest.raises(OSError, match="No space left"):
        Annotator(lake, [Vad(VadConfig())]).annotate("batch-000000")


def test_recordings_at_once_leave_the_rows_that_one_at_a_time_leaves(lake: Lake) -> None:
    rows = {}
    for at_once in (1, 3):
        stages = [FailingVad(VadConfig()), Language(LanguageConfig(recordings_at_once=at_once, batch_size=1))]
        annotator = Annotator(lake, stages)
        result = annotator.annotate("batch-000000")
        # Voice activity is read back the second time, its failure is not told again.
        assert [failure.reason for failure in result.failures][-2:] == [
            "language: SkippedError",
            "signal: UnreadableAudioError",
        ]
        key = lake.annotation_key("language", annotator.fingerprints["language"], "batch-000000")
        rows[at_once] = lake.read(key).to_pylist()
    assert rows[1] == rows[3]
    assert [row["status"] for row in rows[3]].count("ok") == 2


def test_done_stages_are_read_back_and_a_changed_setting_adds_its_own_folder(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Annotator(lake, [Vad(VadConfig())])
    first.annotate("batch-000000")
    before = {key: lake.storage.read(key) for key in lake.storage.list("annotations")}
    assert list(pending_batches(lake, first.fingerprints)) == []
    other = Annotator(lake, [Vad(VadConfig(threshold=0.8))])
    assert list(pending_batches(lake, other.fingerprints)) == ["batch-000000"]
    assert other.annotate("batch-000000").recordings == 4
    after = {key: lake.storage.read(key) for key in lake.storage.list("annotations")}
    assert len(after) == 3
    assert before.items() <= after.items()
    monkeypatch.setattr(module, "decode_sound", None)  # a batch that is done is not decoded
    assert first.annotate("batch-000000").recordings == 0


def test_tables_hold_their_schemas(lake: Lake) -> None:
    annotator = Annotator(lake, [Vad(VadConfig())])
    annotator.annotate("batch-000000")
    for stage, mark in stage_fingerprints([Vad(VadConfig())]).items():
        table = lake.read(lake.annotation_key(stage, mark, "batch-000000"))
        assert table.schema.equals(schemas.STAGES[stage])
        assert [field.metadata for field in table.schema] == [field.metadata for field in schemas.STAGES[stage]]
