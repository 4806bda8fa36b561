"""`speechmill encoder`: lists, describes and trains encoders, and decodes their features."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.commands.options import JSON
from manifests.output import say, to_json
from pipelines.commands.inspect import Time
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    from encoders.base import Encoder

SETTINGS = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of the encoder, such as num_mels=40."
)


@click.group("encoder")
def encoder_group() -> None:
    """List, describe, train and test encoders, which turn sound into features."""


@encoder_group.command("list")
@JSON
def encoder_list(as_json: bool) -> None:
    """List every encoder with its default frame rate and size, and whether its packages are installed."""
    import encoders

    rows = [_listed(name) for name in sorted(encoders.ENCODERS)]
    if as_json:
        say(to_json({"encoders": rows}, indent=1))
        return
    for row in rows:
        gives = f"{row['frame_rate']:.5g} frames/s of {row['dim']}" if row["dim"] else "wants settings"
        hears = "decodes" if row["decodes"] else ""
        licence = row["licence"] or ""
        say(f"{row['name']:<12}{gives:<24}{hears:<9}{licence:<12}{row['missing'] or row['wants'] or 'installed'}")


@encoder_group.command("show")
@SETTINGS
@JSON
@click.argument("name")
def encoder_show(name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the properties of the encoder NAME with its settings: rates, context, size and fingerprint."""
    found = _contract(_load(name, overrides))
    if as_json:
        say(to_json(found, indent=1))
        return
    for key, value in found.items():
        if not isinstance(value, dict):
            say(f"{key:<20}{value if value is not None else 'unknown'}")
            continue
        say(key)
        for part, given in value.items():
            say(f"  {part:<22} {given}")


@encoder_group.command("roundtrip")
@click.option("--encoder", "name", default="logmel", show_default=True, metavar="NAME", help="The encoder to test.")
@click.option("--recipe", metavar="RECIPE", help="Use the encoder of a recipe, with its settings, instead.")
@SETTINGS
@click.option(
    "--vocoder", metavar="NAME", default="auto", show_default=True,
    help="Vocoder for log-mel features: hifigan, griffin-lim, or auto for the first that is installed.",
)  # fmt: skip
@click.option(
    "-o", "--output", metavar="FILE",
    help="Sound file to write. The default is <name>-<encoder>.wav in the current folder.",
)  # fmt: skip
@JSON
@click.argument("file")
@click.argument("start_s", metavar="[START]", type=Time(), required=False)
@click.argument("end_s", metavar="[END]", type=Time(), required=False)
def encoder_roundtrip(
    file: str,
    start_s: float | None,
    end_s: float | None,
    name: str,
    recipe: str | None,
    overrides: tuple[str, ...],
    vocoder: str,
    output: str | None,
    as_json: bool,
) -> None:
    """Encode a stretch of FILE and decode it again.

    Writes the decoded sound and a picture of both spectrograms, and prints the distances between them. START and END
    are seconds, or 1:02:03.5.
    """
    from pipelines.commands.roundtrip import roundtrip

    encoder = _load(name, overrides, recipe)
    if encoder.vocoder:
        from encoders.vocoders import VOCODERS

        if vocoder not in VOCODERS:
            raise click.BadParameter(f"{vocoder!r} is none of {', '.join(VOCODERS)}", param_hint="--vocoder")
        encoder.vocoder = vocoder
    elif vocoder != "auto":
        raise click.BadParameter(f"{encoder.name} has a decoder of its own", param_hint="--vocoder")
    path = Path(output or f"{Path(file).stem}-{encoder.name}.wav")
    found = roundtrip(file, start_s, end_s, encoder, path)
    if as_json:
        say(to_json(found, indent=1))
        return
    by = f" by {found['vocoder']}" if found["vocoder"] else ""
    length = f"{found['duration_s']:.2f} s, {found['frames']:,} frames of {found['dim']}"
    say(f"{file}: {length}, encoded by {found['encoder']} and decoded{by}")
    for number, track in enumerate(found["tracks"]):
        of = f"track {number}: " if len(found["tracks"]) > 1 else ""
        known = {key: f"{value:.3f}" if value is not None else "not known" for key, value in track.items()}
        say(f"{of}log-mel distance {known['log_mel']} nepers, PESQ {known['pesq']}, STOI {known['stoi']}")
    for measure, command in found["not_measured"].items():
        say(f"{measure.upper()} is not measured: {command}")
    say(f"sound: {found['sound']}")
    say(f"picture: {found['picture']}")


@encoder_group.command("train")
@click.option("-o", "--output", "folder", required=True, metavar="FOLDER", help="Folder of the model.")
@click.option("--dataset", metavar="NAME", help="A dataset of log-mel features; by default the newest.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="A setting of the model (stride, dim, width) or of its training (steps, batch, beta ...).",
)  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
              help="Device for training.")  # fmt: skip
@JSON
@click.argument("lake")
def encoder_train(
    lake: str, folder: str, dataset: str | None, overrides: tuple[str, ...], device: str, as_json: bool
) -> None:
    """Train a VAE on the log-mel features of a dataset of LAKE.

    The same command resumes an interrupted training. `encoder = "vae"` with `model = FOLDER` uses the model.
    """
    from manifests.choice import ChoiceError, choose
    from pipelines.commands.options import open_lake
    from pipelines.commands.vae_training import Trainer, Windows

    opened = open_lake(lake)
    try:
        chosen = choose(opened, dataset=dataset).dataset
    except ChoiceError as error:
        raise SpeechmillError(str(error), error.remedy) from error
    if chosen is None:
        raise SpeechmillError(f"there is no dataset in {lake}", "make one: `speechmill run`")
    windows = Windows(opened, chosen)
    shape, training = _shape_and_training(windows.logmel, overrides)
    trainer = Trainer(windows, shape, training, Path(folder), device)
    if trainer.done and not as_json:
        say(f"resuming after step {trainer.done:,} of {training.steps:,}")

    def tell(row: dict[str, Any]) -> None:
        known = f", validation {row['validation']:.4f}" if row["validation"] is not None else ""
        counted = f"step {row['step']:,} of {training.steps:,}"
        say(f"{counted}: log-mel error {row['error_nepers']:.4f} nepers{known}", error=as_json)

    trainer.run(tell)
    if as_json:
        say(to_json({"model": folder, "dataset": chosen, "steps": trainer.done, "last": trainer.losses[-1]}, indent=1))
    else:
        say(f"model: {folder}; curves: {folder}/training/losses.png")


def _shape_and_training(logmel: Any, overrides: tuple[str, ...]) -> tuple[Any, Any]:
    """The shape of the model and the settings of its training, changed by `--set`."""
    from encoders.vae_network import VaeShape
    from pipelines.commands.vae_training import Training
    from pipelines.recipes import recipe as recipes

    settings: dict[str, Any] = {}
    for override in overrides:
        recipes.apply_override(settings, override)
    of_shape = {field.name for field in dataclasses.fields(VaeShape)} - {"logmel"}
    of_training = {field.name for field in dataclasses.fields(Training)}
    if unknown := settings.keys() - of_shape - of_training:
        known = ", ".join(sorted(of_shape | of_training))
        raise SpeechmillError(f"no setting {', '.join(map(repr, sorted(unknown)))} of a VAE", f"choose from: {known}")
    try:
        shape = VaeShape(logmel, **{name: settings[name] for name in settings.keys() & of_shape})
        return shape, Training(**{name: settings[name] for name in settings.keys() & of_training})
    except (TypeError, ValueError) as error:
        raise SpeechmillError(str(error), "correct the --set") from error


def _load(name: str, overrides: tuple[str, ...], recipe: str | None = None) -> Encoder:
    """The encoder NAME, or that of a recipe, with settings changed by `--set`. Raises SpeechmillError."""
    import encoders
    from pipelines.recipes import recipe as recipes

    settings: dict[str, Any] = {}
    if recipe:
        loaded = recipes.load(recipe)
        encode = loaded.encoders.get(name, loaded.encode)
        name, settings = encode.encoder, dict(encode.settings)
    for override in overrides:
        recipes.apply_override(settings, override)
    try:
        return encoders.load(name, settings)
    except (TypeError, ValueError) as error:
        raise SpeechmillError(
            str(error), "`speechmill encoder list` names the encoders; correct NAME or --set"
        ) from error


def _listed(name: str) -> dict[str, Any]:
    """The row of `list` for an encoder.

    `missing` is the command that installs its missing packages, and `wants` the error for a missing setting.
    """
    import encoders
    from manifests.install import installed

    row = dict.fromkeys(("sample_rate", "frame_rate", "dim", "licence", "decodes", "missing", "wants"))
    try:
        encoder = encoders.load(name, {})
    except (TypeError, ValueError) as error:
        return {"name": name} | row | {"wants": str(error)}
    except SpeechmillError as error:
        return {"name": name} | row | {"missing": error.remedy}
    lacking = [package for package in encoder.packages if not installed(package)]
    return {
        "name": name,
        "sample_rate": encoder.sample_rate,
        "frame_rate": encoder.frame_rate,
        "dim": encoder.dim,
        "licence": encoder.licence,
        "decodes": encoder.has_decoder,
        "missing": _install() if lacking else None,
        "wants": None,
    }


def _install() -> str:
    from manifests.install import install

    return install(["latents"])


def _contract(encoder: Encoder) -> dict[str, Any]:
    """The properties that `show` prints for an encoder."""
    bytes_an_hour = encoder.frame_rate * 3600 * encoder.dim * 2
    return {
        "name": encoder.name,
        "version": encoder.version,
        "fingerprint": encoder.fingerprint,
        "sample_rate_hz": encoder.sample_rate,
        "hop_samples": encoder.hop_samples,
        "frame_rate_hz": encoder.frame_rate,
        "dim": encoder.dim,
        "mb_an_hour": bytes_an_hour / 1e6,
        "causal": encoder.causal,
        "look_back_samples": encoder.look_back_samples,
        "look_ahead_samples": encoder.look_ahead_samples,
        "deterministic": encoder.deterministic,
        "tolerance": encoder.tolerance,
        "decodes": encoder.has_decoder,
        "device": encoder.device,
        "precision": encoder.precision,
        "batch": encoder.batch,
        "licence": encoder.licence,
        "settings": dataclasses.asdict(encoder.config),
        "models": encoder.model_hashes(),
        "normalisation": dict(encoder.normalisation()),
    }
