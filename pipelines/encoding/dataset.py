"""The dataset that a recipe makes: its name, what it is made by, and the plan of the shards to add to it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from encoders.base import Encoder
from manifests.amend import finish_replacing
from manifests.choice import folders
from manifests.fingerprint import pretty
from manifests.lake import Lake
from manifests.shards import ShardCommit, committed
from manifests.storage.local import is_dead, owner
from manifests.versions import committed_numbers
from pipelines.encoding.plan import Plan
from pipelines.encoding.planned import Base, from_ranges, ranges
from pipelines.recipes.recipe import EncodeConfig, parse
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    from pipelines.recipes.recipe import Recipe
    from pipelines.units.pending import Retry


@dataclass(frozen=True)
class Dataset:
    """A dataset of a lake. It grows as long as it is made by the same encoder, selection, signal stage and plan."""

    lake: Lake
    recipe: str
    made_by: Mapping[str, str]
    """Fingerprints of the encoder, the selection, the signal stage and the plan, and the dtype unless it is float16."""
    name: str

    @classmethod
    def find(cls, lake: Lake, recipe: str, made_by: Mapping[str, str], preferred: str | None = None) -> Dataset:
        """Find the dataset of a recipe that is made by these fingerprints, or choose a free name for a new one.

        Args:
            lake: The lake.
            recipe: The name of the recipe.
            made_by: The result of `dataset_fingerprints`.
            preferred: The name of a new dataset, by default that of the recipe. If it is taken, because the recipe has
                changed, a number is added, such as `demo-2`.
        """
        existing = {name: _made_by(lake, name) for name in folders(lake, "datasets")}
        for name, (of_recipe, fingerprints) in existing.items():
            # The recipe is None if the plan of a dataset was lost, and its shards say what it is made by.
            if fingerprints == dict(made_by) and of_recipe in (recipe, None):
                return cls(lake, recipe, made_by, name)
        first = preferred or recipe
        candidates = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
        name = next(name for name in candidates if existing.get(name, (None, None)) == (None, None))
        return cls(lake, recipe, made_by, name)

    @property
    def prefix(self) -> str:
        return f"datasets/{self.name}"

    def with_same_features(self) -> list[str]:
        """Return other datasets that have the same features of the same windows, stored in the same way."""
        names = []
        for name in folders(self.lake, "datasets"):
            _, by = _made_by(self.lake, name)
            if (
                name != self.name
                and by
                and all(by.get(key) == self.made_by.get(key) for key in ("encoder", "dtype", "signal"))
            ):
                names.append(name)
        return names

    @contextmanager
    def begin_version(self, config: EncodeConfig, retry: Retry | None, shard_s: float | None = None) -> Iterator[Plan]:
        """Begin a new version, and give its plan. When the block ends, all shards of the plan must be committed.

        The plan of a killed run is followed to the same shards. If recordings were added since then, the shards that
        the killed run committed are kept, and the rest is planned again.

        Args:
            config: The settings of the encoder.
            retry: Which windows that failed before are tried again.
            shard_s: Seconds of tracks in a shard; by default those of `shard_mb`.

        Raises:
            SpeechmillError: Another run follows another plan, and may still be running.
        """
        storage, key = self.lake.storage, f"{self.prefix}/plan.json"
        text = pretty({"recipe": self.recipe, **self.made_by}).encode()
        if not storage.put_if_absent(key, text) and storage.read(key) != text:
            raise SpeechmillError(f"{self.prefix} was begun by another run just now", "run the same command again")
        finish_replacing(self.lake, self.name)
        plan, record = self._plan(config, retry, shard_s)
        try:
            yield plan
        except BaseException:  # so that the next run need not ask whether this process is alive
            storage.put(self._begun_key, pretty(record | {"owner": ""}).encode())
            raise
        storage.delete(self._begun_key)

    def _plan(self, config: EncodeConfig, retry: Retry | None, shard_s: float | None) -> tuple[Plan, dict[str, Any]]:
        """Return the plan to follow, and its record under `runs/encoding/`."""
        same_features, begun = self.with_same_features(), self._begun()

        def make(base: Base) -> Plan:
            return Plan(self.lake, self.made_by["selection"], config, self.name, base, same_features, retry, shard_s)

        if begun is not None:
            plan = make(from_ranges(begun["base"]))
            if plan.digest() == begun["new"]:
                return plan, begun
            if begun["owner"] and not is_dead(begun["owner"]):
                raise SpeechmillError(
                    f"{self.prefix}: a run that began with other recordings may still be encoding it",
                    f"wait until it has ended; if it was killed on another machine, delete {self._begun_key} in the "
                    "lake, then run the same command again",
                )
        numbers = committed_numbers(self.lake, self.name)
        base = {folder: frozenset(of_folder) for folder, of_folder in numbers.items()}
        plan = make(base)
        record = {"owner": owner(), "base": ranges(base), "new": plan.digest()}
        self.lake.storage.put(self._begun_key, pretty(record).encode())
        return plan, record

    @property
    def _begun_key(self) -> str:
        return f"runs/encoding/{self.name}.json"

    def _begun(self) -> dict[str, Any] | None:
        try:
            return self.lake.read_json(self._begun_key, "owner", "base", "new")
        except FileNotFoundError:
            return None

    def is_begun(self) -> bool:
        """Return whether a run has begun a version that is not published."""
        return self.lake.storage.exists(self._begun_key)


def _made_by(lake: Lake, name: str) -> tuple[str | None, dict[str, str] | None]:
    """Return the recipe of a dataset and what it is made by, from its plan or else its first shard, or None."""
    try:
        plan = lake.read_json(f"datasets/{name}/plan.json", "recipe")
        return plan.pop("recipe"), plan
    except FileNotFoundError:
        first = next(committed(lake.storage, name), None)
        if first is None:
            return None, None
        return None, ShardCommit.read(lake.storage, f"datasets/{name}/{first.commit}").fingerprints


def encoder_of(lake: Lake, name: str) -> Encoder:
    """Return the encoder that made a dataset, without its weights: the one of its recipe with the same fingerprint.

    Raises:
        SpeechmillError: The recipe of the dataset has no such encoder, because its weights have moved or changed.
    """
    made_by = lake.read_json(f"datasets/{name}/plan.json", "encoder")["encoder"]
    for config in parse(lake.read_json(f"datasets/{name}/recipe.json")).targets.values():
        encoder = config.load()
        if f"{encoder.name}-{encoder.fingerprint}" == made_by:
            return encoder
    what = f"the encoder {made_by} of the dataset {name} is not that of its recipe as it is found here"
    raise SpeechmillError(what, "put the weights back that its recipe names")


SETTINGS = ("decode", "annotate", "select", "encode")
"""The tables of a recipe that decide what its dataset is made by."""


def datasets_of(lake: Lake, recipe: Recipe) -> dict[str, str]:
    """Return the newest dataset that a recipe made with each of its encoders, by the names in `Recipe.targets`.

    A dataset that was made with exactly these settings is preferred. The settings are compared as text, so that no
    model need be installed.

    Raises:
        SpeechmillError: There is no such dataset.
    """
    newest: dict[str, tuple[bool, int, str]] = {}
    for name in folders(lake, "datasets"):
        of_recipe, _ = _made_by(lake, name)
        key = f"datasets/{name}/recipe.json"
        target = _target(name, recipe)
        if of_recipe == recipe.name and target and lake.storage.exists(key):
            same = _settings(lake.read_json(key)) == _settings(recipe.resolved)
            candidate = (same, lake.storage.stat(f"datasets/{name}/plan.json").mtime_ns, name)
            newest[target] = max(candidate, newest.get(target, candidate))
    if not newest:
        remedy = "run `speechmill encode` first, or name the recipe that made a dataset"
        raise SpeechmillError(f"no dataset of recipe {recipe.name} in {lake.storage.root}", remedy)
    return {target: newest[target][2] for target in recipe.targets if target in newest}


def _target(name: str, recipe: Recipe) -> str | None:
    """Return which target of a recipe a dataset is, by its name with or without a number at its end."""
    if not recipe.encoders:
        return recipe.name
    return next((one for one in (name, re.sub(r"-\d+$", "", name)) if one in recipe.targets), None)


def _settings(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a resolved recipe that decide what its dataset is made by."""
    tables = {name: dict(resolved.get(name, {})) for name in SETTINGS}
    tables["encode"].pop("patch", None)  # it says how tokens are counted, and changes no dataset
    return tables
