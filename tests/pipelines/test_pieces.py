"""Long recordings: in pieces or whole, by one worker or three, killed on the way or not, the rows are the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from manifests.lake import Lake
from pipelines.annotate import Annotator
from pipelines.audio.sound import decode_sound, decode_span, num_samples_of
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig
from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.vad import Vad
from pipelines.units.pending import pending_batches
from pipelines.units.pieces import PendingPieces, Piece, PieceWorker

BATCH = "batch-000000"
PIECE_S = 40.0


@pytest.fixture(scope="module")
def stage() -> Diarize:
    """Chunks of 30 s."""
    stage = Diarize(DiarizeConfig(chunk_s=30.0, window_step_s=5.0))
    stage.setup()
    return stage


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, conversation: Path) -> Path:
    """90 s at 11025 Hz, 12 s, two channels with a speaker each, and a recording of which nothing decodes."""
    folder = tmp_path_factory.mktemp("in")
    speech, rate = soundfile.read(conversation, dtype="int16")
    slower = resample_poly(np.tile(speech, 3) / 32768, 441, 640)
    soundfile.write(folder / "long.ogg", slower, 11025)
    soundfile.write(folder / "short.wav", speech[: 12 * rate], rate)
    soundfile.write(folder / "two.flac", np.stack([speech, np.roll(speech[::-1], 5 * rate)], 1), rate)
    bad = np.zeros(30000)
    bad[20000] = np.nan
    soundfile.write(folder / "bad.wav", bad, rate, subtype="FLOAT")
    return folder


def pending_pieces(lake: Lake, marks: dict[str, str], piece_s: float) -> PendingPieces:
    return PendingPieces(lake, marks, "diarize", Diarize.needs, piece_s)


def made(root: Path, source: Path, vad: Vad, stage: Diarize, piece_s: float) -> tuple[Lake, Annotator]:
    """A lake whose one batch is annotated as far as whole units go."""
    lake = Lake.at(str(root))
    ingest(lake, [str(source)], IngestConfig())
    annotator = Annotator(lake, [vad, stage], piece_s=piece_s)
    annotator.annotate(BATCH)
    return lake, annotator


def annotations(lake: Lake) -> dict[str, bytes]:
    return {key: lake.storage.read(key) for key in lake.storage.list("annotations")}


def kept(lake: Lake) -> list[str]:
    return list(lake.storage.list("runs/pieces"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, long: Path, vad: Vad, stage: Diarize) -> dict[str, bytes]:
    lake, annotator = made(tmp_path_factory.mktemp("whole"), long, vad, stage, 3600.0)
    assert list(pending_batches(lake, annotator.fingerprints)) == []
    rows = lake.read(lake.annotation_key("diarize", annotator.fingerprints["diarize"], BATCH)).to_pylist()
    assert sorted((row["status"], row["method"]) for row in rows if row["status"] == "ok") == [
        ("ok", "channels"), ("ok", "pipeline"), ("ok", "pipeline"),
    ]  # fmt: skip
    assert max(len(row["turns"] or []) for row in rows) > 20
    return annotations(lake)


def test_pieces_in_any_order_give_the_rows_of_the_whole(
    tmp_path: Path, long: Path, vad: Vad, stage: Diarize, whole: dict[str, bytes]
) -> None:
    lake, annotator = made(tmp_path, long, vad, stage, PIECE_S)
    assert len(annotations(lake)) == len(whole) - 1
    assert list(pending_batches(lake, annotator.fingerprints)) == [BATCH]
    pieces = list(pending_pieces(lake, annotator.fingerprints, PIECE_S))
    assert pieces == [Piece(BATCH, number, 3) for number in range(3)]
    assert annotator.annotate(BATCH).recordings == 0  # nothing is decoded again while pieces wait
    heard: list[float] = []
    dones = []
    for piece in reversed(pieces):
        assert list(pending_pieces(lake, annotator.fingerprints, PIECE_S)) == pieces
        worker = PieceWorker(lake, stage, annotator.fingerprints)
        dones.append(worker.process(piece, lambda recording_id, seconds, failed: heard.append(seconds)))
    # What a person sees: every chunk as it is heard, and each recording once, by the piece that joins.
    assert [done.recordings for done in dones] == [0, 0, 3]
    assert sum(done.seconds for done in dones) == sum(heard) == pytest.approx(90 + 12 + 30, abs=0.5)
    assert len(heard) > 3
    assert annotations(lake) == whole
    assert kept(lake) == []
    assert list(pending_batches(lake, annotator.fingerprints)) == []


def test_a_worker_that_dies_half_way_loses_the_chunk_at_hand_alone(
    tmp_path: Path, long: Path, vad: Vad, stage: Diarize, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, annotator = made(tmp_path, long, vad, stage, PIECE_S)
    worker, heard = PieceWorker(lake, stage, annotator.fingerprints), []

    def hear(sound, rows, chunk):
        heard.append(chunk)
        if len(heard) == 3:
            raise KeyboardInterrupt
        return Diarize.annotate_chunk(stage, sound, rows, chunk)

    monkeypatch.setattr(stage, "annotate_chunk", hear)
    with pytest.raises(KeyboardInterrupt):
        worker.process(Piece(BATCH, 0, 1))
    assert len(kept(lake)) == 2
    worker.process(Piece(BATCH, 0, 1))
    assert len(set(heard)) == len(heard) - 1 > 3
    assert heard[2] == heard[3]
    assert annotations(lake) == whole


def test_a_chunk_that_fails_costs_its_recording_and_says_so(
    tmp_path: Path, long: Path, vad: Vad, stage: Diarize, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, annotator = made(tmp_path, long, vad, stage, PIECE_S)

    def hear(sound, rows, chunk):
        if chunk[0] > 20:
            raise FloatingPointError("not this one")
        return Diarize.annotate_chunk(stage, sound, rows, chunk)

    monkeypatch.setattr(stage, "annotate_chunk", hear)
    dones = [PieceWorker(lake, stage, annotator.fingerprints).process(Piece(BATCH, number, 2)) for number in range(2)]
    # The one of which nothing decodes was told before.
    assert [failure.reason for done in dones for failure in done.failures] == ["diarize: FloatingPointError"]
    rows = lake.read(lake.annotation_key("diarize", annotator.fingerprints["diarize"], BATCH)).to_pylist()
    assert sorted(row["status"] for row in rows) == ["failed", "failed", "ok", "ok"]
    assert kept(lake) == []


def test_a_span_is_the_same_bits_as_the_whole(long: Path) -> None:
    path = str(long / "long.ogg")
    with decode_sound(path, "r") as sound:
        assert num_samples_of(sound.signal) == sound.num_samples
        signal = sound.signal | {"recording_id": "r"}
        for start, stop in [(0, 1), (100_000, 300_001), (sound.num_samples - 5, sound.num_samples)]:
            with decode_span(path, None, signal, start, stop) as span:
                assert span.num_samples == sound.num_samples
                np.testing.assert_array_equal(span.read(start, stop), sound.read(start, stop))


def test_what_was_heard_survives_json(stage: Diarize, conversation: Path) -> None:
    with decode_sound(str(conversation), "r") as sound:
        (heard,) = stage.annotate_chunk(sound, {}, (0.0, 30.0))["tracks"]
    again = json.loads(json.dumps(heard))
    assert again["embeddings"] == heard["embeddings"]
    assert [tuple(turn) for turn in again["turns"]] == heard["turns"]
