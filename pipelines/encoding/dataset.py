"""The dataset that a recipe makes: its name, what it is made by, and the plan by which shards are added to it."""

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
from pipelines.encoding.plan import Base, Plan, from_ranges, ranges
from pipelines.recipes.recipe import EncodeConfig, parse
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    from pipelines.recipes.recipe import Recipe
    from pipelines.units.pending import Retry


@dataclass(frozen=True)
class Dataset:
    """A dataset of a lake, which grows as long as what it is made by stays the same."""

    lake: Lake
    recipe: str
    made_by: Mapping[str, str]
    """Fingerprints of the encoder, the selection, the signal stage and the plan."""
    name: str

    @classmethod
    def of(cls, lake: Lake, recipe: str, made_by: Mapping[str, str], wanted: str | None = None) -> Dataset:
        """The dataset of a recipe that is made by these; where there is none, the first free name for it.

        The first dataset takes the name `wanted`, that of the recipe if not given. One that was changed makes another,
        such as `demo-2`, and leaves the one before as it is.
        """
        taken = folders(lake, "datasets")
        known = {name: _made_by(lake, name) for name in taken}
        for name, (of_recipe, by) in known.items():
            # What was made before its plan was lost is told by its shards.
            if by == dict(made_by) and of_recipe in (recipe, None):
                return cls(lake, recipe, made_by, name)
        first = wanted or recipe
        free = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
        name = next(name for name in free if known.get(name, (None, None)) == (None, None))
        return cls(lake, recipe, made_by, name)

    @property
    def prefix(self) -> str:
        return f"datasets/{self.name}"

    def alike(self) -> list[str]:
        """Other datasets whose features are the same where their windows are."""
        found = []
        for name in folders(self.lake, "datasets"):
            _, by = _made_by(self.lake, name)
            if name != self.name and by and all(by.get(key) == self.made_by[key] for key in ("encoder", "signal")):
                found.append(name)
        return found

    @contextmanager
    def making(self, config: EncodeConfig, retry: Retry | None, shard_s: float | None = None) -> Iterator[Plan]:
        """What is to be made now, in shards of so many seconds of tracks, and nothing else while this lasts.

        At its end all of it must be made and published.

        The plan of a run that was killed is followed, to the same shards. Where recordings have come since then, the
        shards that it has committed are kept, and the rest is planned anew. Raises SpeechmillError where another run,
        which may still be at work, follows another plan.
        """
        storage, key = self.lake.storage, f"{self.prefix}/plan.json"
        text = pretty({"recipe": self.recipe, **self.made_by}).encode()
        if not storage.put_if_absent(key, text) and storage.read(key) != text:
            raise SpeechmillError(f"{self.prefix} was begun by another run just now", "run the same command again")
        finish_replacing(self.lake, self.name)
        plan, record = self._plan(config, retry, shard_s)
        try:
            yield plan
        except BaseException:  # raised on; who comes next need not ask whether this process lives
            storage.put(self._begun_key, pretty(record | {"owner": ""}).encode())
            raise
        storage.delete(self._begun_key)

    def _plan(self, config: EncodeConfig, retry: Retry | None, shard_s: float | None) -> tuple[Plan, dict[str, Any]]:
        """The plan to follow, and what is recorded of it under runs/."""
        alike, begun = self.alike(), self._begun()

        def make(base: Base) -> Plan:
            return Plan(self.lake, self.made_by["selection"], config, self.name, base, alike, retry, shard_s)

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
        return self.lake.storage.exists(self._begun_key)


def _made_by(lake: Lake, name: str) -> tuple[str | None, dict[str, str] | None]:
    """The recipe of a dataset and what it is made by, as its plan says, or its first shard; None where nothing does."""
    try:
        plan = lake.read_json(f"datasets/{name}/plan.json", "recipe")
        return plan.pop("recipe"), plan
    except FileNotFoundError:
        first = next(committed(lake.storage, name), None)
        if first is None:
            return None, None
        return None, ShardCommit.read(lake.storage, f"datasets/{name}/{first.commit}").fingerprints


def encoder_of(lake: Lake, name: str) -> Encoder:
    """The encoder that made a dataset, without its weights: the one of its recipe that has the same fingerprint.

    Raises SpeechmillError where the recipe that the dataset holds has none: its weights lie elsewhere, or have changed.
    """
    made_by = lake.read_json(f"datasets/{name}/plan.json", "encoder")["encoder"]
    for config in parse(lake.read_json(f"datasets/{name}/recipe.json")).targets.values():
        encoder = config.load()
        if f"{encoder.name}-{encoder.fingerprint}" == made_by:
            return encoder
    what = f"the encoder {made_by} of the dataset {name} is not that of its recipe as it is found here"
    raise SpeechmillError(what, "put the weights back that its recipe names")


SETTINGS = ("decode", "annotate", "select", "encode")
"""Tables of a recipe that decide what its dataset is made by."""


def datasets_of(lake: Lake, recipe: Recipe) -> dict[str, str]:
    """The newest dataset that a recipe made with each of its encoders, with these very settings if there is such a one,
    by the names in `Recipe.targets`.

    Raises SpeechmillError where there is none. What it compares are the words of the recipe, so that no model need be
    installed.
    """
    found: dict[str, tuple[bool, int, str]] = {}
    for name in folders(lake, "datasets"):
        of_recipe, _ = _made_by(lake, name)
        key = f"datasets/{name}/recipe.json"
        target = _target(name, recipe)
        if of_recipe == recipe.name and target and lake.storage.exists(key):
            same = _settings(lake.read_json(key)) == _settings(recipe.resolved)
            made = (same, lake.storage.stat(f"datasets/{name}/plan.json").mtime_ns, name)
            found[target] = max(made, found.get(target, made))
    if not found:
        remedy = "run `speechmill encode` first, or name the recipe that made a dataset"
        raise SpeechmillError(f"no dataset of recipe {recipe.name} in {lake.storage.root}", remedy)
    return {target: found[target][2] for target in recipe.targets if target in found}


def _target(name: str, recipe: Recipe) -> str | None:
    """Which of the datasets that a recipe makes one is by its name, to which a number is added where it was taken."""
    if not recipe.several:
        return recipe.name
    return next((one for one in (name, re.sub(r"-\d+$", "", name)) if one in recipe.targets), None)


def _settings(resolved: Mapping[str, Any]) -> dict[str, Any]:
    tables = {name: dict(resolved.get(name, {})) for name in SETTINGS}
    tables["encode"].pop("patch", None)  # it says how tokens are counted, and changes no dataset
    return tables
