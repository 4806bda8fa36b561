"""Models from files behind a sidecar: the real SoundStream of Lyra, and a network that torch exported in two ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import encoders
from encoders.custom import Custom
from runtime.errors import RecipeError

LYRA = {
    "sample_rate": 16_000, "hop": 320, "dim": 64, "look_back": 8000, "look_ahead": 0, "input": "rows samples",
    "output": "rows frames values", "state": True, "call_samples": 320, "licence": "Apache-2.0", "tolerance": 0.0,
}  # fmt: skip
SMALL = {
    "sample_rate": 16_000, "hop": 32, "dim": 16, "look_back": 256, "look_ahead": 256,
    "input": "rows channels samples", "output": "rows values frames", "rows": 0,
}  # fmt: skip


def write_sidecar(folder: Path, file: str, **fields: Any) -> Path:
    def value(given: Any) -> str:
        return str(given).lower() if isinstance(given, bool) else repr(given)

    path = folder / f"{Path(file).name}.toml"
    path.write_text("".join(f"{name} = {value(given)}\n" for name, given in {"file": file, **fields}.items()))
    return path


def ready(sidecar: Path, **settings: Any) -> Custom:
    encoder = encoders.load("custom", {"model": str(sidecar), **settings})
    assert isinstance(encoder, Custom)
    encoder.setup()
    return encoder


@pytest.fixture(scope="module")
def speech(conversation: Path) -> np.ndarray:
    """A real conversation at 16 kHz, float32 (1, samples)."""
    sound, rate = soundfile.read(conversation, dtype="float32")
    assert rate == 16_000
    return sound[None, : 16_000 * 20 + 77]


@pytest.fixture(scope="module")
def lyra(recordings: Path) -> Path:
    """Folder of Lyra's weights."""
    folder = recordings / "models" / "lyra"
    if not (folder / "soundstream_encoder.tflite").is_file():
        pytest.skip(f"no weights of Lyra in {folder}")
    return folder


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A DAC encoder of two stages with random weights, hop 32."""
    from transformers import DacConfig, DacModel

    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[4, 8], decoder_hidden_size=16, n_codebooks=1, codebook_size=16
    )
    model = DacModel(config).encoder.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv1d):
            torch.nn.init.normal_(module.weight, std=0.5 * module.weight[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="module")
def exported(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the network as both kinds of files; any number of rows and frames."""
    folder = tmp_path_factory.mktemp("exported")
    sound = torch.randn(2, 1, 32 * 100)
    rows, frames = torch.export.Dim("rows", min=1, max=64), torch.export.Dim("frames", min=2, max=100_000)
    program = torch.export.export(network, (sound,), dynamic_shapes=({0: rows, 2: 32 * frames},))
    torch.export.save(program, folder / "network.pt2")
    torch.onnx.export(
        network, (sound,), str(folder / "network.onnx"), dynamo=False, input_names=["sound"], output_names=["features"],
        dynamic_axes={"sound": {0: "rows", 2: "samples"}, "features": {0: "rows", 2: "frames"}},
    )  # fmt: skip
    return folder


@pytest.mark.recordings
def test_lyras_latents_are_decoded_back_to_the_sound(lyra: Path, speech: np.ndarray, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    encoder = ready(write_sidecar(tmp_path, str(lyra / "soundstream_encoder.tflite"), **LYRA))
    assert (encoder.frame_rate, encoder.causal, encoder.licence, encoder.packages) == (50, True, "Apache-2.0", ())
    frames = encoder.frames(speech.shape[1])
    windows = [encoder.cut(speech, first, 250) for first in range(0, frames, 250)]
    latents = np.concatenate(encoder.encode(windows), axis=1)[0]
    assert latents.shape == (1000, 64)

    decoder = Interpreter(str(lyra / "lyragan.tflite"), num_threads=1)
    decoder.allocate_tensors()
    (given,), (made,) = decoder.get_input_details(), decoder.get_output_details()
    parts = []
    for latent in latents:
        decoder.set_tensor(given["index"], latent[None, None])
        decoder.invoke()
        parts.append(decoder.get_tensor(made["index"])[0].copy())
    decoded = np.concatenate(parts)
    assert np.corrcoef(decoded, speech[0, : len(decoded)])[0, 1] > 0.9


@pytest.mark.recordings
def test_lyras_windows_are_those_of_the_whole_recording_to_the_byte(
    lyra: Path, speech: np.ndarray, tmp_path: Path
) -> None:
    sidecar = write_sidecar(tmp_path, str(lyra / "soundstream_encoder.tflite"), **LYRA)
    whole, cutting = ready(sidecar), ready(sidecar, max_chunk_s=1.5)
    both = np.concatenate([speech, speech[:, ::-1]])
    (wanted,) = whole.encode([whole.cut(both, 0, 900)])
    np.testing.assert_array_equal(cutting.encode([cutting.cut(both, 0, 900)])[0], wanted)
    for first in (0, 1, 24, 25, 26, 500):
        company = [whole.cut(both[:1], 30, 5), whole.cut(both, first, 100)]
        np.testing.assert_array_equal(whole.encode(company)[1], wanted[:, first : first + 100])
    # Its quantised state holds 24 frames: with one frame less of look-back, windows would differ.
    short = ready(write_sidecar(tmp_path, str(lyra / "soundstream_encoder.tflite"), **{**LYRA, "look_back": 16 * 320}))
    assert np.abs(short.encode([short.cut(both, 500, 100)])[0] - wanted[:, 500:600]).max() > 0


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_an_exported_network_gives_what_the_network_gives(
    kind: str, exported: Path, network: torch.nn.Module, speech: np.ndarray
) -> None:
    encoder = ready(write_sidecar(exported, f"network.{kind}", **SMALL), batch=2, max_chunk_s=1.0)
    both = np.concatenate([speech, speech[:, ::-1]])[:, : 3 * 16_000 + 5]
    frames = encoder.frames(both.shape[1])
    with torch.inference_mode():
        wanted = network(torch.from_numpy(both[:, None])).mT.numpy()[:, :frames]
    for first, count in ((0, frames), (0, 100), (700, 300), (frames - 40, 40)):
        window = encoder.cut(both, first, count)
        (given,) = encoder.encode([window])
        assert np.abs(given - wanted[:, first : first + count]).max() < encoder.tolerance * wanted.std()
        np.testing.assert_array_equal(encoder.encode([encoder.cut(both, 9, 50), window])[1], given)


def test_the_fingerprint_follows_the_file_and_the_sidecar_but_not_name_and_licence(
    exported: Path, network: torch.nn.Module, tmp_path: Path
) -> None:
    def told(folder: Path = exported, file: str = "network.onnx", **fields: Any) -> str:
        return encoders.load("custom", {"model": str(write_sidecar(folder, file, **{**SMALL, **fields}))}).fingerprint

    one = told()
    assert told(name="other", licence="MIT") == one
    (tmp_path / "renamed.onnx").write_bytes((exported / "network.onnx").read_bytes())
    assert told(tmp_path, "renamed.onnx") == one
    assert len({one, told(look_back=2048), told(version=2), told(file="network.pt2")}) == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sample_rate": "16000"}, "sample_rate must be a whole number, 1 or more, not '16000'"),
        ({"hop": 0}, "hop must be a whole number, 1 or more, not 0"),
        ({"dim": True}, "dim must be a whole number, 1 or more, not True"),
        ({"look_back": -1}, "look_back must be a whole number, 0 or more, not -1"),
        ({"input": "samples"}, "input must be one of 'rows samples', 'rows channels samples', not 'samples'"),
        ({"output": "frames"}, "output must be one of 'rows frames values', .*, not 'frames'"),
        ({"input": "rows samples", "channels": 2}, "channels is 2, but the input 'rows samples' has none"),
        ({"state": True}, r"call_samples of a model with state must be a multiple of the hop \(32 samples\)"),
        ({"state": True, "call_samples": 32}, "a model with state must be causal"),
        ({"call_samples": 64}, "call_samples is only for models with state"),
        ({"licence": 1}, "licence must be text, not 1"),
        ({"tolerance": float("nan")}, "tolerance must be a finite number, 0 or more, not nan"),
        ({"kernel": 7}, "unknown field kernel; choose from: file, sample_rate"),
        ({"file": "network.bin"}, "file must end in .onnx, .pt2, .tflite, not 'network.bin'"),
        ({"file": "nowhere.onnx"}, "names the file 'nowhere.onnx', which is not in its folder"),
    ],
    ids=str,
)  # fmt: skip
def test_each_field_of_a_sidecar_is_checked(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    sidecar = write_sidecar(tmp_path, **{"file": "network.onnx", **SMALL, **wrong})
    with pytest.raises(ValueError, match=f"custom: .*{message}"):
        encoders.load("custom", {"model": str(sidecar)})


def test_a_sidecar_that_lacks_fields_or_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part.toml").write_text('file = "x.onnx"\nhop = 3\n')
    with pytest.raises(ValueError, match=r"part.toml lacks sample_rate, dim, look_back, look_ahead, input, output"):
        encoders.load("custom", {"model": str(tmp_path / "part.toml")})
    with pytest.raises(ValueError, match=r"cannot read the sidecar .*none.toml"):
        encoders.load("custom", {"model": str(tmp_path / "none.toml")})
    (tmp_path / "torn.toml").write_text("hop = ")
    with pytest.raises(ValueError, match=r"cannot read the sidecar .*torn.toml"):
        encoders.load("custom", {"model": str(tmp_path / "torn.toml")})


def test_a_file_that_does_not_do_what_its_sidecar_says_is_told_before_any_recording(exported: Path) -> None:
    for fields, message in (
        ({"dim": 17}, r"gives float32 with shape \(1, 16, \d+\), but network.onnx.toml says"),
        ({"output": "rows frames values"}, r"gives float32 with shape \(1, 16, \d+\), but network.onnx.toml says"),
        ({"hop": 16}, r"gives 116 frames for 3712 samples, which is not a hop of 16"),
        ({"input": "rows samples"}, r"cannot be called with 'rows samples' of 6912 samples: .*rank"),
    ):
        with pytest.raises(RecipeError, match=f"custom: network.onnx {message}"):
            ready(write_sidecar(exported, "network.onnx", **{**SMALL, **fields}))
