"""Differences between two lakes, selections or recipes, and the rules that caused them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb

from manifests.choice import ChoiceError
from manifests.commands.stats import rows_of
from manifests.commands.targets import Target, resolve

EXAMPLES = 5


def diff(one: str, two: str, **named: Any) -> dict[str, Any]:
    """Settings, recordings and verdicts that differ between two targets; two recipes (TOML, JSON) differ by settings.

    `named` are the selection, dataset and stages to compare in both, as `targets.resolve` takes them.
    """
    recipes = [_recipe(Path(name)) for name in (one, two)]
    if recipes[0] is not None and recipes[1] is not None:
        return {"choices": [None, None], "settings": settings(recipes[0], recipes[1])}
    if any(recipe is not None for recipe in recipes):
        raise ChoiceError(f"{one} and {two} are of two kinds", "compare two recipes, or two lakes or selections")
    a, b = resolve(one, **named), resolve(two, **named)
    if a.lake is None or b.lake is None:
        raise ChoiceError("a file has no verdicts to compare", "compare two lakes, two selections or two recipes")
    stored = _settings(a), _settings(b)
    both = stored[0].keys() & stored[1].keys()
    result: dict[str, Any] = {"choices": [a.described, b.described]}
    result["settings"] = settings(*({name: one[name] for name in both} for one in stored))
    connection = a.connect(())
    other = b.connect(())
    same_lake = a.lake.storage.root == b.lake.storage.root
    if not same_lake:
        result["recordings"] = _recordings(connection, other)
    if (a.choice.selection and b.choice.selection and a.choice.selection != b.choice.selection) or not same_lake:
        result["verdicts"] = _verdicts(connection, other)
        result["repeats"] = _repeats(connection, other)
    return result


def _recipe(path: Path) -> dict[str, Any] | None:
    if path.suffix == ".toml" and path.is_file():
        try:
            return tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise ChoiceError(f"{path} is not TOML: {error}", "correct the line that it names") from error
    if path.suffix == ".json" and path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return None


def _settings(target: Target) -> dict[str, Any]:
    """The stored selection and recipe of a target, where it has them."""
    assert target.lake is not None
    keys = {"selection": f"selections/{target.choice.selection}/selection.json"}
    keys |= {"recipe": f"datasets/{target.choice.dataset}/recipe.json"}
    found: dict[str, Any] = {"stages": target.choice.own}
    for name, key in keys.items():
        if target.lake.storage.exists(key):
            found[name] = target.lake.read_json(key)
    for name in ("name", "stages"):
        found.get("selection", {}).pop(name, None)
    return found


def settings(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Dotted names of the settings that differ, with both values; null where one side lacks it.

    >>> settings({"select": {"context_s": 10, "seed": 0}}, {"select": {"context_s": 2, "seed": 0}, "name": "x"})
    {'name': [None, 'x'], 'select.context_s': [10, 2]}
    """
    a, b = _flat(one), _flat(two)
    return {name: [a.get(name), b.get(name)] for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _load_both(one: duckdb.DuckDBPyConnection, two: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyConnection:
    """A connection that has the rows of a query over each side as the tables `a` and `b`, which may spill to disk."""
    both = duckdb.connect()
    both.execute("SET memory_limit = '700MB'; SET preserve_insertion_order = false")
    for name, connection in (("a", one), ("b", two)):
        reader = connection.sql(query).to_arrow_reader(100_000)
        both.register("rows", reader)
        both.execute(f"CREATE TABLE {name} AS FROM rows")
        both.unregister("rows")
    return both


def _recordings(one: duckdb.DuckDBPyConnection, two: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    query = "SELECT recording_id, uris, source, licence, status, claimed_duration_s FROM recordings"
    both = _load_both(one, two, query)
    changed = "(a.uris, a.source, a.licence, a.status) IS DISTINCT FROM (b.uris, b.source, b.licence, b.status)"
    parts = {
        "removed": ("a.recording_id, a.uris[1] AS name", "a ANTI JOIN b USING (recording_id)", "a"),
        "added": ("b.recording_id, b.uris[1] AS name", "b ANTI JOIN a USING (recording_id)", "b"),
        "changed": (
            "a.recording_id, a.uris[1] AS name",
            f"a JOIN b ON a.recording_id = b.recording_id AND {changed}",
            "a",
        ),
    }
    result = {}
    for part, (columns, source, side) in parts.items():
        (row,) = rows_of(
            both, f"SELECT count(*) AS count, coalesce(sum({side}.claimed_duration_s), 0) / 3600 AS hours FROM {source}"
        )
        row["examples"] = rows_of(both, f"SELECT {columns} FROM {source} ORDER BY 1 LIMIT {EXAMPLES}")
        result[part] = row
    return result


def _verdicts(one: duckdb.DuckDBPyConnection, two: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Recordings of both sides whose verdict or reasons differ, grouped by the reasons that went and came."""
    both = _load_both(one, two, "SELECT recording_id, verdict, reasons, duration_s FROM verdicts")
    return rows_of(
        both,
        "SELECT a.verdict AS before, b.verdict AS after, list_filter(a.reasons, lambda r: NOT list_contains(b.reasons, "
        "r)) AS no_longer, list_filter(b.reasons, lambda r: NOT list_contains(a.reasons, r)) AS now, count(*) "
        "AS count, sum(b.duration_s) / 3600 AS hours, min(a.recording_id) AS example FROM a JOIN b ON a.recording_id = "
        "b.recording_id AND (a.verdict, a.reasons) IS DISTINCT FROM (b.verdict, b.reasons) GROUP BY ALL "
        "ORDER BY count DESC, example",
    )


def _repeats(one: duckdb.DuckDBPyConnection, two: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Groups of the same sound and what repeats, on both sides, and the recordings of both of which it differs."""
    query = "SELECT recording_id, duplicate_of, repeats, repeated_share * duration_s AS repeated_s FROM verdicts"
    both = _load_both(one, two, query)
    sides = {}
    for side, table in (("before", "a"), ("after", "b")):
        (sides[side],) = rows_of(
            both,
            "SELECT count(DISTINCT duplicate_of) AS groups, count(duplicate_of) AS duplicates, "
            f"sum(repeated_s) / 3600 AS repeated_hours, max(repeats) AS most_repeats FROM {table}",
        )
    result: dict[str, Any] = dict(sides)
    for name, columns in {"regrouped": ["duplicate_of"], "repeats": ["repeats", "repeated_s"]}.items():
        differ = " OR ".join(f"a.{column} IS DISTINCT FROM b.{column}" for column in columns)
        source = f"FROM a JOIN b USING (recording_id) WHERE {differ}"
        columns_sql = ", ".join(f"a.{column} AS {column}_before, b.{column} AS {column}_after" for column in columns)
        (row,) = rows_of(both, f"SELECT count(*) AS count {source}")
        row["examples"] = rows_of(
            both, f"SELECT recording_id, {columns_sql} {source} ORDER BY recording_id LIMIT {EXAMPLES}"
        )
        result[name] = row
    return result
