"""`speechmill study pjsd`: the divergence between the phones of two corpora. Imports happen inside the command."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from contextlib import ExitStack, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from manifests.commands.options import JSON
from manifests.output import say
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    from pipelines.commands.pjsd_sides import Part, Side
    from pipelines.recipes.recipe import Recipe
    from studies.pjsd import Order, Range


@click.command("pjsd")
@click.argument("a")
@click.argument("b", required=False)
@click.option("--where", metavar="CONDITION", help="SQL condition that recordings of A must meet.")
@click.option(
    "--windows", metavar="CONDITION", help="Use only the windows of A that meet this condition: --windows kept."
)
@click.option(
    "--selection", metavar="NAME", help="Selection of A with the verdicts and windows; by default the newest."
)
@click.option("--b-where", metavar="CONDITION", help="SQL condition that recordings of B must meet.")
@click.option("--b-windows", metavar="CONDITION", help="Use only the windows of B that meet this condition.")
@click.option("--b-selection", metavar="NAME", help="Selection of B.")
@click.option(
    "--stage",
    "stages",
    multiple=True,
    metavar="phonemes=FINGERPRINT",
    help="Results of the stage phonemes to use, if it was run with several settings.",
)
@click.option("-n", "longest", type=click.IntRange(1, 8), default=5, show_default=True, help="Longest n-grams.")
@click.option(
    "--phones", type=click.IntRange(1), default=1_000_000, show_default=True,
    help="Draw recordings from each side until they have this many phones.",
)  # fmt: skip
@click.option("--draws", type=click.IntRange(50), default=200, show_default=True, help="Resamplings for intervals.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random draws.")
@click.option(
    "--recipe", default="phonemes", show_default=True, metavar="RECIPE",
    help="Recipe whose [annotate.vad] and [annotate.phonemes] process sound, and whose [storage] reaches lakes.",
)  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Workers that process sound.")
@click.option(
    "--lake",
    metavar="FOLDER",
    help="Store the phones of sound in the lakes a and b in this folder; by default they are deleted at the end.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
@JSON
def pjsd(a: str, b: str | None, as_json: bool, **settings: Any) -> None:
    """Print the phoneme Jensen-Shannon divergence between A and B, in bits.

    A and B are lakes with phonemes, or sound: a file, folder, list, manifest or tar, whose phones are recognised first.
    Without B, the part of the lake A that --where or --windows names is compared with the whole lake.
    """
    from manifests.storage import use_storage_config
    from pipelines.commands.options import recipe_of
    from studies.pjsd import compare

    recipe = recipe_of(settings["recipe"], settings["overrides"])
    one, other = (_part(settings, prefix) for prefix in ("", "b_"))
    if b is None:
        if one.where == "true" and one.windows is None:
            raise click.UsageError("give B, or choose a part of A with --where or --windows")
        b, other = a, dataclasses.replace(other, selection=other.selection or one.selection)
    with use_storage_config(recipe.storage), ExitStack() as stack:
        root = settings["lake"] or stack.enter_context(tempfile.TemporaryDirectory(prefix="speechmill-pjsd-"))
        sides = [
            _side(name, part, recipe, f"{root}/{letter}", settings)
            for name, part, letter in ((a, one, "a"), (b, other, "b"))
        ]
    _check_alike(*sides)
    orders = compare(
        sides[0].corpus, sides[1].corpus, range(1, settings["longest"] + 1), settings["draws"], settings["seed"]
    )
    if as_json:
        from manifests.commands import terminal

        described = {name: side.as_dict() for name, side in zip("ab", sides, strict=True)}
        terminal.as_json({"unit": "bit", **described, "orders": [dataclasses.asdict(order) for order in orders]})
    else:
        _show(sides, orders)


def _part(settings: dict[str, Any], prefix: str) -> Part:
    from pipelines.commands.pjsd_sides import Part

    pairs = [value.partition("=") for value in settings["stages"]]
    if any(not fingerprint for _, _, fingerprint in pairs):
        raise click.BadParameter("write --stage phonemes=FINGERPRINT")
    where, windows, selection = (settings[prefix + name] for name in ("where", "windows", "selection"))
    return Part(where or "true", windows, selection, {name: fingerprint for name, _, fingerprint in pairs})


def _side(name: str, part: Part, recipe: Recipe, root: str, settings: dict[str, Any]) -> Side:
    """The side of a lake, or of sound, which is first ingested and annotated in the lake `root`."""
    from pipelines.annotate_sound import ingest_and_annotate
    from pipelines.commands.pjsd_sides import open_part, side_of_lake, with_phoneme_stages

    target = open_part(name, part)
    if target is None:
        if part.windows is not None or part.selection or part.where != "true":
            raise SpeechmillError(
                f"{name} is sound: it has no rows to choose from",
                "ingest and annotate it, and name its lake; or leave out the conditions",
            )
        with redirect_stdout(sys.stderr):
            ingest_and_annotate([name], root, with_phoneme_stages(recipe), settings["workers"], settings["quiet"])
        target = open_part(root, part)
        assert target is not None
    return side_of_lake(name, target, part, settings["phones"], settings["seed"])


def _check_alike(a: Side, b: Side) -> None:
    if a.recogniser != b.recogniser:
        raise SpeechmillError(
            f"the phones of {a.name} are by {a.recogniser} and those of {b.name} by {b.recogniser}: the divergence "
            "would measure how the recognisers differ",
            "annotate both with one [annotate.phonemes]; for sound, name the recipe of the lake: --recipe",
        )


def _show(sides: list[Side], orders: list[Order]) -> None:
    from manifests.commands import terminal

    say(f"pJSD in bits between n-grams of phones, by {sides[0].recogniser}; intervals hold 95 %")
    for letter, side in zip("AB", sides, strict=True):
        counts = side.as_dict()
        say(
            f"{letter}  {side.name}: {counts['phones']:,} phones in {counts['stretches']:,} stretches of speech of "
            f"{counts['used']:,} recordings; of {side.meant:,}, {side.failed:,} failed, "
            f"{side.without_phones:,} without phones, {side.not_drawn:,} not drawn"
        )
    if sides[0].stage != sides[1].stage:
        say("note: speech was found by other settings of vad in A than in B")
    terminal.table(
        ["n", "pJSD", "interval", "corrected", "interval", "n-grams A", "B", "distinct A", "B", "shared",
         "coverage A", "B"],
        [
            [order.n, *_cells(order.pjsd), *_cells(order.corrected), order.a.count, order.b.count, order.a.distinct,
             order.b.distinct, order.shared, order.a.coverage, order.b.coverage]
            for order in orders
        ],
    )  # fmt: skip
    matched = next((order.matched.phones for order in orders if order.matched.between), None)
    if matched:
        say(f"\nthe same in random samples of {matched:,} phones each, to compare with what chance alone makes:")
        terminal.table(
            ["n", "A to B", "interval", "A to A", "interval", "B to B", "interval"],
            [
                [order.n, *_cells(order.matched.between), *_cells(order.matched.within_a),
                 *_cells(order.matched.within_b)]
                for order in orders
            ],
        )  # fmt: skip
    if curves := [order for order in orders if order.curve]:
        say("\nbias by sample size: the value in an eighth, a quarter, a half of the recordings, and in all of them")
        names = [f"1/{round(curves[0].curve[-1].phones_a / point.phones_a)}" for point in curves[0].curve]
        terminal.table(
            ["n", *names, "ratio"], [[order.n, *(point.pjsd for point in order.curve), order.ratio] for order in curves]
        )
    for note in dict.fromkeys(note for order in orders for note in order.notes):
        say(f"n = {', '.join(str(order.n) for order in orders if note in order.notes)}: {note}")


def _cells(found: Range | None) -> list[Any]:
    """A value and its interval as two cells of a table."""
    if found is None:
        return ["-", "-"]
    interval = "-" if found.low is None or found.high is None else f"{found.low:.4f} to {found.high:.4f}"
    return [found.value, interval]
