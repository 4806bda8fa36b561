"""A recipe: one TOML file that configures a run. Each value can be overridden as `key=value`."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from manifests.labels import COLUMNS, checked_label
from manifests.matches import MatchConfig
from manifests.names import checked_name
from manifests.schemas import STAGE_SPECS
from manifests.selection import SelectConfig
from manifests.storage import StorageConfig
from pipelines.audio.config import DecodeConfig
from pipelines.recipes.encoder_tables import EncodeConfig, check_grid, parse_encode, parse_encoders
from pipelines.recipes.rules import check_rules
from pipelines.recipes.tables import build_config, check_keys
from pipelines.stages.base import Stage
from pipelines.stages.registry import config_class, stage_class
from runtime import typed
from runtime.errors import OverrideError, RecipeError, UnknownRecipeError

STAGES = [stage for stage, spec in STAGE_SPECS.items() if spec.optional]
"""The names of the stages that a recipe can choose, in the order in which they run."""

MAX_FAILED_SHARE = 0.5


@dataclass(frozen=True)
class IngestConfig:
    """How recordings are added to a lake: the table [ingest] of a recipe."""

    batch_hours: float = 20.0
    """Hours of recordings in a batch, the unit of annotation, by the durations that their headers claim."""
    source: str | None = None
    """Collection that the recordings come from."""
    licence: str | None = None
    """Licence of the recordings."""
    label: dict[str, str] = field(default_factory=dict)
    """Further labels of all recordings, such as country = "DE"."""
    labels: list[str] = field(default_factory=list)
    """Labels that are read from the lines of manifests, by their keys there or in `custom` of Lhotse. The value of a
    line replaces that of `label`, and those of `source` and `licence` if they are named here."""
    excerpts: bool = False
    """Whether a line of a manifest that names a part of a file (NeMo's `offset` and `duration`, the `start` and
    `duration` of a Lhotse cut) makes that part a recording; otherwise the whole file is one recording."""
    all_audio_streams: bool = False
    """Whether further audio streams of a file become recordings of their own; otherwise only the first is read."""
    max_line_mb: float = 8.0
    """Longest line of a list or manifest, in 10^6 bytes. A longer line becomes a failed row."""
    max_manifest_gb: float = 16.0
    """Longest list or manifest, uncompressed, in 10^9 bytes. A longer one is read up to there, and the command
    fails."""
    max_hint_mb: float = 1.0
    """Longest line of a manifest, or JSON sidecar, that is stored as the hint of a recording, in 10^6 bytes."""
    max_tar_header_mb: float = 1.0
    """Longest extended header in a tar, in 10^6 bytes."""
    max_tar_headers: int = 16
    """Largest number of extended headers before one member of a tar."""

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
        """The labels of all recordings by name, with `source` and `licence` if they are given."""
        given = {"source": self.source, "licence": self.licence, **self.label}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Recipe:
    """The settings of a run."""

    name: str
    ingest: IngestConfig
    decode: DecodeConfig
    stages: dict[str, Any]
    """The settings of each stage that runs, in order."""
    select: SelectConfig
    encode: EncodeConfig
    """The settings of the encoder; of the first one if there are several. All encoders have the common settings."""
    storage: StorageConfig
    max_failed_share: float
    """A step stops when more than this share of at least 100 recordings fails in it."""
    resolved: dict[str, Any]
    """The recipe as TOML tables, with overrides and without [storage], so that equal datasets have equal recipes."""
    piece_hours: float = 20.0
    """Recordings whose headers claim more than this are processed in pieces of at most this length, possibly by several
    workers."""
    unreachable: str = "stop"
    """What happens if the bytes of a recording are unreachable when it is annotated or encoded: 'stop' leaves its
    batch or shard uncommitted, finishes all others and exits with code 1, so that the same command does the rest once
    the files are back; 'fail' counts the recording as failed."""
    match: MatchConfig = field(default_factory=MatchConfig)
    """How recordings are compared by their fingerprints, if these are computed."""
    encoders: dict[str, EncodeConfig] = field(default_factory=dict)
    """The tables `[encode.NAME]` by name, if the recipe has such tables. The name of a dataset ends with that name."""

    @property
    def targets(self) -> dict[str, EncodeConfig]:
        """The encoders by the names of their datasets. A dataset gets another name if that one is taken."""
        if not self.encoders:
            return {self.name: self.encode}
        return {f"{self.name}-{ending}": config for ending, config in self.encoders.items()}

    @property
    def shard_s(self) -> float:
        """The target length of a shard, in seconds of tracks."""
        return self.encode.shard_mb * 1e6 / max(config.bytes_per_s for config in self.targets.values())

    def make_stages(self) -> list[Stage]:
        """Make the stages, in order. Their models are not loaded yet."""
        return [stage_class(name)(config) for name, config in self.stages.items()]


def shipped() -> list[str]:
    """Return the names of the recipes that come with speechmill."""
    names = (entry.name for entry in resources.files("pipelines.recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def path_of(name: str) -> Path | None:
    """Return the path of a shipped recipe; None for any other name."""
    return Path(str(resources.files("pipelines.recipes"))) / f"{name}.toml" if name in shipped() else None


def load(recipe: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Load a recipe.

    Args:
        recipe: The name of a shipped recipe, or a TOML file.
        overrides: Values as `table.key=value`.

    Raises:
        RecipeError: The recipe is wrong.
        OverrideError: An override is wrong, alone or together with the recipe.

    >>> load("demo", ("select.context_s=3",)).select.context_s
    3
    """
    path = path_of(recipe) or Path(recipe)
    if not path.is_file():
        raise UnknownRecipeError(f"no recipe {recipe!r}", f"name a TOML file or one of: {', '.join(shipped())}")
    try:
        raw = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{recipe} is not TOML: {error}", "correct the line that it names") from error
    return parse_with(raw, overrides)


def parse_with(raw: dict[str, Any], overrides: Sequence[str]) -> Recipe:
    """Make a recipe from TOML tables, with the values of `--set` instead of theirs. Raises as `load`."""
    overridden = copy.deepcopy(raw)
    for override in overrides:
        apply_override(overridden, override)
    try:
        return parse(overridden)
    except RecipeError as error:
        if not overrides or _error_message(raw) == str(error):
            raise
        raise OverrideError(str(error), error.remedy.replace("it in the recipe", "the --set")) from error


def _error_message(raw: dict[str, Any]) -> str | None:
    """Return the error of a recipe without overrides, or None."""
    try:
        parse(raw)
    except RecipeError as error:
        return str(error)
    return None


def parse(raw: dict[str, Any]) -> Recipe:
    """Make a recipe from TOML tables. Raises RecipeError; for an unknown key it suggests the most similar one."""
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
    for stage in STAGES:
        settings = annotate.get(stage)
        if settings is not None and not isinstance(settings, dict):
            raise RecipeError(f"annotate.{stage} is not a table", f"write [annotate.{stage}] and its keys below it")
        if settings is not None and _pop_enabled(stage, settings):
            stages[stage] = build_config(config_class(stage), settings, f"annotate.{stage}")
    if stages and "vad" not in stages:
        raise RecipeError(f"annotate.{next(iter(stages))} reads the segments of vad", "add a table [annotate.vad]")
    if "prosody" in stages:
        if stages["prosody"].speakers is None:
            stages["prosody"] = replace(stages["prosody"], speakers="diarize" in stages)
        if stages["prosody"].speakers and "diarize" not in stages:
            what = "annotate.prosody.speakers = true reads the turns of diarize"
            raise RecipeError(what, "add a table [annotate.diarize], or write speakers = false")
    select: SelectConfig = build_config(SelectConfig, raw.get("select", {}), "select")
    if select.most_repeats is not None and "fingerprint" not in stages:
        what = "select.most_repeats counts the recordings in which a passage occurs, which needs fingerprints"
        raise RecipeError(what, "add a table [annotate.fingerprint], or leave most_repeats out")
    encoders = parse_encoders(raw.get("encode", {}))
    encode = next(iter(encoders.values())) if encoders else parse_encode(raw.get("encode", {}), "encode")
    for config in encoders.values() if encoders else [encode]:
        if config.on_grid and not config.missing_packages():
            check_grid(select, config.load())
    check_rules(select.recordings, select.windows, stages)
    unreachable = raw.get("unreachable", Recipe.unreachable)
    if unreachable not in ("stop", "fail"):
        raise RecipeError(f"unreachable must be 'stop' or 'fail', not {unreachable!r:.100}", "correct it in the recipe")
    return Recipe(
        name,
        build_config(IngestConfig, raw.get("ingest", {}), "ingest"),
        build_config(DecodeConfig, raw.get("decode", {}), "decode"),
        stages,
        select,
        encode,
        build_config(StorageConfig, raw.get("storage", {}), "storage"),
        max_failed_share,
        {key: copy.deepcopy(value) for key, value in raw.items() if key != "storage"},
        piece_hours,
        unreachable,
        build_config(MatchConfig, raw.get("match", {}), "match"),
        encoders,
    )


def _pop_enabled(stage: str, settings: dict[str, Any]) -> bool:
    """Return whether a stage runs, by its table. The key `enabled` is removed from the table."""
    enabled = settings.pop("enabled", True)
    if not isinstance(enabled, bool):
        raise RecipeError(f"annotate.{stage}.enabled must be true or false, not {enabled!r:.100}", "write one of them")
    return enabled


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set the value of `table.key=value` in TOML tables. Raises OverrideError if it is not of this form."""
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
