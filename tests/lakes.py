"""Small lakes with given measurements, which need no sound."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from manifests import schemas
from manifests.fingerprint import pretty
from manifests.lake import Lake
from manifests.publish import publish
from manifests.selection import Selection
from manifests.windows import covered_s

STAGES = {"signal": "s", "vad": "v", "diarize": "d"}


def write_lake(root: Path | str, batches: list[list[dict[str, Any]]]) -> Lake:
    lake = Lake.at(str(root))
    for index, batch in enumerate(batches):
        name = f"batch-{index:06d}"
        recordings, stages = [], {stage: [] for stage in STAGES}
        for row in batch:
            base = {"recording_id": row["id"], "status": "ok"}
            ingest_error = row.get("ingest_error")
            recordings.append(
                base
                | {"uris": [row["id"]], "source": "here", "claimed_duration_s": row["duration_s"]}
                | ({"status": "failed", "error_type": ingest_error} if ingest_error else {})
            )
            if ingest_error:
                continue
            if error := row.get("error"):
                stages["signal"].append(base | {"status": "failed", "error_type": error})
            else:
                pcm = {"duration_s": row["duration_s"], "pcm_sha256": row.get("pcm", row["id"]), "tracks": 1}
                stages["signal"].append(base | pcm)
            spans = row.get("speech", [])
            segments = [{"track": 0, "start_s": start, "end_s": end} for start, end in spans]
            share = covered_s(spans) / row["duration_s"]
            stages["vad"].append(base | {"segments": segments, "speech_share": share})
            turns = [
                segment | {"speaker": f"S{n % 2}", "confidence": 0.5 + 0.25 * (n % 2)}
                for n, segment in enumerate(segments)
            ]
            stages["diarize"].append(base | {"turns": turns, "num_speakers": min(2, len(turns))})
        lake.write(lake.recordings_key(name), schemas.table(recordings, schemas.RECORDINGS))
        for stage, rows in stages.items():
            lake.write(lake.annotation_key(stage, STAGES[stage], name), schemas.table(rows, schemas.STAGES[stage]))
    return lake


def rules(**changes: Any) -> Selection:
    settings: dict[str, Any] = {
        "recordings": {"long": "duration_s >= 10", "speech": "speech_share >= 0.5"},
        "windows": {"spoken": "speech_share > 0.5"},
    }
    return Selection("sel", STAGES, context_s=2, continuation_s=6, **(settings | changes))


def publish_by_hand(lake: Lake, dataset: str, encoder: str) -> None:
    """Publish a dataset of shards that a test has written, with the files that describe it."""
    prefix = f"datasets/{dataset}"
    made = {"recipe": dataset, "encoder": encoder, "selection": "none", "signal": "s", "plan": "p"}
    for name, told in {"plan": made, "recipe": {"name": dataset}, "models": {"models": []}}.items():
        lake.storage.put_if_absent(f"{prefix}/{name}.json", pretty(told).encode())
    selection = pretty(asdict(Selection("none", {}, context_s=2, continuation_s=6))).encode()
    lake.storage.put_if_absent("selections/none/selection.json", selection)
    publish(lake, dataset)
