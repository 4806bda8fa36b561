"""`speechmill encoder`: the list, the contract of an encoder, and a round trip that is heard, seen and measured."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from forked import speechmill
from tiny_models import TINY

import encoders
from encoders.distances import distances
from encoders.logmel import LogMel


def test_every_encoder_is_listed_with_what_it_gives() -> None:
    rows = {row["name"]: row for row in json.loads(speechmill("encoder", "list", "--json").stdout)["encoders"]}
    assert set(rows) == set(encoders.ENCODERS)
    assert (rows["logmel"]["frame_rate"], rows["logmel"]["dim"], rows["logmel"]["decodes"]) == (80.0, 80, True)
    assert rows["logmel"]["missing"] is None
    lines = speechmill("encoder", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(encoders.ENCODERS)


def test_the_contract_of_an_encoder_follows_its_settings() -> None:
    done = speechmill("encoder", "show", "logmel", "--set", "num_mels=40", "--set", "hop_samples=600", "--json")
    shown = json.loads(done.stdout)
    assert (shown["dim"], shown["frame_rate_hz"], shown["mb_an_hour"]) == (40, 40.0, 40 * 40 * 3600 * 2 / 1e6)
    assert shown["settings"]["num_mels"] == 40
    assert shown["fingerprint"] == encoders.load("logmel", {"num_mels": 40, "hop_samples": 600}).fingerprint
    assert (shown["causal"], shown["look_ahead_samples"]) == (False, 1024)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("show", "nothing"), "unknown encoder 'nothing'"),
        (("show", "logmel", "--set", "mels=3"), "no setting 'mels'"),
        (("show", "logmel", "--set", "num_mels"), "has no '='"),
        (("roundtrip", "no such file.wav"), "no such file.wav"),
        (("roundtrip", "CONVERSATION", "40"), "before 40 s"),
        (("roundtrip", "CONVERSATION", "0", "0.001"), "less than a frame of logmel"),
        (("roundtrip", "CONVERSATION", "--vocoder", "world"), "'world' is none of auto, hifigan, griffin-lim"),
    ],
)
def test_mistakes_are_told(words: tuple[str, ...], told: str, conversation: Path) -> None:
    done = speechmill("encoder", *(str(conversation) if word == "CONVERSATION" else word for word in words))
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_round_trip_is_written_drawn_and_measured(tmp_path: Path, conversation: Path) -> None:
    """Of the sound of the demo, from where both speakers talk."""
    output = tmp_path / "trip.wav"
    words = ["--recipe", "hifigan-22k", "-o", str(output), "--json"]
    done = speechmill("encoder", "roundtrip", str(conversation), "7", "12", *words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["encoder"], told["vocoder"], told["sample_rate"]) == ("logmel", "hifigan", 22_050)
    assert (told["frames"], told["dim"]) == (5 * 22_050 // 256, 80)
    sound, rate = soundfile.read(output, dtype="float32")
    assert (len(sound), rate) == (told["frames"] * 256, 22_050)
    assert told["duration_s"] == len(sound) / rate
    assert Path(told["picture"]).read_bytes().startswith(b"\x89PNG")
    (track,) = told["tracks"]
    assert 0.05 < track["log_mel"] < 0.4
    assert track["stoi"] > 0.85
    if find_spec("pesq"):
        assert track["pesq"] > 1.5
    else:
        assert track["pesq"] is None
        assert "pesq" in told["not_measured"]["pesq"]


def test_a_codec_turns_its_latents_back_by_its_own_decoder(tmp_path: Path, conversation: Path) -> None:
    torch.manual_seed(0)
    TINY["dac"].save(tmp_path / "dac")
    words = ("--encoder", "dac", "--set", f"model={tmp_path / 'dac'}", "--set", "device=cpu")
    output = tmp_path / "trip.wav"
    done = speechmill("encoder", "roundtrip", str(conversation), "7", "9", *words, "-o", str(output), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["encoder"], told["vocoder"], told["sample_rate"]) == ("dac", None, 44_100)
    sound, rate = soundfile.read(output, dtype="float32")
    assert (len(sound), rate) == (told["frames"] * 512, 44_100)
    assert Path(told["picture"]).read_bytes().startswith(b"\x89PNG")
    done = speechmill("encoder", "roundtrip", str(conversation), *words, "--vocoder", "griffin-lim")
    assert "dac has a decoder of its own" in done.stderr


def test_tracks_are_turned_back_each(tmp_path: Path, conversation: Path) -> None:
    speech, rate = soundfile.read(conversation, frames=16_000, start=8 * 16_000, dtype="float32")
    soundfile.write(tmp_path / "two.wav", np.stack([speech, np.zeros_like(speech)], axis=1), rate)
    done = speechmill("encoder", "roundtrip", str(tmp_path / "two.wav"), "--vocoder", "griffin-lim",
                      "--set", "num_mels=40", "-o", str(tmp_path / "back.wav"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "decoded by griffin-lim" in done.stdout
    assert "track 1: log-mel distance 0.000 nepers, PESQ not known, STOI not known" in done.stdout
    sound, _ = soundfile.read(tmp_path / "back.wav")
    assert sound.shape == (24_000, 2)
    assert np.abs(sound[:, 1]).max() < 1e-3 < np.abs(sound[:, 0]).max()


def test_distances_of_a_sound_from_itself_and_from_noise(conversation: Path) -> None:
    speech, rate = soundfile.read(conversation, frames=4 * 16_000, start=8 * 16_000, dtype="float32")
    assert distances(speech, speech, rate)["log_mel"] == 0
    assert distances(speech, speech, rate)["stoi"] == pytest.approx(1, abs=1e-6)
    noisy = speech + 0.05 * np.random.default_rng(0).normal(size=len(speech)).astype(np.float32)
    found = distances(speech, noisy, rate)
    assert found["log_mel"] > 1
    assert found["stoi"] < 0.95


def test_only_encoders_with_a_decoder_say_that_they_have_one() -> None:
    class Without(LogMel):
        decode = encoders.base.Encoder.decode

    assert LogMel().has_decoder
    assert not Without().has_decoder
    with pytest.raises(NotImplementedError, match="logmel has no decoder"):
        Without().decode(np.zeros((1, 1, 80), np.float32))
