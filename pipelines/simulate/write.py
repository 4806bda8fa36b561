"""Writes the FLAC file and the truth of each conversation, and the tables of all conversations.

The truth of a conversation is written last, as a sign that the conversation is complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from manifests.exchange.foreign import lhotse, rttm
from manifests.exchange.foreign.rows import to_json
from manifests.fingerprint import pretty
from manifests.whole import whole, whole_text
from pipelines.simulate.bank import Bank
from pipelines.simulate.mix import mixed
from pipelines.simulate.scene import Scene
from pipelines.simulate.statistics import statistics
from pipelines.simulate.turns import Placed, Schedule

FULL_SCALE = 32767
COMPRESSION = 0.6
"""Compression level of FLAC, 0 to 1. The bytes of the file depend on it."""
TABLES = ("manifest.jsonl", "truth.rttm", "truth.uem", "truth.ctm")
MARKS = re.compile(r"^[^\w']+|[^\w']+$")
"""Punctuation around a word, which CTM leaves out."""


def sound_file(out: Path, name: str) -> Path:
    return out / "conversations" / f"{name}.flac"


def truth_file(out: Path, name: str) -> Path:
    return out / "conversations" / f"{name}.json"


def write_conversation(out: Path, scene: Scene, schedule: Schedule, bank: Bank) -> None:
    """Write the sound of a conversation, and then its truth. Neither appears before it is complete."""
    clipped = _write_sound(sound_file(out, scene.name), scene, schedule.placed, bank)
    truth = {
        **scene.as_dict(bank),
        "clipped_samples": clipped,
        "statistics": statistics(schedule, len(scene.speakers), scene.num_samples, scene.rate),
        "utterances": [_utterance(scene, one) for one in schedule.placed],
    }
    with whole_text(truth_file(out, scene.name)) as file:
        file.write(pretty(truth))


def _write_sound(path: Path, scene: Scene, placed: Sequence[Placed], bank: Bank) -> int:
    """Write 16-bit FLAC and return the number of samples that were beyond full scale and therefore clipped."""
    import soundfile

    clipped = 0
    with (
        whole(path) as unfinished,
        soundfile.SoundFile(
            unfinished, "w", scene.rate, scene.channels, "PCM_16", format="FLAC", compression_level=COMPRESSION
        ) as file,
    ):
        for block in mixed(scene, placed, bank):
            clipped += int(np.sum(np.abs(block) > 1))
            file.write(np.rint(np.clip(block, -1, 1) * FULL_SCALE).astype(np.int16).T)
    return clipped


def _utterance(scene: Scene, placed: Placed) -> dict[str, Any]:
    """An utterance as JSON. Times are in seconds from the beginning of the conversation."""
    speaker = scene.speakers[placed.speaker]
    return {
        "speaker": speaker.voice,
        "channel": speaker.channel,
        "kind": placed.kind.value,
        "start_s": placed.start / scene.rate,
        "end_s": placed.stop / scene.rate,
        "broken_off": placed.broken_off,
        "speech": [[start / scene.rate, stop / scene.rate] for start, stop in placed.speech()],
        "recording_id": placed.utterance.recording_id,
        "recording_start_s": placed.utterance.first / scene.rate,
        "transcript": _transcript(scene, placed),
    }


def _transcript(scene: Scene, placed: Placed) -> dict[str, Any] | None:
    """The words and phonemes of a synthetic voice as JSON; None for a recorded voice, whose words are unknown."""
    transcript = placed.utterance.transcript
    if transcript is None:
        return None
    words = list(placed.words())
    speech = sum(stop - start for start, stop in placed.utterance.speech)
    shift = placed.start - placed.utterance.first
    phones = [(one.symbol, one.start + shift, min(one.stop + shift, placed.stop)) for one in transcript.phones]
    return {
        "text": " ".join(word.text for word, cut in words if not cut),
        "full_text": " ".join(word.text for word in transcript.words),
        "full_phonemes": " ".join(one.symbol for one in transcript.phones),
        "rate": transcript.rate,
        "phones_per_s": len(transcript.phones) / (speech / scene.rate),
        "pitch": transcript.pitch,
        "words": [
            {"word": word.text, "start_s": word.start / scene.rate, "end_s": word.stop / scene.rate, "cut": cut}
            for word, cut in words
        ],
        "phones": [
            [symbol, start / scene.rate, stop / scene.rate] for symbol, start, stop in phones if start < placed.stop
        ],
    }


def write_tables(out: Path, names: Iterable[str]) -> None:
    """Write the manifest, RTTM, UEM and CTM of complete conversations, in their order, one at a time in memory."""
    with ExitStack() as stack:
        manifest, turns, regions, words = (stack.enter_context(whole_text(out / name)) for name in TABLES)
        for name in names:
            truth = json.loads(truth_file(out, name).read_text())
            segments = list(_segments(truth))
            manifest.write(to_json(_cut(truth, segments)) + "\n")
            turns.writelines(rttm.segment(row) + "\n" for row in segments)
            words.writelines(_ctm(truth))
            for channel in range(truth["channels"]):
                regions.write(rttm.region(_window(truth, segments, [channel])) + "\n")


def _ctm(truth: Mapping[str, Any]) -> Iterator[str]:
    """Lines of NIST's CTM: recording, channel from 1, start, duration, word. Words that are cut off are left out."""
    words = [
        (word["start_s"], one["channel"] + 1, word)
        for one in truth["utterances"]
        for word in (one["transcript"] or {"words": []})["words"]
        if not word["cut"]
    ]
    for start_s, channel, word in sorted(words, key=lambda one: one[:2]):
        spelled = "_".join(MARKS.sub("", word["word"]).lower().split())
        yield f"{truth['name']} {channel} {start_s:.4f} {word['end_s'] - start_s:.4f} {spelled}\n"


def _segments(truth: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Stretches of speech in order of time, as rows of `manifests.exchange.foreign.rows.SEGMENTS`."""
    stretches = [(*span, utterance) for utterance in truth["utterances"] for span in utterance["speech"]]
    stretches.sort(key=lambda stretch: (stretch[0], stretch[2]["speaker"]))
    for number, (start_s, end_s, utterance) in enumerate(stretches):
        yield {
            "segment_id": f"{truth['name']}-{number:06d}",
            "recording_id": truth["name"],
            "start_s": start_s,
            # Times of samples are multiples of the sampling period; digits beyond are the error of the difference.
            "duration_s": round(end_s - start_s, 9),
            "channels": [utterance["channel"]],
            "speaker": utterance["speaker"],
            "text": _text(utterance["transcript"], start_s, end_s),
            **dict.fromkeys(("language", "rest")),
            "custom": to_json({"kind": utterance["kind"], "broken_off": utterance["broken_off"]}),
        }


def _text(transcript: Mapping[str, Any] | None, start_s: float, end_s: float) -> str | None:
    """The complete words that begin in a stretch of speech; None for a voice whose words are unknown."""
    if transcript is None:
        return None
    return " ".join(one["word"] for one in transcript["words"] if not one["cut"] and start_s <= one["start_s"] < end_s)


def _window(truth: Mapping[str, Any], segments: list[dict[str, Any]], channels: list[int]) -> dict[str, Any]:
    duration_s = truth["num_samples"] / truth["sample_rate"]
    return {
        "window_id": truth["name"],
        "recording_id": truth["name"],
        "start_s": 0.0,
        "duration_s": duration_s,
        "channels": channels,
        "segments": segments,
        **dict.fromkeys(("custom", "rest")),
    }


def _cut(truth: Mapping[str, Any], segments: list[dict[str, Any]]) -> dict[str, Any]:
    """A Lhotse cut of a whole conversation. The name of its file is relative to the manifest."""
    recording = {
        "recording_id": truth["name"],
        "uris": [f"conversations/{truth['name']}.flac"],
        "sample_rate": truth["sample_rate"],
        "num_samples": truth["num_samples"],
        "duration_s": truth["num_samples"] / truth["sample_rate"],
        "channels": truth["channels"],
        **dict.fromkeys(("custom", "rest")),
    }
    return lhotse.window(_window(truth, segments, list(range(truth["channels"]))), recording)
