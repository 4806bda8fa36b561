"""Recordings whose speakers are known: simulated conversations and test recordings, with what each was made of."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.csv
from pyannote.core import Annotation
from pyannote.database.util import load_rttm

TELEPHONE = ("mulaw", "alaw", "gsm", "amr")
LENGTHS_MIN = (1, 2, 5, 15, 60)


@dataclass
class Judged:
    """A recording with a known number of speakers."""

    path: Path
    speakers: int
    reference: Annotation | None
    conditions: dict[str, str]
    """The value of each condition by which results are grouped."""
    sides: list[int] | None = None
    """The number of speakers of each channel, where this is known."""


def judged(folder: Path) -> Iterator[Judged]:
    """The recordings of a folder with an index.tsv, or of one that `speechmill simulate` wrote."""
    yield from _simulated(folder) if (folder / "truth.rttm").is_file() else _indexed(folder)


def is_judged(folder: Path) -> bool:
    """Whether `judged` can read a folder."""
    return any((folder / name).is_file() for name in ("index.tsv", "truth.rttm"))


def _simulated(folder: Path) -> Iterator[Judged]:
    references = load_rttm(folder / "truth.rttm")
    for path in sorted((folder / "conversations").glob("*.flac")):
        truth = json.loads(path.with_suffix(".json").read_text())
        reference = references.get(path.stem, Annotation())
        speakers = len(reference.labels())
        rooms = " and ".join(sorted({room["kind"] if room else "dry" for room in truth["rooms"]})) or "dry"
        band = "telephone band" if truth["codec"] in TELEPHONE else "wide band"
        conditions = {"speakers": str(speakers), "length": _length(truth["num_samples"] / truth["sample_rate"])}
        if truth["channels"] == 1:
            conditions |= {"codec": truth["codec"] or "none", "room": rooms, "bed": truth["bed"]["kind"]}
            conditions |= {"room and band": f"{'dry' if rooms == 'dry' else 'room'}, {band}"}
        pairs = {(utterance["channel"], utterance["speaker"]) for utterance in truth["utterances"]}
        sides = [sum(channel == side for channel, _ in pairs) for side in range(truth["channels"])]
        if len(sides) > 1:
            conditions["speakers of both sides"] = " and ".join(map(str, sorted(sides)))
        yield Judged(path, speakers, reference, conditions, sides)


def _indexed(folder: Path) -> Iterator[Judged]:
    index = pyarrow.csv.read_csv(folder / "index.tsv", parse_options=pyarrow.csv.ParseOptions(delimiter="\t"))
    for row in index.to_pylist():
        if not str(row["n_speakers"]).isdecimal() or str(row["seconds"]) == "?":
            continue
        named = (row["reference"] or "").split(" ")[0]
        reference = next(iter(load_rttm(folder / named).values())) if named.endswith(".rttm") else None
        conditions = {
            "speakers": str(row["n_speakers"]),
            "length": _length(float(row["seconds"])),
            "language": str(row["language"]),
            "collection": Path(row["path"]).parent.name,
        }
        yield Judged(folder / row["path"], int(row["n_speakers"]), reference, conditions)


def _length(duration_s: float) -> str:
    return next((f"up to {minutes} min" for minutes in LENGTHS_MIN if duration_s <= 60 * minutes), "longer")
