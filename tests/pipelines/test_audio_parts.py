"""Recordings that are not one whole file: streams, excerpts, and channels that lie in files of their own."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from forked import speechmill
from small_runs import RECIPE, conversation

from manifests.exchange.foreign.lhotse import sources_of
from manifests.lake import Lake
from pipelines.audio.isolated import IsolatedDecoder
from pipelines.audio.parts import Channels, Part, id_of
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig
from runtime.errors import ChangedAudioError, UnreadableAudioError

RATE = 16000


def tone(hertz: float, seconds: float = 3.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def write(path: Path, sound: np.ndarray) -> str:
    soundfile.write(path, sound, RATE, subtype="FLOAT")
    return str(path)


def write_streams(path: Path, *sounds: np.ndarray) -> str:
    """One audio stream for each sound, as FLAC in Matroska."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("flac", rate=RATE, layout="mono") for _ in sounds]
        for stream, sound in zip(streams, sounds, strict=True):
            frame = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    return str(path)


def decoded(uri: str) -> tuple[np.ndarray, IsolatedDecoder]:
    decoder = IsolatedDecoder(uri)
    return np.concatenate(list(decoder), axis=1), decoder


def rows(tmp_path: Path, *lines: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    """RECORDINGS of a lake that took in a manifest of these lines."""
    tmp_path.mkdir(exist_ok=True)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return taken_in(tmp_path, str(manifest), **settings)


def taken_in(tmp_path: Path, name: str, **settings: Any) -> list[dict[str, Any]]:
    lake = Lake.at(str(tmp_path / "lake"))
    ingest(lake, [name], IngestConfig(**settings))
    return [row for _, table in lake.recordings() for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("a.mkv#audio=1", Part("a.mkv", 1)),
        ("a.wav#t=1.5,4", Part("a.wav", 0, 1.5, 4.0)),
        ("s3://b/t.tar#x.wav:512+99#audio=2&t=0,0.25", Part("s3://b/t.tar#x.wav:512+99", 2, 0.0, 0.25)),
    ],
)
def test_the_name_of_a_part_is_read_and_written_alike(name: str, part: Part) -> None:
    assert (Part.parse(name), str(part)) == (part, name)


@pytest.mark.parametrize(
    "name",
    [
        *("a.wav", "a#b.wav", "a.wav#", "a.wav#audio=1t=1,2", "a.wav#&t=1,2", "t.tar#x:0+5", "a.wav#t=1e5,2e5"),
        *("a.wav#audio=\u0663", "a.wav#t=\u0660,\u0661"),
    ],
)
def test_other_names_mean_whole_files(name: str) -> None:
    assert Part.parse(name) is None


def test_an_excerpt_is_the_same_samples_as_in_the_whole_file(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 40 * RATE).astype(np.float32)  # more than one block
    whole = write(tmp_path / "a.wav", sound)
    for start_s, end_s in [(0.5, 1.25), (15.0, 35.5), (39.0, 50.0)]:
        found, _ = decoded(f"{whole}#t={start_s},{end_s}")
        assert np.array_equal(found[0], sound[round(start_s * RATE) : round(end_s * RATE)])
    with pytest.raises(UnreadableAudioError, match="before the excerpt begins"):
        decoded(f"{whole}#t=41,42")


def test_each_audio_stream_is_a_recording_where_the_recipe_asks_for_it(tmp_path: Path) -> None:
    name = write_streams(tmp_path / "two.mkv", tone(300), tone(800))
    first, second = decoded(name)[0][0], decoded(f"{name}#audio=1")[0][0]
    assert [int(np.argmax(np.abs(np.fft.rfft(sound)))) // 3 for sound in (first, second)] == [300, 800]
    (row,) = taken_in(tmp_path, name)
    assert (row["uris"], row["audio_streams"]) == ([name], 2)
    both = taken_in(tmp_path, name, all_audio_streams=True)
    assert [row["uris"] for row in both] == [[name], [f"{name}#audio=1"]]
    assert len({row["recording_id"] for row in both}) == 2
    assert len({row["sha256"] for row in both}) == 1
    assert len(taken_in(tmp_path, name, all_audio_streams=True)) == 2, "a second ingest adds nothing"


def test_a_lhotse_recording_of_one_file_a_channel_is_one_recording_of_two_channels(tmp_path: Path) -> None:
    left, right = write(tmp_path / "l.wav", tone(300)), write(tmp_path / "r.wav", tone(800, 2.0))
    sources = [
        {"type": "file", "channels": [1], "source": "r.wav"},
        {"type": "file", "channels": [0], "source": "l.wav"},
    ]
    line = {"id": "call", "sources": sources, "sampling_rate": RATE, "num_samples": 3 * RATE, "duration": 3.0}
    (row,) = rows(tmp_path, line)
    assert row["uris"] == [str(Channels((left, right)))]
    assert (row["status"], row["channels"], row["claimed_duration_s"]) == ("ok", 2, 3.0)
    sound, decoder = decoded(row["uris"][0])
    assert np.array_equal(sound[0], tone(300))
    assert np.array_equal(sound[1], np.pad(tone(800, 2.0), (0, RATE)))
    assert (decoder.channels, decoder.decode_errors, decoder.missing_s) == (2, 1, 1.0)
    assert sources_of(row["uris"][0], [0, 1]) == [
        {"type": "file", "channels": [0], "source": left},
        {"type": "file", "channels": [1], "source": right},
    ]


def test_files_of_different_rates_are_no_channels_of_one_recording(tmp_path: Path) -> None:
    write(tmp_path / "l.wav", tone(300))
    soundfile.write(tmp_path / "r.wav", tone(300), 8000)
    sources = [{"type": "file", "channels": [n], "source": f"{name}.wav"} for n, name in enumerate("lr")]
    (row,) = rows(tmp_path, {"id": "call", "sources": sources})
    assert row["status"] == "failed"
    assert "16000 Hz, 8000 Hz" in row["error"]
    assert row["remedy"]


def test_a_change_in_one_of_several_files_is_found(tmp_path: Path) -> None:
    name = str(Channels((write(tmp_path / "l.wav", tone(300)), write(tmp_path / "r.wav", tone(800)))))
    sources = [{"type": "file", "channels": [n], "source": f"{side}.wav"} for n, side in enumerate("lr")]
    (row,) = rows(tmp_path, {"id": "call", "sources": sources})
    decoded(name)[1].verify_sha256(row["sha256"])
    write(tmp_path / "r.wav", tone(801))
    with pytest.raises(ChangedAudioError):
        decoded(name)[1].verify_sha256(row["sha256"])


def test_offsets_of_a_manifest_make_excerpts_where_the_recipe_asks_for_them(tmp_path: Path) -> None:
    name = write(tmp_path / "a.wav", tone(300))
    lines = [{"audio_filepath": "a.wav", "offset": n / 2, "duration": 0.5, "lang": "en"} for n in range(3)]
    (whole,) = rows(tmp_path, *lines)
    assert whole["uris"] == [name]
    made = rows(tmp_path / "x", *[line | {"audio_filepath": name} for line in lines], excerpts=True)
    assert [row["uris"] for row in made] == [[f"{name}#t={n / 2:g},{n / 2 + 0.5:g}"] for n in range(3)]
    assert [row["claimed_duration_s"] for row in made] == [0.5] * 3
    assert len({row["recording_id"] for row in made}) == 3


def test_a_cut_of_a_lhotse_manifest_is_an_excerpt_too(tmp_path: Path) -> None:
    name = write(tmp_path / "a.wav", tone(300))
    recording = {"id": "a", "sources": [{"type": "file", "channels": [0], "source": name}]}
    (row,) = rows(tmp_path, {"id": "c", "start": 1.0, "duration": 1.5, "recording": recording}, excerpts=True)
    assert row["uris"] == [f"{name}#t=1,2.5"]


@pytest.mark.parametrize("span", ["0,0", "2,1", "0.5,0.5"])
def test_an_excerpt_of_no_length_is_a_failed_row(tmp_path: Path, span: str) -> None:
    name = write(tmp_path / "a.wav", tone(300))
    (tmp_path / "l.txt").write_text(f"{name}#t={span}\n{name}\n")
    found = taken_in(tmp_path, str(tmp_path / "l.txt"))
    assert sorted(row["status"] for row in found) == ["failed", "ok"]
    assert any("ends where it begins" in (row["error"] or "") for row in found)


def test_a_span_that_rounds_to_nothing_is_a_failed_row_and_minus_zero_is_the_beginning(tmp_path: Path) -> None:
    name = write(tmp_path / "a.wav", tone(300))
    lines = [{"audio_filepath": name, "offset": 0, "duration": 1e-12}]
    lines += [{"audio_filepath": name, "offset": -0.0, "duration": 0.5}]
    found = rows(tmp_path, *lines, excerpts=True)
    assert [(row["status"], row["uris"]) for row in found] == [
        ("failed", [f"{name}#t=0,0"]),
        ("ok", [f"{name}#t=0,0.5"]),
    ]


@pytest.mark.parametrize("offset", ["1", None, -1, True, 1e300, float("nan")])
def test_an_offset_that_is_none_costs_its_line_only_where_excerpts_are_wanted(tmp_path: Path, offset: Any) -> None:
    name = write(tmp_path / "a.wav", tone(300))
    lines = [{"audio_filepath": name, "offset": offset, "duration": 0.5}, {"audio_filepath": name}]
    found = rows(tmp_path, *lines, excerpts=True)
    assert sorted(row["status"] for row in found) == ["failed", "ok"]
    (row,) = rows(tmp_path / "whole", *lines)
    assert row["status"] == "ok"


def test_a_file_whose_own_name_means_a_part_is_refused_with_a_remedy(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", tone(300))
    (tmp_path / "in").mkdir()
    odd = write(tmp_path / "in/b.wav", tone(300))
    renamed = Path(odd).rename(tmp_path / "in/a.wav#t=1,2")
    (row,) = taken_in(tmp_path, str(renamed))
    assert (row["status"], row["remedy"]) == ("failed", "rename the file, then ingest again")


def test_parts_of_one_file_have_ids_of_their_own() -> None:
    ids = {id_of(name, "ab" * 32) for name in ("a", "a#audio=1", "a#t=0,1", "a#t=0,2", "a#audio=1&t=0,1")}
    assert len(ids) == 5
    assert id_of("b#audio=1", "ab" * 32) == id_of("a#audio=1", "ab" * 32), "it does not depend on where the file lies"


@pytest.mark.slow
def test_channels_in_files_of_their_own_and_excerpts_are_encoded_and_proven(tmp_path: Path) -> None:
    speech, rate = conversation()
    for name, shift in (("l", 0), ("r", 7 * rate)):
        soundfile.write(tmp_path / f"{name}.wav", np.roll(speech, shift), rate)
    sources = [{"type": "file", "channels": [n], "source": f"{name}.wav"} for n, name in enumerate("lr")]
    lines = [{"id": "call", "sources": sources}, {"audio_filepath": "l.wav", "offset": 8.5, "duration": 20}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    words = ["run", str(tmp_path / "recipe.toml"), "--in", str(tmp_path / "m.jsonl"), "--lake", str(tmp_path / "lake")]
    assert speechmill(*words, "--quiet", "--set", "ingest.excerpts=true").returncode == 0
    cuts = [
        json.loads(line)
        for path in (tmp_path / "lake/datasets/cheap").glob("train*/cuts.*")
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    named = {source["source"] for cut in cuts for source in cut["recording"]["sources"]}
    assert named == {str(tmp_path / "l.wav"), str(tmp_path / "r.wav"), str(tmp_path / "l.wav#t=8.5,28.5")}
    verify = ["tokens", "verify", str(tmp_path / "recipe.toml"), "--lake", str(tmp_path / "lake")]
    assert speechmill(*verify).returncode == 0
    assert speechmill("manifest", "validate", str(tmp_path / "lake"), "--deep").returncode == 0
