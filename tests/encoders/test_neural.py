"""Every neural encoder gives the frames of its model on the whole recording, however windows are cut and batched.

The models have random weights (tiny_models.py): real ones lie on hubs. Differences are in standard deviations of the
features.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from sounds import packaged_conversation
from tiny_models import CODECS, TINY

import encoders
from encoders.base import WindowSound
from encoders.neural import NeuralEncoder
from encoders.receptive_field import Layer, attention, causal, padded, receptive_field
from encoders.roundtrip import round_trip
from runtime.batches import reproducible
from runtime.errors import OutOfMemoryError, SpeechmillError

LOCAL = [name for name in TINY if name not in ("encodec-48k", "wav2vec2", "hubert", "wavlm", "w2v-bert")]
CHOSEN = ("mimi", "encodec")
"""Those whose look-back is chosen, and not the exact one."""
SECONDS = 4


@functools.cache
def speech(sample_rate: int, seconds: float = SECONDS) -> np.ndarray:
    """Two stretches of a real conversation as tracks, float32 (2, samples); they end within a frame of any encoder."""
    sound, rate = soundfile.read(packaged_conversation(), dtype="float32")
    sound = soxr.resample(sound, rate, sample_rate)
    count = round(seconds * sample_rate) + 137
    return np.stack([sound[sample_rate : sample_rate + count], sound[-count:]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, tiny in TINY.items():
        made[name] = tmp_path_factory.mktemp("models") / name
        torch.manual_seed(0)
        tiny.save(made[name])
    return made


@pytest.fixture(scope="module")
def make(folders: dict[str, Path]) -> Any:
    """Makes an encoder that is ready, once for each name and settings."""

    @functools.cache
    def made(name: str, **settings: Any) -> NeuralEncoder:
        given = {"model": str(folders[name]), "device": "cpu", **TINY[name].settings, **settings}
        encoder = encoders.load(TINY[name].encoder, given)
        assert isinstance(encoder, NeuralEncoder)
        encoder.setup()
        return encoder

    return made


@pytest.fixture(scope="module")
def whole(folders: dict[str, Path]) -> Any:
    """Features of whole sounds, float32 (tracks, frames, dim), by the library's own call."""

    def called(name: str, sound: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), reproducible(1):
            return np.concatenate([TINY[name].call(folders[name], torch.from_numpy(track[None])) for track in sound])

    return called


def apart(given: np.ndarray, wanted: np.ndarray) -> float:
    assert given.shape == wanted.shape
    return float(np.abs(given - wanted).max() / wanted.std())


@pytest.mark.parametrize("name", TINY)
def test_rate_hop_and_values_are_those_of_the_model(name: str, make: Any) -> None:
    encoder = make(name)
    assert (encoder.sample_rate, encoder.hop_samples, encoder.dim) == TINY[name].grid
    assert encoder.look_back_samples % encoder.hop_samples == encoder.look_ahead_samples % encoder.hop_samples == 0
    assert encoder.deterministic
    assert encoder.normalisation() == {}
    window = encoder.cut(speech(encoder.sample_rate), 3, 7)
    (features,) = encoder.encode([window])
    assert features.shape == (2, 7, encoder.dim)
    assert features.dtype == np.float32
    assert encoder.encode([window._replace(sound=window.sound[:, : window.before], frames=0)])[0].size == 0


@pytest.mark.parametrize("name", LOCAL)
def test_windows_give_the_frames_of_the_whole_recording_at_its_beginning_within_and_at_its_end(
    name: str, make: Any, whole: Any
) -> None:
    encoder = make(name)
    sound = speech(encoder.sample_rate)
    frames = encoder.frames(sound.shape[1])
    wanted = whole(name, sound)[:, :frames]
    count = frames // 4
    for first in (0, 1, frames // 2, frames - count):
        (given,) = encoder.encode([encoder.cut(sound, first, count)])
        assert apart(given, wanted[:, first : first + count]) < encoder.tolerance, first


@pytest.mark.parametrize("name", LOCAL)
def test_a_window_in_chunks_gives_the_same_frames_at_every_edge(name: str, make: Any) -> None:
    encoder, cutting = make(name), make(name, max_chunk_s=0.9)
    sound = speech(encoder.sample_rate)
    window = encoder.cut(sound, 2, encoder.frames(sound.shape[1]) - 2)
    assert len(cutting._pieces(window, np.empty((2, window.frames, encoder.dim)))) == 2 * 5
    assert apart(cutting.encode([window])[0], encoder.encode([window])[0]) < encoder.tolerance


@pytest.mark.parametrize("name", [name for name in LOCAL if name not in CHOSEN])
def test_the_reach_is_that_of_the_gradient(name: str, make: Any) -> None:
    encoder = make(name)
    _, _, found = encoder._grid()
    frame = -(-found.back // found.hop) + 2
    samples = (frame + -(-found.ahead // found.hop) + 3) * found.hop
    noise = torch.randn(1, 1, samples, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = (0.1 * noise).requires_grad_(True)
    encoder.module.double()
    encoder._forward(given.expand(-1, encoder.channels, -1))[0, frame].abs().sum().backward()
    encoder.module.float()
    seen = torch.nonzero(given.grad[0, 0]).flatten()
    back, ahead = frame * found.hop - int(seen[0]), int(seen[-1]) + 1 - (frame + 1) * found.hop
    # The attention of SAME is told in whole segments, and its first layer sees one less behind it.
    assert (found.back, found.ahead) == (back + (found.hop if name == "same" else 0), ahead)


@pytest.mark.parametrize(("name", "look_back_s", "error"), [("mimi", 20.0, 1e-3), ("encodec", 4.0, 1e-5)])
def test_a_look_back_that_is_chosen_leaves_out_no_more_than_is_stated(
    name: str, look_back_s: float, error: float, make: Any, whole: Any
) -> None:
    encoder = make(name)
    assert encoder.look_back_samples == look_back_s * encoder.sample_rate
    sound = np.concatenate([speech(encoder.sample_rate, 13), speech(encoder.sample_rate, 12)], axis=1)[:1]
    first, count = encoder.frames(round(22.5 * encoder.sample_rate)), encoder.frames(2 * encoder.sample_rate)
    wanted = whole(name, sound)[:, first : first + count]
    (given,) = encoder.encode([encoder.cut(sound, first, count)])
    assert apart(given, wanted) < error <= encoder.tolerance
    less = make(name, look_back_s=0.2)
    assert apart(less.encode([less.cut(sound, first, count)])[0], wanted) > error


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "wavlm", "w2v-bert"])
def test_hidden_layers_are_those_of_the_window_and_its_context_normalised_as_one(
    name: str, make: Any, whole: Any
) -> None:
    encoder = make(name, context_s=0.5)
    assert not encoder.local
    sound = speech(16_000)
    for first, count in ((0, 60), (70, 60), (encoder.frames(sound.shape[1]) - 60, 60)):
        window = encoder.cut(sound, first, count)
        (given,) = encoder.encode([window])
        heard = window.sound
        if name == "w2v-bert":  # a frame is 560 samples long, of which 137 remain after the last window
            heard = np.pad(heard, ((0, 0), (0, 103)))
            heard = heard[:, : heard.shape[1] - (heard.shape[1] - 560) % 320]
        wanted = whole(name, heard)[:, window.before // 320 :][:, :count]
        assert apart(given, wanted) < encoder.tolerance, first
    deaf = make(name, context_s=0.0)
    assert apart(deaf.encode([deaf.cut(sound, 70, 60)])[0], encoder.encode([encoder.cut(sound, 70, 60)])[0]) > 0.01


def test_the_48_khz_model_of_encodec_hears_chunks_of_a_second_from_the_beginning_of_a_window(
    make: Any, whole: Any
) -> None:
    encoder = make("encodec-48k")
    assert not encoder.local
    assert not encoder.causal
    sound = speech(48_000)
    window = encoder.cut(sound, 75, 330)
    wanted = [whole("encodec-48k", window.sound[:, second * 48_000 :][:, :48_000]) for second in range(3)]
    (given,) = encoder.encode([window])
    assert apart(given, np.concatenate(wanted, axis=1)) < encoder.tolerance


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", TINY)
def test_a_window_gives_the_same_bytes_alone_in_company_and_a_second_time(name: str, batch: int, make: Any) -> None:
    less = {"look_back_s": 1.0} if name in CHOSEN else {}
    encoder = make(name, batch=batch, **less)
    sound = speech(encoder.sample_rate)
    count = encoder.frames(round(0.7 * encoder.sample_rate))
    window = encoder.cut(sound, 3, count)
    (alone,) = encoder.encode([window])
    others = [encoder.cut(sound, 0, count), encoder.cut(sound[:1], count, count), encoder.cut(sound, 1, 2 * count)]
    for company in ([window, *others], [*others, window], [others[1], window]):
        place = next(number for number, one in enumerate(company) if one is window)
        np.testing.assert_array_equal(encoder.encode(company)[place], alone)
    (track,) = encoder.encode([window._replace(sound=window.sound[1:])])
    np.testing.assert_array_equal(track[0], alone[1])
    assert apart(make(name, **less).encode([window])[0], alone) < encoder.tolerance


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_gives_float32_features_near_those_of_float32(name: str, make: Any) -> None:
    exact, coarse = make(name), make(name, precision="bfloat16")
    window = exact.cut(speech(exact.sample_rate), 5, exact.frames(exact.sample_rate))
    (wanted,), (given,) = exact.encode([window]), coarse.encode([window])
    assert given.dtype == np.float32
    drift = float(np.sqrt(np.mean((given - wanted) ** 2)) / wanted.std())
    assert 0 < drift < 0.1
    assert coarse.fingerprint != exact.fingerprint


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_finite_number_is_refused(value: float, make: Any) -> None:
    encoder = make("pocket")
    sound = speech(24_000).copy()
    sound[1, 30_000] = value
    with pytest.raises(ValueError, match=r"pocket: window 2 of 2: .* contain NaN or infinity, .* s of track 1"):
        encoder.encode([encoder.cut(sound, 0, 5), encoder.cut(sound, 10, 20)])
    assert np.isfinite(encoder.encode([encoder.cut(sound, 0, 5)])[0]).all()


def test_a_window_that_begins_within_a_frame_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="pocket: the 100 samples before a window must be a multiple of"):
        make("pocket").encode([WindowSound(np.zeros((1, 100 + 1920), np.float32), 100, 1)])


def test_the_fingerprint_follows_weights_and_settings_but_neither_place_nor_device_nor_batch(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    def told(folder: Path, **settings: Any) -> str:
        return encoders.load("mimi", {"model": str(folder), "device": "cpu", **settings}).fingerprint

    one = told(folders["mimi"])
    assert told(folders["mimi"], batch=7, compile=True, device="auto") == one
    (tmp_path / "elsewhere").symlink_to(folders["mimi"])
    assert told(tmp_path / "elsewhere") == one
    assert told(folders["mimi"], look_back_s=3) == told(folders["mimi"], look_back_s=3.0) != one
    assert told(folders["mimi"], precision="bfloat16") != one
    torch.manual_seed(1)
    TINY["mimi"].save(tmp_path / "other")
    assert told(tmp_path / "other") != one


def test_an_encoder_is_made_without_reading_weights_and_knows_the_licence_that_the_card_states(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((folders["dac"] / "config.json").read_bytes())
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A card\n")
    encoder = encoders.load("dac", {"model": str(tmp_path), "device": "cpu"})
    assert (encoder.dim, encoder.licence) == (64, "mit")
    assert encoders.load("dac", {"model": str(folders["dac"]), "device": "cpu"}).licence is None
    with pytest.raises(OSError, match="no file named"):
        encoder.setup()


def test_lack_of_memory_halves_the_batch_and_gives_the_same_frames(make: Any, folders: dict[str, Path]) -> None:
    encoder = encoders.load("dac", {"model": str(folders["dac"]), "device": "cpu", "batch": 4})
    encoder.setup()
    called, forward = [], encoder._run

    def limited(sounds: torch.Tensor) -> torch.Tensor:
        called.append(len(sounds))
        if len(sounds) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(sounds)

    encoder._run = limited
    window = encoder.cut(speech(44_100), 5, 50)
    assert apart(encoder.encode([window])[0], make("dac").encode([window])[0]) < encoder.tolerance
    assert called == [4, 2, 1, 1]

    def full(sounds: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    encoder._run = full
    with pytest.raises(OutOfMemoryError, match="dac: one window does not fit into memory"):
        encoder.encode([window])


def test_a_model_of_another_type_and_a_folder_without_one_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mimi takes a model of type mimi; .*config.json says 'dac'"):
        encoders.load("mimi", {"model": str(folders["dac"])})
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(SpeechmillError, match=r"mimi: cannot read .*config.json"):
        encoders.load("mimi", {"model": str(tmp_path)})
    with pytest.raises(SpeechmillError, match="no model '/nowhere/at/all'"):
        encoders.load("mimi", {"model": "/nowhere/at/all"})
    with pytest.raises(ValueError, match="hidden: layer 4 of a model with layers 0 to 3"):
        encoders.load("hidden", {"model": str(folders["wavlm"]), "layer": 4})


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"model": ""}, {"model": 3}, {"model": "x", "device": "tpu"}, {"model": "x", "precision": "float16"},
        {"model": "x", "batch": -1}, {"model": "x", "batch": 1.5}, {"model": "x", "max_chunk_s": 0},
        {"model": "x", "max_chunk_s": float("nan")}, {"model": "x", "compile": 1}, {"model": "x", "look_back_s": -1},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model|device|precision|batch|max_chunk_s|compile|look_back_s"):
        encoders.load("mimi", wrong)


def test_the_reach_of_layers_adds_up() -> None:
    assert receptive_field([]) == (1, 0, 0)
    assert receptive_field([causal(7)]) == (1, 6, 0)
    assert receptive_field([padded(3, padding=1), Layer(4, 0, 3)]) == (4, 1, 1)
    assert receptive_field([causal(4, stride=2), attention(10, 2)]) == (2, 22, 4)
    assert receptive_field([causal(3, dilation=4)]) == (1, 8, 0)


@pytest.mark.parametrize("name", CODECS)
def test_decoding_gives_the_sound_of_the_library(name: str, folders: dict[str, Path], make: Any) -> None:
    encoder = make(name)
    sound = torch.from_numpy(speech(encoder.sample_rate)[:, : 12 * encoder.hop_samples].copy())
    with torch.inference_mode(), reproducible(1):
        made = [CODECS[name](folders[name], track[None]) for track in sound]
    features = np.concatenate([latents.numpy() for latents, _ in made])
    assert encoder.has_decoder
    assert features.shape == (2, 12, encoder.dim)
    decoded = encoder.decode(features)
    assert decoded.shape == sound.shape
    assert decoded.dtype == np.float32
    wanted = np.concatenate([given.mean(1).numpy() for _, given in made])
    shared = min(sound.shape[1], wanted.shape[1])
    assert sound.shape[1] - shared < encoder.hop_samples
    assert apart(decoded[:, :shared], wanted[:, :shared]) < 1e-4
    assert not decoded[:, shared:].any()


@pytest.mark.parametrize("name", ["encodec-48k", "wav2vec2"])
def test_a_model_of_which_no_sound_can_be_made_is_refused(name: str, make: Any) -> None:
    encoder = make(name)
    assert not encoder.has_decoder
    with pytest.raises(SpeechmillError, match="has no decoder"):
        round_trip(encoder, encoder.cut(speech(encoder.sample_rate), 0, 4))


def test_a_folder_that_holds_an_encoder_alone_is_refused_when_it_is_decoded(tmp_path: Path) -> None:
    from transformers import MimiConfig, MimiModel

    torch.manual_seed(0)
    TINY["mimi"].save(tmp_path)
    config = MimiConfig.from_pretrained(tmp_path)
    config.decoder_config = None
    MimiModel.from_pretrained(tmp_path, config=config).save_pretrained(tmp_path / "alone")
    encoder = encoders.load("mimi", {"model": str(tmp_path / "alone"), "device": "cpu"})
    encoder.setup()
    with pytest.raises(SpeechmillError, match="has no decoder"):
        round_trip(encoder, encoder.cut(speech(encoder.sample_rate), 0, 4))
