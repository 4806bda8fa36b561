"""The dataset card: README.md for people and the Hugging Face Hub, croissant.json (Croissant 1.0) for programs.

Both depend only on the files of the dataset and on the named models, so that equal datasets have equal cards: neither
contains a date. Whoever publishes a dataset adds its date and address.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import safetensors.numpy

from manifests import schemas
from manifests.choice import Choice
from manifests.fingerprint import pretty
from manifests.lake import Lake
from manifests.ledger import REPEATED
from manifests.products import MOST_DIM
from manifests.report import quantised
from manifests.report.hub import SIZES, hub_licence
from manifests.shards import ShardFiles
from manifests.version import version as speechmill_version
from manifests.versions import Version, versions
from manifests.views import open_views, quoted

CROISSANT_TERMS = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in CROISSANT_TERMS},
}
"""The context that the specification of Croissant 1.0 gives."""

FORMATS = {
    "parquet": "application/x-parquet", "json": "application/json", "tar": "application/x-tar",
    "gz": "application/gzip", "safetensors": "application/octet-stream",
}  # fmt: skip
COUNTED_BY = "`ledger.parquet` has the counts for every patch size, language, number of speakers and source."


@dataclass(frozen=True)
class ModelUse:
    """A model that a stage or the encoder used. `sha256` is the hash of its weights, or its commit on a hub."""

    used_by: str
    name: str
    sha256: str
    licence: str | None


class Card:
    """The card of one version of a dataset, from its ledger, its windows, its plan and its recipe."""

    def __init__(self, lake: Lake, dataset: str, version: Version) -> None:
        self.lake, self.dataset, self.version = lake, dataset, version
        self.prefix = f"datasets/{dataset}"
        self.plan = self._json("plan.json")
        self.recipe = self._json("recipe.json")
        self.models = [ModelUse(**use) for use in self._json("models.json")["models"]]
        self.patch = int(self.recipe.get("encode", {}).get("patch", 1))
        self.selection = lake.read_json(f"selections/{self.plan['selection']}/selection.json")
        self.connection = open_views(lake, Choice({}, self.plan["selection"], dataset), [])
        self.connection.register("counted", lake.read(f"{self.prefix}/{version.folder}/ledger.parquet"))
        ends = " OR ".join(f"(folder = {quoted(folder)} AND shard < {end})" for folder, end in version.shards.items())
        self.connection.execute(f"CREATE TEMP VIEW held AS FROM shard_windows WHERE {ends or 'false'}")
        self.splits = self._rows(
            "SELECT split, sum(windows)::BIGINT, sum(hours), sum(frames)::BIGINT, sum(context_tokens)::BIGINT, "
            f"sum(continuation_tokens)::BIGINT, {REPEATED}::BIGINT FROM counted WHERE patch = {self.patch} "
            "GROUP BY split ORDER BY split"
        )
        self.languages = self._rows(
            "SELECT language, sum(hours) AS h FROM counted WHERE patch = 1 GROUP BY language ORDER BY h DESC, language"
        )
        self.origins = self._rows(
            "SELECT source, licence, count(*), sum(round(duration_s * 1e6)::HUGEINT)::DOUBLE / 3.6e9 AS h FROM held "
            "WHERE status = 'ok' GROUP BY ALL ORDER BY h DESC, source, licence"
        )
        ((self.failed,),) = self._rows("SELECT count(*) FILTER (status <> 'ok') FROM held")
        self.folders = [ShardFiles(name, 0) for name, count in sorted(version.shards.items()) if count]
        self.older = [one for one in versions(lake, dataset) if one.version < version.version]

    def _json(self, name: str) -> dict[str, Any]:
        return self.lake.read_json(f"{self.prefix}/{name}")

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query).fetchall()

    @property
    def windows(self) -> int:
        return sum(row[1] for row in self.splits)

    @property
    def hours(self) -> float:
        return float(sum(row[2] for row in self.splits))

    @property
    def licences(self) -> list[str | None]:
        return list(dict.fromkeys(licence for _, licence, *_ in self.origins))

    @property
    def summary(self) -> str:
        return (
            f"{self.windows:,} windows ({self.hours:,.2f} h) of conversational speech as continuous features of the "
            f"encoder {self.plan['encoder']}, {self.selection['context_s']:g} s of context and "
            f"{self.selection['continuation_s']:g} s of continuation each, made by speechmill "
            f"{speechmill_version()}."
        )

    # ---- README.md ----

    def readme(self) -> str:
        parts = [
            f"---\n{self._front()}---\n\n# {self.dataset}\n\n{self.summary}",
            _table(
                ["split", "windows", "hours", "frames", "context tokens", "continuation tokens", *self._repeated()],
                [
                    [split, f"{n:,}", f"{h:,.3f}", *(f"{value:,}" for value in rest if value is not None)]
                    for split, n, h, *rest in self.splits
                ],
            ),
            " ".join([self._token(), *self._repeated().values(), COUNTED_BY]),
            self._versions(),
            self._reading(),
            self._provenance(),
            "## Sources and licences\n\nAs given when the recordings were ingested; speechmill does not verify them.",
            _table(
                ["source", "licence", "windows", "hours"],
                [[source, licence, f"{n:,}", f"{h:,.3f}"] for source, licence, n, h in self.origins],
            ),
            "## Known limits\n\n" + "\n".join(f"- {limit}" for limit in self._limits()),
        ]
        return "\n\n".join(parts) + "\n"

    def _repeated(self) -> dict[str, str]:
        """The heading of the column of repeated tokens and its meaning; empty if recordings were not matched."""
        if not self.splits or any(row[-1] is None for row in self.splits):
            return {}
        meaning = (
            "A token is repeated if a kept recording that was ingested earlier has the same sound; others are unique."
        )
        return {"repeated of these": meaning}

    def _token(self) -> str:
        frames = "one frame" if self.patch == 1 else f"{self.patch} frames"
        return f"A token is {frames} (`encode.patch = {self.patch}` in `recipe.json`)."

    def _versions(self) -> str:
        """The section on the shards of this version and of each earlier one."""
        rows = [
            [
                str(one.version),
                ", ".join(f"{folder} {end:,}" for folder, end in one.shards.items()) or "none",
                f"{one.windows:,}",
                f"{one.hours:,.3f}",
            ]
            for one in [*self.older, self.version]
        ]
        # The counts of this version come from its shards, since its record is written after its card.
        rows[-1][2:] = [f"{self.windows:,}", f"{self.hours:,.3f}"]
        return (
            f"This is version {self.version.version}. A version consists of the first shards of each folder, so an "
            "older version is read by naming fewer shards. `versions/` has the ledger, the statistics and the list of "
            "shards of each version. Corrected labels and withdrawn recordings apply to all versions.\n\n"
            + _table(["version", "shards", "windows", "hours"], rows)
        )

    def _front(self) -> str:
        """The Hub's YAML block. Values are written as JSON, which is valid YAML and needs no other quoting."""
        licences = list(dict.fromkeys(hub_licence(licence) for licence in self.licences)) or ["unknown"]
        configs: dict[str, list[dict[str, str]]] = {}
        for one in self.folders:  # the arrays of a configuration have the same number of axes
            of_config = configs.setdefault(one.folder.partition(".")[2] or "default", [])
            of_config.append({"split": one.split, "path": f"{one.folder}/latents.*.tar"})
        front: dict[str, Any] = {
            "pretty_name": self.dataset,
            "license": licences[0] if len(licences) == 1 else licences,
            "language": [language for language, _ in self.languages if language],
            "size_categories": [next(name for limit, name in SIZES.items() if self.windows < limit)],
            "task_categories": ["audio-to-audio"],
            "tags": ["audio", "speech", "conversational", "continuous-features", "webdataset", "lhotse", "speechmill"],
            "configs": [{"config_name": name, "data_files": files} for name, files in sorted(configs.items())],
        }
        if "other" in licences:
            front["license_name"] = "see-sources-and-licences"
        return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in front.items())

    def _reading(self) -> str:
        folder = self.folders[0].folder if self.folders else "train"
        dtype = self.plan.get("dtype", "float16")
        return f"""## Reading

```python
lhotse.CutSet.from_shar(in_dir="{folder}")  # cut.load_latents(): {dtype}, (frames, dim) or (tracks, frames, dim)
webdataset.WebDataset("{folder}/latents.000000.tar").decode()
datasets.load_dataset("webdataset", data_files="{folder}/latents.*.tar")
datasets.load_dataset("parquet", data_files="windows/*.parquet")  # the shard of each window
```

{self._int8()}Windows with two tracks, one speaker on each, are in separate folders, `<split>.2tracks`, so that all
arrays of a folder have the same number of axes.

Features are not normalised. `stats.safetensors` has the mean, variance, minimum and maximum of each dimension and the
number of frames. For encoders of up to {MOST_DIM:,} dimensions it also has the covariance, its eigenvalues in
descending order and its eigenvectors (as columns): `(x - mean) @ eigenvectors / sqrt(eigenvalues)` is white.
{self._default_split()}

`fields.json` lists the shards of this version, also for object stores, in an order in which any prefix is a fair
sample. `commits/` has the sha256 of every shard."""

    def _int8(self) -> str:
        if self.plan.get("dtype") != "int8":
            return ""
        stored = self.lake.storage.read(f"{self.prefix}/{self.version.folder}/stats.safetensors")
        return quantised.section(safetensors.numpy.load(stored))

    def _default_split(self) -> str:
        if not self.splits:
            return "This version has no windows."
        names = {split: frames for split, _, _, frames, *_ in self.splits}
        default = max(names, key=lambda split: (split == "train", names[split], split))
        return (
            f"Arrays without a prefix are those of the split `{default}`; each split has its own, `<split>.mean` etc."
        )

    def _provenance(self) -> str:
        rules = [
            [level, name, condition]
            for level in ("recordings", "windows")
            for name, condition in self.selection[level].items()
        ]
        stages = [[stage, fingerprint] for stage, fingerprint in self.selection["stages"].items()]
        used = [[use.used_by, use.name, use.sha256, use.licence] for use in self.models]
        return "\n\n".join(
            [
                "## Provenance",
                f"Recipe `{self.recipe['name']}` (`recipe.json`), selection `{self.plan['selection']}`, plan of the "
                f"shards `{self.plan['plan']}`, speechmill {speechmill_version()}. A recording or window is "
                "kept if it satisfies every rule. A rule over a value that is missing is not satisfied.",
                _table(["rules for", "name", "condition"], rules),
                _table(["stage", "fingerprint"], stages),
                _table(["used by", "model", "sha256", "licence"], used) if used else "No model was used.",
            ]
        )

    def _limits(self) -> Iterator[str]:
        if self.failed:
            yield f"{self.failed:,} selected windows could not be encoded; `windows/*.parquet` has the reason for each."
        unknown = sum(hours for _, licence, _, hours in self.origins if not licence)
        if unknown:
            yield f"The licence of {unknown:,.3f} h is unknown."
        yield "Languages, speakers, turns and scores are estimates of the models above, not annotations by people."
        yield "Speaker labels are valid within one recording. Speakers were not identified, and nothing was anonymised."
        if self.selection.get("matches"):
            yield "Recordings with the same sound are kept once; short or noisy copies may have been missed."
        else:
            yield "Recordings with equal samples are kept once; other copies of the same sound were not detected."
        yield "Splits are drawn by recording, so the same speaker may occur in several splits."
        yield "Nobody has listened to the whole dataset; it may contain offensive or private speech."

    # ---- croissant.json ----

    def croissant(self) -> dict[str, Any]:
        """The Croissant 1.0 description: windows are a record set, and shards are sets of files."""
        files = [
            self._file(name)
            for name in (
                "ledger.parquet",
                "stats.safetensors",
                "recipe.json",
                "models.json",
                "fields.json",
                "shards.parquet",
                "plan.json",
            )
        ]
        sets = [
            _file_set("windows", "windows/*.parquet", "The shard of each window, or the reason why it was not encoded.")
        ]
        sets.append(_file_set("commits", "commits/*/*.json", "sha256, sizes, counts and statistics of every shard."))
        sums = "Exact sums of products over the frames of every shard, from which covariances are computed."
        sets.append(_file_set("products", "products/*.parquet", sums))
        for name in (one.folder for one in self.folders):
            sets.append(_file_set(f"latents-{name}", f"{name}/latents.*.tar", f"Features in the folder {name}."))
            sets.append(_file_set(f"cuts-{name}", f"{name}/cuts.*.jsonl.gz", f"Lhotse cuts in the folder {name}."))
        fields = [_field(column) for column in schemas.SHARD_WINDOWS if not pa.types.is_nested(column.type)]
        return {
            "@context": CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": "http://mlcommons.org/croissant/1.0",
            "name": self.dataset,
            "description": self.summary,
            "version": f"{self.version.version}.0.0",
            "license": [licence or "unknown" for licence in self.licences],
            "inLanguage": [language for language, _ in self.languages if language],
            "keywords": ["speech", "conversation", "continuous features"],
            "distribution": files + sets,
            "recordSet": [
                {
                    "@type": "cr:RecordSet",
                    "@id": "window",
                    "name": "window",
                    "description": "A selected segment of a recording, and the shard that contains it.",
                    "key": {"@id": "window/window_id"},
                    "field": fields,
                }
            ],
        }

    def _file(self, name: str) -> dict[str, Any]:
        data = self.lake.storage.read(f"{self.prefix}/{name}")
        return {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "contentSize": f"{len(data)} B",
            "encodingFormat": FORMATS[name.rpartition(".")[2]],
            "sha256": hashlib.sha256(data).hexdigest(),
        }


def write(lake: Lake, dataset: str, version: Version, newest: bool) -> None:
    """Write README.md of a version. The newest one also has README.md and croissant.json in the dataset's folder."""
    card = Card(lake, dataset, version)
    readme = card.readme().encode()
    lake.storage.put(f"{card.prefix}/{version.folder}/README.md", readme)
    if newest:
        lake.storage.put(f"{card.prefix}/README.md", readme)
        lake.storage.put(f"{card.prefix}/croissant.json", pretty(card.croissant()).encode())


def _file_set(name: str, includes: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": description,
        "encodingFormat": FORMATS[includes.rpartition(".")[2]],
        "includes": includes,
    }


def _field(column: pa.Field) -> dict[str, Any]:
    described: Mapping[bytes, bytes] = column.metadata or {}
    unit = described.get(b"unit", b"").decode()
    kinds = {pa.string(): "sc:Text", pa.float64(): "sc:Float"}
    return {
        "@type": "cr:Field",
        "@id": f"window/{column.name}",
        "name": column.name,
        "description": described[b"description"].decode() + (f" ({unit})" if unit else ""),
        "dataType": kinds.get(column.type, "sc:Integer"),
        "source": {"fileSet": {"@id": "windows"}, "extract": {"column": column.name}},
    }


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    """A value as one cell of a Markdown table, escaped: names of sources may contain anything."""
    text = "unknown" if value is None else " ".join(str(value).split())
    for character, shown in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        ("|", "&#124;"),
        ("[", "&#91;"),
        ("*", "&#42;"),
        ("`", "&#96;"),
    ):
        text = text.replace(character, shown)
    return text
