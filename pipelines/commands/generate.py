"""`speechmill study generate`: sound from a trained model. Imports happen inside the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from manifests.commands.options import JSON
from manifests.output import say, to_json


@click.command("generate")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lake", type=click.Path())
@click.option(
    "-o", "--output", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
    help="Where the sound is written.",
)  # fmt: skip
@click.option("--clips", type=click.IntRange(1, 10_000), default=32, show_default=True, help="Number of clips.")
@click.option(
    "--split", default="validation", show_default=True, metavar="NAME", help="Split whose windows are continued."
)
@click.option("--steps", type=click.IntRange(1, 1000), default=32, show_default=True, help="Steps of the sampler.")
@click.option(
    "--guidance", type=click.FloatRange(0, 20), default=2.0, show_default=True,
    help="Weight of the context (classifier-free guidance); 1 is as in training.",
)  # fmt: skip
@click.option(
    "--vocoder",
    type=click.Choice(["auto", "hifigan", "griffin-lim"]),
    default="auto",
    show_default=True,
    help="Vocoder for log-mel features.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device of the model.",
)
@JSON
def generate(
    run: Path, lake: str, folder: Path, split: str, clips: int, vocoder: str, as_json: bool, **given: Any
) -> None:
    """Continue held-out contexts with the model in RUN, which was trained on the windows of LAKE.

    FOLDER/generated has the generated continuations, FOLDER/real the real ones, decoded from features in the same way,
    and FOLDER/heard each context with its generated continuation. `study pjsd` compares generated and real.
    """
    import numpy as np

    from pipelines.commands.inspect import write
    from pipelines.encoding.dataset import encoder_of
    from studies.slm import sample

    sound, _ = sample.opened(run, lake)
    encoder = encoder_of(sound.lake, sound.dataset)
    if encoder.vocoder:
        encoder.vocoder = vocoder
    encoder.setup()
    found = sample.continued(run, lake, split, clips, **given)
    for number, (context, real, generated) in enumerate(zip(found.context, found.real, found.generated, strict=True)):
        made = {"real": real, "generated": generated, "heard": np.concatenate([context, generated])}
        for name, features in made.items():
            write(folder / name / f"{number:05d}.wav", encoder.decode(features[None]), encoder.sample_rate)
    seconds = found.real.shape[1] * sound.frame_shift_s
    document = {
        "run": str(run),
        "folder": str(folder),
        "clips": len(found.real),
        "seconds_each": seconds,
        "mean_offset": float(np.abs(found.generated.mean((0, 1)) - found.real.mean((0, 1))).mean()),
        "variance_ratio": float((found.generated.var((0, 1)) / found.real.var((0, 1))).mean()),
    }
    if as_json:
        say(to_json(document, indent=1))
    else:
        say(f"{document['clips']:,} continuations of {seconds:.2f} s: {folder}/generated, real, heard")
        statistics = (
            f"variance {document['variance_ratio']:.2f} times the real one, mean {document['mean_offset']:.3f} off"
        )
        say(f"values of features: {statistics}")
