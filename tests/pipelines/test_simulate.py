"""`speechmill simulate` on real recordings: from single speakers to conversations, their truth, and a lake of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from click.testing import CliRunner, Result

from manifests.exchange.foreign import rttm
from manifests.lake import Lake
from pipelines.commands.cli import cli
from pipelines.simulate.settings import Settings
from pipelines.simulate.voices import read_names, side_of, voice_of
from pipelines.stages.turns import summary
from runtime.errors import SpeechmillError

pytestmark = pytest.mark.recordings
VOICES = [
    *(f"leopard/test_{language}.wav" for language in ("de", "es", "fr", "it", "ja", "pt")),
    "vosk/test.wav",
    "azure/es-mx.wav",
]
USELESS = ["leopard/empty.wav", "azure/missing_wav_header.wav"]
SETTINGS = [
    *("--minutes", "0.5", "--speakers", "2..3", "--bed", "pink", "--room", "small", "--room", "dry", "--seed", "5"),
    *("--set", "split_seed=2"),
]
Simulated = Callable[..., Result]


@pytest.fixture(scope="module")
def listing(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("voices") / "voices.txt"
    path.write_text("".join(f"{recordings / name}\n" for name in VOICES + USELESS))
    return path


@pytest.fixture(scope="module")
def simulated(listing: Path, tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """Runs the command; what was measured of the voices is kept from one simulation to the next."""
    measured = tmp_path_factory.mktemp("measured") / "bank"

    def run(out: Path, *options: str) -> Result:
        if measured.exists() and not out.exists():
            shutil.copytree(measured, out / "bank")
        found = CliRunner().invoke(cli, ["simulate", str(out), "--voices", str(listing), *SETTINGS, *options])
        if (out / "bank").exists() and not measured.exists():
            shutil.copytree(out / "bank", measured)
        return found

    return run


@pytest.fixture(scope="module")
def tuning(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Two conversations of the voices for tuning, and what the command told."""
    out = tmp_path_factory.mktemp("tuning") / "out"
    found = simulated(out, "--side", "tuning", "--count", "2", "--json")
    assert found.exit_code == 0, found.output
    return out, json.loads(found.stdout)


def truths(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((out / "conversations").glob("*.json"))]


def made(out: Path) -> dict[str, bytes]:
    """All files of a simulation but the bank."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "bank" not in path.relative_to(out).parts
    }


def test_the_truth_is_what_the_tables_and_the_sound_say(tuning: tuple[Path, dict[str, Any]]) -> None:
    out, told = tuning
    found = truths(out)
    assert told["conversations"] == told["made_now"] == len(found) == 2
    turns = [rttm.segment_row(line, n) for n, line in enumerate((out / "truth.rttm").read_text().splitlines())]
    regions = [rttm.window_row(line, n) for n, line in enumerate((out / "truth.uem").read_text().splitlines())]
    for truth, region in zip(found, regions, strict=True):
        sound = soundfile.info(str(out / "conversations" / f"{truth['name']}.flac"))
        assert (sound.frames, sound.samplerate, sound.channels) == (truth["num_samples"], 16000, 1)
        assert (region["recording_id"], region["duration_s"]) == (truth["name"], 30.0)
        spoken = sorted((*span, said["speaker"]) for said in truth["utterances"] for span in said["speech"])
        mine = [row for row in turns if row and row["recording_id"] == truth["name"]]
        listed = [(row["start_s"], row["start_s"] + row["duration_s"], row["speaker"]) for row in mine]
        assert [row[2] for row in listed] == [row[2] for row in spoken]
        assert [row[:2] for row in listed] == [pytest.approx(row[:2], abs=1e-8) for row in spoken]
        assert {said["speaker"] for said in truth["utterances"]} <= {one["voice"] for one in truth["speakers"]}
        row = summary([dict(zip(("start_s", "end_s", "speaker"), one, strict=True)) for one in spoken], 30.0)
        by_times = truth["statistics"]["turn_taking"]
        assert {name: row[name] for name in by_times} == pytest.approx(by_times, abs=2e-6)


def test_what_cannot_be_used_is_counted_with_its_reason(tuning: tuple[Path, dict[str, Any]]) -> None:
    reasons = {one["reason"]: one["count"] for one in tuning[1]["left_out"]}
    assert reasons["no speech"] == 1
    assert reasons["not readable (UnreadableAudioError)"] == 1
    assert sum(reasons.values()) + tuning[1]["voices"] == len(VOICES) + len(USELESS)


def test_no_voice_is_on_both_sides(simulated: Simulated, tuning: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    assert simulated(tmp_path / "test", "--side", "test", "--count", "2").exit_code == 0
    sides = [
        {one["voice"] for truth in truths(out) for one in truth["speakers"]} for out in (tuning[0], tmp_path / "test")
    ]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_equal_seeds_give_equal_bytes_however_many_are_made_by_however_many_workers(
    simulated: Simulated, tuning: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    wanted = made(tuning[0])
    assert simulated(tmp_path / "one", "--side", "tuning", "--count", "1").exit_code == 0
    one = made(tmp_path / "one")
    for name in ("simulation.json", "conversations/tuning-5-000000.flac", "conversations/tuning-5-000000.json"):
        assert one[name] == wanted[name]
    assert simulated(tmp_path / "one", "--side", "tuning", "--count", "2", "--workers", "2").exit_code == 0
    assert made(tmp_path / "one") == wanted
    assert simulated(tmp_path / "other", "--side", "tuning", "--count", "1", "--seed", "6").exit_code == 0
    other = made(tmp_path / "other")
    assert other["conversations/tuning-6-000000.flac"] != wanted["conversations/tuning-5-000000.flac"]


def test_a_killed_simulation_is_finished_by_the_same_command(
    simulated: Simulated, listing: Path, tuning: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(tuning[0] / "bank", out / "bank")
    command = ["simulate", str(out), "--voices", str(listing), *SETTINGS, "--side", "tuning", "--count", "400"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.commands", *command],
        cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and len(list((out / "conversations").glob("*.json"))) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "truth.rttm").exists()  # it was killed before its end
    assert simulated(out, "--side", "tuning", "--count", "2").exit_code == 0
    assert {name: data for name, data in made(out).items() if name in made(tuning[0])} == made(tuning[0])


def test_ingest_reads_the_manifest(tuning: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    options = ["--lake", lake, "--in", str(tuning[0] / "manifest.jsonl"), "--json"]
    found = CliRunner().invoke(cli, ["ingest", "demo", *options])
    assert found.exit_code == 0, found.output
    batch = Lake.at(lake).read("recordings/batch-000000.parquet").to_pylist()
    assert [(row["status"], row["claimed_duration_s"]) for row in batch] == [("ok", 30.0)] * 2


def test_the_manifest_and_the_truth_are_valid_and_say_the_same(
    tuning: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    found = CliRunner().invoke(cli, ["manifest", "validate", str(tuning[0] / "manifest.jsonl"), "--json"])
    assert found.exit_code == 0, found.output
    out = str(tmp_path / "again.rttm")
    found = CliRunner().invoke(
        cli, ["manifest", "convert", str(tuning[0] / "manifest.jsonl"), "--to", "rttm", "-o", out]
    )
    assert found.exit_code == 0, found.output
    assert sorted(Path(out).read_text().splitlines()) == sorted((tuning[0] / "truth.rttm").read_text().splitlines())


def test_two_channels_have_their_own_speakers(
    simulated: Simulated, recordings: Path, tuning: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    options = ["--side", "test", "--count", "1", "--channels", "2", "--codec", "mulaw", "--minutes", "2"]
    options += ["--noise", str(recordings / "speechbrain/noise2.wav"), "--set", 'beds=["files"]']
    found = simulated(tmp_path / "out", *options)
    assert found.exit_code == 0, found.output
    (truth,) = truths(tmp_path / "out")
    assert truth["codec"] == "mulaw"
    assert truth["bed"]["kind"] == "files"
    noises = json.loads((tmp_path / "out/simulation.json").read_text())["noises"]
    assert noises == [truth["bed"]["recording_id"]]
    by_channel = {said["speaker"]: said["channel"] for said in truth["utterances"]}
    assert set(by_channel.values()) == {0, 1}
    assert soundfile.info(str(tmp_path / "out/conversations" / f"{truth['name']}.flac")).channels == 2
    lines = (tmp_path / "out/truth.rttm").read_text().splitlines()
    assert {tuple(line.split()[i] for i in (7, 2)) for line in lines} == {
        (speaker, str(channel + 1)) for speaker, channel in by_channel.items()
    }
    assert len((tmp_path / "out/truth.uem").read_text().splitlines()) == 2


def test_a_folder_takes_no_conversations_of_other_settings(
    simulated: Simulated, tuning: tuple[Path, dict[str, Any]]
) -> None:
    before = made(tuning[0])
    found = simulated(tuning[0], "--side", "tuning", "--count", "2", "--set", "turns.hold=0.5")
    assert isinstance(found.exception, SpeechmillError)
    assert "settings.turns" in str(found.exception)
    assert made(tuning[0]) == before


def test_too_few_voices_are_told_with_what_was_left_out(
    simulated: Simulated, tuning: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    found = simulated(tmp_path / "out", "--side", "test", "--count", "1", "--speakers", "8")
    assert isinstance(found.exception, SpeechmillError)
    assert "may have 8 speakers" in str(found.exception)
    assert "1 no speech" in str(found.exception)
    assert not (tmp_path / "out/simulation.json").exists()


def test_recordings_of_a_lake_speak_where_it_tells_that_they_hold_one_speaker(
    tuning: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    lake = shutil.copytree(tuning[0] / "bank/voices", tmp_path / "lake")
    command = ["simulate", str(tmp_path / "out"), "--voices", str(lake), "--side", "tuning", "--test-share", "0"]
    command += ["--count", "1", "--minutes", "0.5", "--room", "dry"]
    found = CliRunner().invoke(cli, command)
    assert isinstance(found.exception, SpeechmillError)
    assert "diarization" in str(found.exception)
    for name in ("de", "fr"):
        found = CliRunner().invoke(cli, ["label", str(lake), f"speaker=the {name}", "--uri", f"*test_{name}.wav", "-q"])
        assert found.exit_code == 0, found.output
    found = CliRunner().invoke(cli, [*command, "--json", "-q"])
    assert found.exit_code == 0, found.output
    assert {one["voice"] for one in truths(tmp_path / "out")[0]["speakers"]} == {"the_de", "the_fr"}
    found = CliRunner().invoke(cli, [*command, "--dry-run", "--json"])
    assert json.loads(found.stdout)["recordings"] == len(VOICES) + len(USELESS)


def test_the_document_names_every_key_of_the_json(tuning: tuple[Path, dict[str, Any]]) -> None:
    document = (Path(__file__).parents[2] / "docs/simulate.md").read_text()
    _, _, document = document.partition("## JSON")
    for key in [*tuning[1], *truths(tuning[0])[0]["statistics"]]:
        assert f"`{key}`" in document or f"`{key}[" in document, key


def test_a_dry_run_writes_nothing(simulated: Simulated, listing: Path, tmp_path: Path) -> None:
    command = ["simulate", str(tmp_path / "out"), "--voices", str(listing), *SETTINGS, "--side", "test", "--count", "9"]
    found = CliRunner().invoke(cli, [*command, "--dry-run", "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["recordings"] == sum(told["voices"].values()) == len(VOICES) + len(USELESS)
    assert told["hours"] == pytest.approx(9 / 120)
    assert not list(tmp_path.iterdir())


def test_files_of_one_name_in_two_folders_are_not_taken_for_one_voice(
    simulated: Simulated, recordings: Path, tuning: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    others = ["--voices", str(recordings / "leopard/test.wav")]  # beside vosk/test.wav
    found = simulated(tmp_path / "out", "--side", "tuning", "--count", "1", *others)
    assert isinstance(found.exception, SpeechmillError)
    assert "named test" in str(found.exception)
    assert "--voice-by folder" in found.exception.remedy


def row(uri: str, **known: Any) -> dict[str, Any]:
    return {"uris": [uri], "labels": None, "hints": None} | known


def test_voices_are_named_by_the_table_labels_manifests_and_files_in_this_order(tmp_path: Path) -> None:
    table = tmp_path / "names.tsv"
    table.write_text("b/one.wav\tAnna Lee\n\ntwo.wav\tBert\n")
    names = read_names(str(table))
    lhotse = json.dumps([{"supervisions": [{"speaker": "carl"}, {"speaker": "carl"}]}])
    assert voice_of(row("/a/b/one.wav", labels=[("speaker", "x")]), names, "file") == "Anna_Lee"
    assert voice_of(row("/a/two.wav", hints=lhotse), names, "file") == "Bert"
    assert voice_of(row("/a/c/one.wav", labels=[("speaker", "x")], hints=lhotse), names, "file") == "x"
    assert voice_of(row("/a/c/one.wav", hints=lhotse), names, "file") == "carl"
    assert voice_of(row("/a/c/one.two.wav"), names, "file") == "one.two"
    assert voice_of(row("/a/c/one.wav"), names, "folder") == "c"
    with pytest.raises(ValueError, match="several"):
        voice_of(row("/a/x.wav", hints=json.dumps([{"speaker": "a"}, {"speaker": "b"}])), names, "file")
    with pytest.raises(ValueError, match="empty"):
        voice_of(row("/a/x.wav", labels=[("speaker", " ")]), names, "file")
    table.write_text("one.wav Anna\n")
    with pytest.raises(SpeechmillError, match=r"names\.tsv:1"):
        read_names(str(table))


def test_the_split_depends_on_the_voice_and_its_seed_alone() -> None:
    settings = Settings(test_share=0.3)
    sides = [side_of(f"voice-{number}", settings) for number in range(2000)]
    assert 500 < sides.count("test") < 700
    assert sides == [
        side_of(f"voice-{number}", Settings(test_share=0.3, seed=9, side="test")) for number in range(2000)
    ]
    assert sides != [side_of(f"voice-{number}", Settings(test_share=0.3, split_seed=1)) for number in range(2000)]
