"""A recipe: one TOML file that says everything about a run, each value overridable as `key=value`."""

from __future__ import annotations

import copy
import importlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from manifests.labels import COLUMNS, checked_label
from manifests.matches import MatchConfig
from manifests.names import checked_name
from manifests.selection import SelectConfig
from manifests.storage import StorageConfig
from pipelines.audio.config import DecodeConfig
from pipelines.recipes.encoder_tables import EncodeConfig, check_grid, encode_of, encoders_of
from pipelines.recipes.rules import check_rules
from pipelines.recipes.tables import build, check_keys
from pipelines.stages.base import Stage
from runtime import typed
from runtime.errors import OverrideError, RecipeError, UnknownRecipeError

STAGES = {
    "vad": ("pipelines.stages.vad", "Vad", "VadConfig"),
    "diarize": ("pipelines.stages.diarize", "Diarize", "DiarizeConfig"),
    "language": ("pipelines.stages.language", "Language", "LanguageConfig"),
    "quality": ("pipelines.stages.quality", "Quality", "QualityConfig"),
    "phonemes": ("pipelines.stages.phonemes", "Phonemes", "PhonemesConfig"),
    "prosody": ("pipelines.stages.prosody", "Prosody", "ProsodyConfig"),
    "fingerprint": ("pipelines.stages.fingerprint", "Fingerprint", "FingerprintConfig"),
}

MAX_FAILED_SHARE = 0.5


@dataclass(frozen=True)
class IngestConfig:
    batch_hours: float = 20.0
    """Claimed audio hours in a batch, the unit of annotation."""
    source: str | None = None
    """Collection the recordings come from."""
    licence: str | None = None
    """Licence of the recordings."""
    label: dict[str, str] = field(default_factory=dict)
    """Further labels of all recordings: country = "DE"."""
    labels: list[str] = field(default_factory=list)
    """Labels that lines of manifests give, by their keys there or in `custom` of Lhotse; a line wins over `label`,
    and where "source" or "licence" is named here, over these."""
    excerpts: bool = False
    """Whether a line of a manifest that names a part of a file (NeMo's `offset` and `duration`, the `start` and
    `duration` of a Lhotse cut) makes that part a recording; otherwise the whole file is one recording."""
    all_audio_streams: bool = False
    """Whether further audio streams of a file become recordings of their own; otherwise only the first is read."""
    max_line_mb: float = 8.0
    """Longest line of a list or manifest, in 10^6 bytes; a longer one becomes a failed row, and the next are read."""
    max_manifest_gb: float = 16.0
    """Longest list or manifest, unpacked, in 10^9 bytes; a longer one is read up to there, and the command fails."""
    max_hint_mb: float = 1.0
    """Longest line of a manifest or JSON beside a recording that is kept as its hint, in 10^6 bytes."""
    max_tar_header_mb: float = 1.0
    """Longest extended header in a tar, in 10^6 bytes."""
    max_tar_headers: int = 16
    """Most extended headers before one member of a tar."""

    def __post_init__(self) -> None:
        above_0 = (
            "batch_hours",
            "max_line_mb",
            "max_manifest_gb",
            "max_hint_mb",
            "max_tar_header_mb",
            "max_tar_headers",
        )
        for name in above_0:
            if not getattr(self, name) > 0:
                raise ValueError(f"ingest.{name} must be above 0")
        for name, value in (("source", self.source), ("licence", self.licence)):
            if value is not None:
                checked_label(name, value)
        for name, value in self.label.items():
            if name in COLUMNS:
                raise ValueError(f"ingest.label.{name} is no label of your own: write ingest.{name}")
            checked_label(name, value)
        for name in self.labels:
            checked_label(name, "any")
        if "language_hint" in self.labels:
            raise ValueError("ingest.labels: language_hint is taken from the lines anyway: leave it out")

    @property
    def constants(self) -> dict[str, str]:
        """The labels of all recordings by name, `source` and `licence` among them where they are given."""
        given = {"source": self.source, "licence": self.licence, **self.label}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Recipe:
    """What a run does. `stages` holds the settings of each stage that runs, in order."""

    name: str
    ingest: IngestConfig
    decode: DecodeConfig
    stages: dict[str, Any]
    select: SelectConfig
    encode: EncodeConfig
    """Of several encoders the first; what is common to all is said by each."""
    storage: StorageConfig
    max_failed_share: float
    """A step stops when more than this share of at least 100 recordings fails in it."""
    resolved: dict[str, Any]
    """The recipe as TOML tables, overrides applied, without [storage]: equal datasets have equal ones anywhere."""
    piece_hours: float = 20.0
    """Longer recordings, by their headers, are diarized in pieces of at most this, maybe by several workers."""
    unreachable: str = "stop"
    """What becomes of a recording that was ingested and whose bytes cannot be had when it is annotated or encoded:
    'stop' leaves its batch or shard undone, finishes all others and ends with exit code 1, so that the same command
    goes on once the files are back; 'fail' counts the recording as failed."""
    match: MatchConfig = field(default_factory=MatchConfig)
    """How recordings are compared by their fingerprints, where they have them."""
    several: dict[str, EncodeConfig] = field(default_factory=dict)
    """Where the recipe has tables `[encode.NAME]`: each by its name, which ends the name of its dataset."""

    @property
    def targets(self) -> dict[str, EncodeConfig]:
        """What is encoded, by the name that a dataset takes if it is free."""
        if not self.several:
            return {self.name: self.encode}
        return {f"{self.name}-{ending}": config for ending, config in self.several.items()}

    @property
    def shard_s(self) -> float:
        """Seconds of tracks that a shard aims at."""
        return self.encode.shard_mb * 1e6 / max(config.bytes_per_s for config in self.targets.values())

    def make_stages(self) -> list[Stage]:
        made = []
        for name, config in self.stages.items():
            module, stage, _ = STAGES[name]
            made.append(getattr(importlib.import_module(module), stage)(config))
        return made


def shipped() -> list[str]:
    """Names of the recipes that come with speechmill."""
    names = (entry.name for entry in resources.files("pipelines.recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def path_of(name: str) -> Path | None:
    """Where a shipped recipe lies; None for any other name."""
    return Path(str(resources.files("pipelines.recipes"))) / f"{name}.toml" if name in shipped() else None


def load(recipe: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """A shipped recipe by name or a TOML file, with `table.key=value` overrides.

    Raises RecipeError; for what is wrong with an override, or only together with one, OverrideError.
    """
    path = path_of(recipe) or Path(recipe)
    if not path.is_file():
        raise UnknownRecipeError(f"no recipe {recipe!r}", f"name a TOML file or one of: {', '.join(shipped())}")
    try:
        raw = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{recipe} is not TOML: {error}", "mend the line it names") from error
    return parse_with(raw, overrides)


def parse_with(raw: dict[str, Any], overrides: Sequence[str]) -> Recipe:
    """A recipe from TOML tables, with values that `--set` gave in the place of theirs."""
    changed = copy.deepcopy(raw)
    for override in overrides:
        apply_override(changed, override)
    try:
        return parse(changed)
    except RecipeError as error:
        if not overrides or _complaint(raw) == str(error):
            raise
        raise OverrideError(str(error), error.remedy.replace("it in the recipe", "the --set")) from error


def _complaint(raw: dict[str, Any]) -> str | None:
    """What is wrong with a recipe without any override."""
    try:
        parse(raw)
    except RecipeError as error:
        return str(error)
    return None


def parse(raw: dict[str, Any]) -> Recipe:
    """A recipe from TOML tables; an unknown key is an error that suggests the nearest."""
    tables = {"ingest", "decode", "annotate", "match", "select", "encode", "storage"}
    known = {"name", *tables, "max_failed_share", "unreachable"}
    check_keys(raw, known, "recipe")
    try:
        name = checked_name(raw.get("name"), "the recipe's name")
    except ValueError as error:
        raise RecipeError(str(error), 'give the recipe such a name: name = "first-try"') from error
    annotate = raw.get("annotate", {})
    check_keys(annotate, {*STAGES, "piece_hours"}, "annotate")
    piece_hours = annotate.get("piece_hours", Recipe.piece_hours)
    if not typed.fits(piece_hours, float) or not 0.01 <= piece_hours <= typed.LARGEST:
        what = f"annotate.piece_hours must be a number of hours, at least 0.01, not {piece_hours!r:.100}"
        raise RecipeError(what, "correct it in the recipe")
    max_failed_share = raw.get("max_failed_share", MAX_FAILED_SHARE)
    if not typed.fits(max_failed_share, float) or not 0 <= max_failed_share <= 1:
        what = f"max_failed_share must be a number from 0 to 1, not {max_failed_share!r:.100}"
        raise RecipeError(what, "correct it in the recipe")
    stages: dict[str, Any] = {}
    for stage, (module, _, config) in STAGES.items():
        settings = annotate.get(stage)
        if settings is not None and not isinstance(settings, dict):
            raise RecipeError(f"annotate.{stage} is not a table", f"write [annotate.{stage}] and its keys below it")
        if settings is not None and _enabled(stage, settings):
            stages[stage] = build(getattr(importlib.import_module(module), config), settings, f"annotate.{stage}")
    if stages and "vad" not in stages:
        raise RecipeError(f"annotate.{next(iter(stages))} reads the segments of vad", "add a table [annotate.vad]")
    if "prosody" in stages:
        if stages["prosody"].speakers is None:
            stages["prosody"] = replace(stages["prosody"], speakers="diarize" in stages)
        if stages["prosody"].speakers and "diarize" not in stages:
            what = "annotate.prosody.speakers = true reads the turns of diarize"
            raise RecipeError(what, "add a table [annotate.diarize], or write speakers = false")
    select: SelectConfig = build(SelectConfig, raw.get("select", {}), "select")
    if select.most_repeats is not None and "fingerprint" not in stages:
        what = "select.most_repeats counts the recordings that hold a passage, which fingerprints tell"
        raise RecipeError(what, "add a table [annotate.fingerprint], or leave most_repeats out")
    several = encoders_of(raw.get("encode", {}))
    encode = next(iter(several.values())) if several else encode_of(raw.get("encode", {}), "encode")
    for of_encoder in several.values() if several else [encode]:
        if of_encoder.on_grid and not of_encoder.lacks():
            check_grid(select, of_encoder.load())
    check_rules(select.recordings, select.windows, stages)
    unreachable = raw.get("unreachable", Recipe.unreachable)
    if unreachable not in ("stop", "fail"):
        raise RecipeError(f"unreachable must be 'stop' or 'fail', not {unreachable!r:.100}", "correct it in the recipe")
    return Recipe(
        name,
        build(IngestConfig, raw.get("ingest", {}), "ingest"),
        build(DecodeConfig, raw.get("decode", {}), "decode"),
        stages,
        select,
        encode,
        build(StorageConfig, raw.get("storage", {}), "storage"),
        max_failed_share,
        {key: copy.deepcopy(value) for key, value in raw.items() if key != "storage"},
        piece_hours,
        unreachable,
        build(MatchConfig, raw.get("match", {}), "match"),
        several,
    )


def _enabled(stage: str, settings: dict[str, Any]) -> bool:
    """Whether a stage with this table is run; takes the key out of it."""
    enabled = settings.pop("enabled", True)
    if not isinstance(enabled, bool):
        raise RecipeError(f"annotate.{stage}.enabled must be true or false, not {enabled!r:.100}", "write one of them")
    return enabled


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set what `table.key=value` says in TOML tables; OverrideError where it says nothing that could be set."""
    try:
        override.encode()
    except UnicodeEncodeError as error:
        raise OverrideError(f"--set {override!r} is not UTF-8", "write --set table.key=value in UTF-8") from error
    key, equals, text = override.partition("=")
    if not equals:
        raise OverrideError(f"--set {override!r} has no '='", "write --set table.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string, so that --set encode.encoder=logmel needs no quotes
    *tables, last = key.strip().split(".")
    table = raw
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise OverrideError(f"--set {override!r}: {name} is not a table", "write --set table.key=value")
    table[last] = value
