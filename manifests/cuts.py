"""The Lhotse cut of a window, which is a line of `cuts.NNNNNN.jsonl.gz`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manifests.exchange.foreign.lhotse import sources_of


def cut_of(window: Mapping[str, Any], recording: Mapping[str, Any], tracks: int) -> dict[str, Any]:
    """Make the Lhotse cut of a window: its turns become supervisions, its other columns `custom`.

    Args:
        window: A row of WINDOWS.
        recording: The columns of RECORDINGS and SIGNAL of its recording.
        tracks: The number of tracks of the window.
    """
    channels = list(range(recording["channels"]))
    # Lhotse cannot express a mix of channels. A MonoCut names one channel, and `channel_relation` says what was mixed.
    live = recording["live_channel"] if recording["channel_relation"] == "one_sided" else 0
    channel: int | list[int] = live if tracks == 1 else channels
    supervisions = [
        {
            "id": f"{window['window_id']}-{number}",
            "recording_id": window["recording_id"],
            "start": turn["start_s"],
            "duration": round(turn["end_s"] - turn["start_s"], 6),
            "channel": live if tracks == 1 else turn["track"],
            "speaker": turn["speaker"],
            **({"language": window["language"]} if window["language"] else {}),
        }
        for number, turn in enumerate(window["turns"] or [])
        if turn["end_s"] > turn["start_s"]
    ]
    custom = {name: window[name] for name in ("context_s", "split", "source", "licence", "language", "num_speakers")}
    custom |= {name: window[name] for name in ("speech_share", "overlap_share")}
    custom["channel_relation"] = recording["channel_relation"]
    custom["labels"] = dict(window["labels"]) if window.get("labels") else None
    return {
        "id": window["window_id"],
        "start": window["start_s"],
        "duration": window["duration_s"],
        "channel": channel,
        "supervisions": supervisions,
        "recording": {
            "id": window["recording_id"],
            "sources": sources_of(recording["uris"][0], channels),
            "sampling_rate": recording["sample_rate"],
            "num_samples": recording["num_samples"],
            "duration": recording["num_samples"] / recording["sample_rate"],
            "channel_ids": channels,
        },
        "custom": {name: value for name, value in custom.items() if value is not None},
        "type": "MonoCut" if tracks == 1 else "MultiCut",
    }
