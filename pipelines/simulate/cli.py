"""`speechmill simulate`: conversations with exact truth from recordings of single speakers and synthetic voices."""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from manifests.commands.options import JSON
from manifests.output import say, to_json
from pipelines.simulate import settings as known
from runtime.errors import SpeechmillError


class RangeType(click.ParamType):
    """A number, or a range from least to most: 3 or 1..5."""

    name = "range"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        low, _, high = value.partition("..")
        try:
            return self.kind(low), self.kind(high or low)
        except ValueError:
            self.fail(f"{value!r} is not a number or a range like 1..5", parameter, context)


def _several(name: str, choices: tuple[str, ...], default: tuple[str, ...], what: str) -> Any:
    return click.option(
        f"--{name}", f"{name}s", multiple=True, type=click.Choice(choices), default=default, show_default=True,
        help=f"{what}. If several are given, each conversation draws one.",
    )  # fmt: skip


DEFAULTS = known.Settings()


@click.command()
@click.argument("out", type=click.Path(file_okay=False))
@click.option(
    "--voices", "voices", multiple=True, metavar="PATH",
    help="Recordings of single speakers: a file, folder, pattern, list, manifest or tar, or a lake.",
)  # fmt: skip
@click.option("--voice-names", metavar="FILE", help="A recording, a tab and its voice on each line.")
@click.option(
    "--voice-by", type=click.Choice(["file", "folder"]), default="file", show_default=True,
    help="Whether a voice that nothing else names has the name of its file or of its folder.",
)  # fmt: skip
@click.option(
    "--tts", "tts", multiple=True, metavar="VOICE",
    help="Synthetic voices, such as: all, kokoro, piper:joe, kokoro:jm_kumo,rate=0.8..1.2,pitch=0.9.",
)  # fmt: skip
@click.option(
    "--texts",
    metavar="FILE",
    help="Texts of synthetic voices, one utterance per line. The default is English small talk.",
)
@click.option("--count", type=click.IntRange(1, 10**6), required=True, help="Number of conversations.")
@click.option("--minutes", type=RangeType(float), default="1..5", show_default=True, metavar="A..B")
@click.option(
    "--speakers",
    type=RangeType(int),
    default="2",
    show_default=True,
    metavar="A..B",
    help="Number of speakers, 1 to 8.",
)
@click.option(
    "--side",
    type=click.Choice(known.SIDES),
    required=True,
    help="Which voices are used: each voice belongs to one side.",
)
@click.option(
    "--test-share",
    type=float,
    default=DEFAULTS.test_share,
    show_default=True,
    help="Share of the voices on the side test.",
)
@click.option(
    "--channels",
    type=click.IntRange(1, 2),
    default=1,
    show_default=True,
    help="2 for the two sides of a telephone call.",
)
@click.option("--rate", type=int, default=DEFAULTS.rate, show_default=True, help="Sampling rate in Hz.")
@_several("room", known.ROOMS, DEFAULTS.rooms, "Rooms")
@_several("codec", known.CODECS, DEFAULTS.codecs, "Codecs, each with its telephone band")
@_several("bed", known.BEDS, DEFAULTS.beds, "Background sounds; 'files' are those of --noise")
@click.option(
    "--noise", "noises", multiple=True, metavar="PATH", help="Recordings of noise or music: adds --bed files."
)
@click.option(
    "--snr",
    "snr_db",
    type=RangeType(float),
    default="10..30",
    show_default=True,
    metavar="A..B",
    help="Level of the speech relative to the background, dB.",
)
@click.option(
    "--bank",
    metavar="FOLDER",
    help="Folder for measured and decoded voices, which several simulations can use. The default is OUT/bank.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change any setting: --set turns.hold=0.5."
)
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option("--dry-run", is_flag=True, help="Only print what would be made, without decoding or writing anything.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@JSON
def simulate(out: str, dry_run: bool, count: int, quiet: bool, as_json: bool, **options: Any) -> None:
    """Make conversations from recordings of single speakers and synthetic voices, with the exact times of all speech,
    and of the words of synthetic voices.

    Each conversation is a FLAC file and a JSON file in OUT. manifest.jsonl (Lhotse cuts), truth.rttm, truth.uem and
    truth.ctm describe all of them. The same command continues after an interruption. docs/simulate.md describes every
    setting.
    """
    from pipelines.simulate import work
    from pipelines.simulate.speech.texts import read_texts
    from pipelines.simulate.speech.voices import speakers
    from pipelines.simulate.voices import Source, read_names

    if re.match("[a-z0-9]+://", out):
        raise SpeechmillError(
            f"{out}: conversations are written to a local folder", "give a local folder, and copy it afterwards"
        )
    names = read_names(options["voice_names"]) if options["voice_names"] else {}
    if not options["voices"] and not options["tts"]:
        raise click.UsageError(
            "there are no voices: give recordings with --voices, synthetic voices with --tts, or both"
        )
    if options["texts"] and not options["tts"]:
        raise click.UsageError("--texts is only for synthetic voices, and there is no --tts")
    tts = speakers(options["tts"])
    source = Source(
        options["voices"], options["noises"], names, options["voice_by"], options["workers"], quiet,
        Path(options["bank"] or Path(out, "bank")), tts, read_texts(options["texts"]) if tts else (),
    )  # fmt: skip
    beds = options["beds"] + (("files",) if source.noises and "files" not in options["beds"] else ())
    drawn = ("minutes", "speakers", "side", "test_share", "channels", "rate", "rooms", "codecs", "snr_db", "seed")
    settings = known.settings_of({name: options[name] for name in drawn} | {"beds": beds}, options["overrides"])
    if dry_run:
        found = work.estimate(source, settings, count)
        text = (
            f"{found['recordings']:,} recordings; voices, by their names: {found['voices']['tuning']:,} for tuning, "
            f"{found['voices']['test']:,} for test\n{count:,} conversations, about {found['hours']:.2f} h, at most "
            f"{found['gigabytes_at_most']:.2f} GB\ndry run: nothing was written"
        )
    else:
        with redirect_stdout(sys.stderr):
            found = work.simulate(
                Path(out), source, settings, count, lambda line: None if quiet else say(line, error=True)
            )
        text = _as_text(found)
    if as_json:
        say(to_json(found, indent=1))
    elif not quiet:
        say(text)


def _as_text(found: dict[str, Any]) -> str:
    lines = [f"{found['voices']:,} voices, {found['voice_speech_hours']:.2f} h of speech, side {found['side']}"]
    lines += [
        f"  left out: {one['count']:,} {one['reason']}: {', '.join(one['examples'])}" for one in found["left_out"]
    ]
    lines.append(
        f"{found['conversations']:,} conversations, {found['hours']:.2f} h, {found['made_now']:,} of them made by this "
        f"command; {found['utterances']:,} utterances, {found['utterances_repeated']:,} of them used before; "
        f"{found['backchannels_left_out']:,} backchannels did not fit"
    )
    return "\n".join([*lines, f"truth: {found['out']}/truth.rttm, manifest: {found['out']}/manifest.jsonl"])
