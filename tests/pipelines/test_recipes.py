"""The rules about sound in the shipped recipes, on real files of the kinds that they are about."""

import tomllib
from pathlib import Path

import duckdb
import numpy as np
import pytest
import soundfile
from forked import speechmill
from sounds import write_coded

from pipelines.recipes.recipe import path_of, shipped

ROOT = Path(__file__).parents[2]
RULES = ("intact", "full_scale", "one_audio_stream")


def rules_of(name: str) -> dict[str, str]:
    path = path_of(name)
    assert path
    rules = tomllib.loads(path.read_text())["select"]["recordings"]
    return {rule: rules[rule] for rule in RULES if rule in rules}


def test_every_shipped_recipe_asks_for_the_scale_and_for_one_stream() -> None:
    for name in shipped():
        assert {"full_scale", "one_audio_stream"} <= rules_of(name).keys(), name


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, conversation: Path) -> tuple[dict[str, list[str]], str]:
    """Reasons by file under the rules of the demo, and what the run printed."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "in").mkdir()
    speech, rate = soundfile.read(conversation, dtype="float32")
    uneven = np.concatenate([np.zeros(20 * rate, np.float32), speech])[None]

    def path(name: str) -> Path:
        return folder / "in" / name

    write_coded(path("estimate.aac"), uneven, rate, "aac")
    write_coded(path("estimate.mp3"), uneven * 0.9, rate, "libmp3lame", {"write_xing": "0"})
    for number in (1, 2):
        soundfile.write(path("part.ogg"), speech / number, rate)
        with path("chained.ogg").open("ab") as file:
            file.write(path("part.ogg").read_bytes())
    path("part.ogg").unlink()
    write_coded(path("two.mkv"), uneven * 0.8, rate, "flac", streams=2)
    write_coded(path("gaps.mkv"), uneven * 0.7, rate, "flac", left_out=((30.0, 35.0),))
    soundfile.write(path("int16range.wav"), speech * 32767, rate, subtype="FLOAT")
    soundfile.write(path("whole.wav"), speech * 0.6, rate)
    data = path("whole.wav").read_bytes()
    path("cut.wav").write_bytes(data[: len(data) // 2])
    soundfile.write(path("short.wav"), speech * 0.5, rate)
    data = path("short.wav").read_bytes()
    path("short.wav").write_bytes(data[:40] + (320000).to_bytes(4, "little") + data[44:])
    soundfile.write(path("silent.wav"), np.zeros(rate), rate)
    rules = "\n".join(f'{rule} = "{condition}"' for rule, condition in rules_of("demo").items())
    recipe = f'name = "sound"\n[annotate.vad]\n[select.recordings]\n{rules}\n'
    (folder / "recipe.toml").write_text(recipe)
    words = [str(folder / "recipe.toml"), "--in", str(folder / "in"), "--lake", str(folder / "lake")]
    done = speechmill("run", *words)
    assert done.returncode == 0, done.stderr
    verdicts = f"'{folder}/lake/selections/*/verdicts-*.parquet'"
    found = duckdb.execute(
        f"SELECT parse_filename(uris[1]), reasons FROM '{folder}/lake/recordings/*.parquet' JOIN {verdicts} "
        "USING (recording_id)"
    ).fetchall()
    return dict(found), done.stderr


def test_whole_sound_is_kept_whatever_its_length_was_estimated_to_be(judged: tuple[dict[str, list[str]], str]) -> None:
    for name in ("estimate.aac", "estimate.mp3", "chained.ogg", "whole.wav", "short.wav", "silent.wav"):
        assert judged[0][name] == [], name


def test_sound_that_lacks_a_part_is_not_intact(judged: tuple[dict[str, list[str]], str]) -> None:
    assert judged[0]["gaps.mkv"] == ["intact"]
    assert judged[0]["cut.wav"] == ["intact"]


def test_floats_in_the_range_of_integers_are_out_of_scale(judged: tuple[dict[str, list[str]], str]) -> None:
    assert judged[0]["int16range.wav"] == ["full_scale"]


def test_a_second_audio_stream_is_told_at_ingest_and_rejected(judged: tuple[dict[str, list[str]], str]) -> None:
    assert judged[0]["two.mkv"] == ["one_audio_stream"]
    assert "two.mkv: 2 audio streams, of which the first is read" in judged[1]
