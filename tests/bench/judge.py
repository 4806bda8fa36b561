"""Simulate conversations with exact truth to evaluate diarization, in two halves that share no voice and no noise.

They are made by `speechmill simulate` from the test recordings of single speakers (SPEECHMILL_TEST_AUDIO) and synthetic
voices. The same command finishes a set that was interrupted, and adds conversations to a finished one.
"""

import csv
import shlex
import subprocess
import sys
from pathlib import Path

sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import click
from sounds import recordings_or_packaged

VOICES = {
    "ami-en2001d": ["pyannote_ami/trn02.flac"],
    "watson-ar": ["watson/ar-AR_Broadband_sample1.wav"],
    "watson-de": ["watson/de-DE_NarrowbandModel_sample1.wav"],
    "watson-en-gb-broadband": ["watson/en-GB_Broadband_sample1.wav"],
    "watson-en-gb-narrowband": ["watson/en-GB_Narrowband_sample1.wav"],
    "watson-fr": ["watson/fr-FR_Broadband_sample1.wav"],
    "watson-it": ["watson/it-IT_BroadbandModel_sample1.flac"],
    "watson-ko-broadband": ["watson/ko-KR_BroadbandModel_sample1.wav"],
    "watson-ko-narrowband": ["watson/ko-KR_NarrowbandModel_sample1.wav"],
    "watson-nl": ["watson/new_single2-mono.flac"],
    "watson-pt": ["watson/pt-BR_Sample1-16KHz.wav", "watson/pt-BR_Sample1-8KHz.wav"],
    "watson-zh-16k": ["watson/zh-CN_sample1_for_16k.wav"],
    "watson-zh-8k": ["watson/zh-CN_sample1_for_8k.wav"],
    **{f"leopard-{code}": [f"leopard/test_{code}.wav"] for code in ("de", "es", "fr", "it", "ja", "ko", "pt")},
    "leopard-en": ["leopard/test.wav"],
    "azure-en-zh": ["azure/en-us_zh-cn.flac"],
    "librispeech-198": ["librosa/198-209-0000.ogg"],
    "librispeech-5703": ["librosa/5703-47212-0000.ogg"],
    "jfk": ["fw/jfk.flac"],
    "whisperkit-es": ["whisperkit/es_test_clip.wav"],
    "auditok-ar": ["auditok/1to6arabic_16000_mono_bc_noise.wav"],
    "auditok-de": [
        "auditok/was_der_mensch_saet_das_wird_er_vielfach_ernten_44100Hz_mono_lead_trail_silence.wav",
    ],
    "lyra-1": ["lyra/sample1_48kHz.wav"],
    "vosk": ["vosk/test.wav"],
}
"""Recordings by speaker. Files of one collection and language are the same voice if the cosine of their speaker
embeddings (GE2E) is 0.88 or more, as it is for one recording in two bands, and different voices if it is below 0.66."""
LEFT_OUT = {
    "the same words of the same voice as another file": [
        "watson/fr-FR_Narrowband_sample1.wav", "watson/it-IT_NarrowbandModel_sample1.flac",
        "watson/new_single2-mono-NB.wav", "whisperkit/jfk_441khz.m4a",
    ],
    "perhaps the same voice as another file": [
        "watson/Es_ES_spk19_8khz.wav", "watson/Us_English_Narrowband_Sample_1.wav",
        "watson/ja-JP_Broadband_sample1.wav", "watson/sample-Ja_JP-narrow1.wav", "watson/sample-Ja_JP-narrow3.wav",
    ],
    "less than 3 s of speech": [
        "azure/whatstheweatherlike-mulaw.wav", "azure/whatstheweatherlike.mp3", "azure/test_audio_stereo.wav",
        "google/multi.flac", "google/audio_silence_padding.wav", "whisperkit/ja_test_clip.wav",
        "uberi/audio-mono-24-bit-44100Hz.wav", "uberi/audio-mono-8-bit-44100Hz.wav",
        "uberi/audio-stereo-32-bit-44100Hz.wav", "lhotse/stereo.sph", "lyra/sample2_48kHz.wav",
    ],
    "speech in turns on several channels, or music with it": [
        "google/two_channel_16k.wav", "whisperkit/8_Channel_ID.m4a", "ina/musanmix.mp3",
    ],
    "two voices by pitch and embeddings, although the index says one": [
        "watson/es-ES_Broadband_sample1.flac", "watson/es-ES_Narrowband_sample1.flac",
        "watson/sample-Ja_JP-narrow5.wav", "azure/es-mx.wav", "ina/lamartine.flac",
    ],
    "not decodable": ["azure/missing_wav_header.wav"],
}  # fmt: skip
NOISES = {
    "tuning": ["speechbrain/noise1.flac", "librosa/Kevin_MacLeod_-_Vibe_Ace.ogg"],
    "test": [
        "speechbrain/noise2.wav",
        "speechbrain/noise3.wav",
        "librosa/Hungarian_Dance_number_5_-_Allegro_in_F_sharp_minor_(string_orchestra).ogg",
    ],
}
"""Noise files by half, because the command only splits voices."""
MILL = [sys.executable, "-c", "from pipelines.commands.cli import main; main()"]
FOLDERS = {"tuning": "tune", "test": "test"}
BEDS = ("none", "pink", "babble", "files")
MIXED = [
    "--voice-by=file", *(f"--codec={name}" for name in ("none", "mulaw", "alaw", "amr", "opus", "g722")),
    *(f"--room={name}" for name in ("dry", "small", "medium", "large")),
    "--snr=5..30",
]  # fmt: skip


def index_of(folder: Path) -> dict[str, dict[str, str]]:
    """Read the index of a folder of recordings, by path."""
    with (folder / "index.tsv").open(encoding="utf-8") as lines:
        return {row["path"]: row for row in csv.DictReader(lines, delimiter="\t")}


def voices_of(folder: Path) -> dict[str, list[str]]:
    """Return the recordings of each speaker in a folder: those of VOICES or, without any, one per single speaker."""
    present = {voice: [path for path in paths if (folder / path).is_file()] for voice, paths in VOICES.items()}
    named = {voice: paths for voice, paths in present.items() if paths}
    return named or {Path(path).stem: [path] for path, row in index_of(folder).items() if row["n_speakers"] == "1"}


def noises_of(folder: Path, side: str) -> list[Path]:
    """Return the noise files of a half or, if the folder has none of them, its recordings without speakers."""
    named = [folder / path for path in NOISES[side] if (folder / path).is_file()]
    return named or [folder / path for path, row in index_of(folder).items() if row["n_speakers"] == "0"]


def prepare(folder: Path, out: Path) -> None:
    """Write the list of recordings and the table of their voices. Warn of single speakers that are in neither list."""
    voices = voices_of(folder)
    known = {path for paths in [*VOICES.values(), *LEFT_OUT.values(), *voices.values()] for path in paths}
    index = index_of(folder)
    for path in sorted(path for path, row in index.items() if row["n_speakers"] == "1" and path not in known):
        print(f"{path}: not used, since VOICES does not name its voice", file=sys.stderr)
    there = [(path, voice) for voice, paths in voices.items() for path in paths]
    out.mkdir(parents=True, exist_ok=True)
    (out / "voices.txt").write_text("".join(f"{folder / path}\n" for path, _ in there))
    (out / "voices.tsv").write_text("".join(f"{path}\t{voice}\n" for path, voice in there))


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--folder", type=click.Path(path_type=Path, exists=True), help="Recordings; the test recordings.")
@click.option("--count", default=300, show_default=True, help="Conversations of each half, without the long ones.")
@click.option("--minutes", default="0.5..5", show_default=True, help="Their lengths.")
@click.option("--speakers", default="1..8", show_default=True, help="Their numbers of speakers.")
@click.option("--calls", default=0.2, show_default=True, help="Share of the conversations that have two channels.")
@click.option("--long", "long_ones", default=3, show_default=True, help="Conversations of 15 to 60 minutes.")
@click.option(
    "--utterances", default=60, show_default=True, help="Utterances of each synthetic voice; 0 for no such voices."
)
@click.option(
    "--side", "sides", multiple=True, type=click.Choice(list(FOLDERS)), default=list(FOLDERS), show_default=True
)
@click.option("--bed", "beds", multiple=True, default=BEDS, show_default=True, help="Noise under the speech.")
@click.option("--seed", default=1, show_default=True)
@click.option("--workers", default=1, show_default=True)
def main(
    out: Path, folder: Path | None, count: int, minutes: str, speakers: str, calls: float, long_ones: int,
    utterances: int, sides: tuple[str, ...], beds: tuple[str, ...], seed: int, workers: int,
) -> None:  # fmt: skip
    """Make OUT/tune and OUT/test, each with additional folders whose names end in -calls, -long and -bank."""
    folder = folder or recordings_or_packaged()
    prepare(folder, out)
    many = round(calls * count)
    parts = [("", count - many, minutes, 1), ("-calls", many, minutes, 2), ("-long", long_ones, "15..60", 1)]
    for side in sides:
        name = FOLDERS[side]
        more = [f"--bank={out / name}-bank"]
        more += ["--tts=all", f"--set=tts_utterances={utterances}"] if utterances else []
        more += [f"--bed={bed}" for bed in beds]
        more += [f"--noise={path}" for path in noises_of(folder, side)] if "files" in beds else []
        for suffix, wanted, length, channels in parts:
            if not wanted:
                continue
            command = [
                "simulate", str(out / f"{name}{suffix}"),
                f"--voices={out / 'voices.txt'}", f"--voice-names={out / 'voices.tsv'}", f"--side={side}",
                f"--count={wanted}", f"--minutes={length}", f"--speakers={speakers}", f"--channels={channels}",
                f"--seed={seed}", f"--workers={workers}", *MIXED, *more,
            ]  # fmt: skip
            print(shlex.join(["speechmill", *command]), flush=True)
            subprocess.run([*MILL, *command], check=True)


if __name__ == "__main__":
    main()
