"""Tiny models with random weights in the architecture of each encoder, saved in the format of their libraries.

Rates, strides, kernels and attention windows are mostly those of the published models; widths and depths are smaller.
The scales of residual branches are larger than at the beginning of training, so that each branch affects the features,
as it does in a trained model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

MIMI = {
    "hidden_size": 32, "num_filters": 4, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 32, "layer_scale_initial_scale": 1.0, "initializer_range": 0.2, "upsample_groups": 32,
}  # fmt: skip


def _pocket(folder: Path) -> None:
    from transformers import PocketTTSAudioTokenizerConfig, PocketTTSAudioTokenizerModel

    PocketTTSAudioTokenizerModel(PocketTTSAudioTokenizerConfig(**MIMI)).save_pretrained(folder)


def _mimi(folder: Path) -> None:
    from transformers import MimiConfig, MimiModel

    config = MimiConfig(
        **MIMI, num_hidden_layers=8, num_quantizers=2, codebook_size=16, codebook_dim=8,
        vector_quantization_hidden_dimension=8,
    )  # fmt: skip
    MimiModel(config).save_pretrained(folder)


def _vibevoice(folder: Path) -> None:
    from transformers import VibeVoiceAcousticTokenizerConfig, VibeVoiceAcousticTokenizerModel

    config = VibeVoiceAcousticTokenizerConfig(
        num_filters=2, depths=(1, 1, 1, 1, 1, 1, 2), ffn_expansion=2, layer_scale_init_value=0.3, initializer_range=0.1
    )
    VibeVoiceAcousticTokenizerModel(config).save_pretrained(folder)


def _encodec(folder: Path, **different: Any) -> None:
    from transformers import EncodecConfig, EncodecModel

    config = EncodecConfig(num_filters=4, hidden_size=16, codebook_size=16, target_bandwidths=[1.5], **different)
    EncodecModel(config).save_pretrained(folder)


def _encodec_48(folder: Path) -> None:
    _encodec(
        folder, sampling_rate=48_000, audio_channels=2, normalize=True, chunk_length_s=1.0, overlap=0.01,
        norm_type="time_group_norm", use_causal_conv=False,
    )  # fmt: skip


def _dac(folder: Path) -> None:
    from transformers import DacConfig, DacModel

    config = DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[2, 4, 8, 8], decoder_hidden_size=32, n_codebooks=2,
        codebook_size=16, codebook_dim=4, sampling_rate=44_100,
    )  # fmt: skip
    model = DacModel(config)
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Conv1d):  # with the initial 0.02, residual branches would add nothing
            torch.nn.init.normal_(module.weight, std=0.5 * module.weight[0].numel() ** -0.5)
    model.save_pretrained(folder)


def _oobleck(folder: Path) -> None:
    from diffusers import AutoencoderOobleck

    AutoencoderOobleck(
        encoder_hidden_size=4, channel_multiples=[1, 1, 1, 1, 1], decoder_channels=4, decoder_input_channels=2
    ).save_pretrained(folder)


def _same(folder: Path) -> None:
    from diffusers import AutoencoderSAME

    model = AutoencoderSAME(encoder_channels=8, encoder_c_mults=[4], latent_dim=16, dim_heads=16)
    for parameter in model.parameters():  # many are initialised to zero, which would disable the attention
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)


def _longcat(folder: Path) -> None:
    from diffusers import LongCatAudioDiTVae

    LongCatAudioDiTVae(
        channels=4, c_mults=[1, 2, 4, 8, 16], strides=[2, 4, 4, 8, 8], latent_dim=8, encoder_latent_dim=16
    ).save_pretrained(folder)


SPEECH = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "initializer_range": 0.2,
}  # fmt: skip


def _wav2vec2(folder: Path, kind: str = "Wav2Vec2", **different: Any) -> None:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        **SPEECH, conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, **different
    )
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)


def _hubert(folder: Path) -> None:
    _wav2vec2(folder, "Hubert", do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True)


def _wavlm(folder: Path) -> None:
    _wav2vec2(folder, "WavLM")


def _w2v_bert(folder: Path) -> None:
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    Wav2Vec2BertModel(Wav2Vec2BertConfig(**SPEECH)).save_pretrained(folder)
    SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2).save_pretrained(folder)


def _transformers(name: str, folder: Path) -> Any:
    import transformers

    made = getattr(transformers, name).from_pretrained(folder)
    return made.eval() if isinstance(made, torch.nn.Module) else made


def _diffusers(name: str, folder: Path) -> Any:
    import diffusers

    return getattr(diffusers, name).from_pretrained(folder, low_cpu_mem_usage=False).eval()


def _hidden_state(folder: Path, sound: torch.Tensor) -> torch.Tensor:
    extractor = _transformers("AutoFeatureExtractor", folder)
    given = extractor(sound[0].numpy(), sampling_rate=16_000, return_tensors="pt")[extractor.model_input_names[0]]
    return _transformers("AutoModel", folder)(given, output_hidden_states=True).hidden_states[2]


def _encodec_chunk(folder: Path, sound: torch.Tensor) -> torch.Tensor:
    stereo = sound[None].repeat(1, 2, 1)
    return _transformers("EncodecModel", folder).encoder(stereo / (sound.square().mean().sqrt() + 1e-8)).mT


@dataclass(frozen=True)
class Tiny:
    """A model for tests."""

    encoder: str
    """Name of the encoder for it."""
    save: Callable[[Path], None]
    """Saves it to a folder."""
    call: Callable[[Path, torch.Tensor], torch.Tensor]
    """Computes the features (1, frames, dim) of a sound (1, samples) with the library only."""
    grid: tuple[int, int, int]
    """Expected sampling rate, hop and values per frame."""
    settings: Mapping[str, Any] = field(default_factory=dict)


TINY = {
    "pocket": Tiny(
        "pocket", _pocket, lambda path, x: _transformers("PocketTTSAudioTokenizerModel", path).encode(x[None]).latents,
        (24_000, 1920, 32),
    ),
    "mimi": Tiny(
        "mimi", _mimi, lambda path, x: _transformers("MimiModel", path).encoder(x[None]).latents.mT, (24_000, 1920, 32)
    ),
    "vibevoice": Tiny(
        "vibevoice", _vibevoice,
        lambda path, x: _transformers("VibeVoiceAcousticTokenizerModel", path).encode(x[None], sample=False).latents,
        (24_000, 3200, 64),
    ),
    "encodec": Tiny(
        "encodec", _encodec, lambda path, x: _transformers("EncodecModel", path).encoder(x[None]).mT, (24_000, 320, 16)
    ),
    "encodec-48k": Tiny("encodec", _encodec_48, _encodec_chunk, (48_000, 320, 16)),
    "dac": Tiny("dac", _dac, lambda path, x: _transformers("DacModel", path).encoder(x[None]).mT, (44_100, 512, 64)),
    "oobleck": Tiny(
        "oobleck", _oobleck,
        lambda path, x: _diffusers("AutoencoderOobleck", path).encode(x.repeat(1, 2, 1)).latent_dist.mean.mT,
        (44_100, 2048, 2),
    ),
    "same": Tiny(
        "same", _same, lambda path, x: _diffusers("AutoencoderSAME", path).encode(x.repeat(1, 2, 1)).latents.mT,
        (44_100, 4096, 16),
    ),
    "longcat": Tiny(
        "longcat", _longcat,
        lambda path, x: _diffusers("LongCatAudioDiTVae", path).encode(
            torch.nn.functional.pad(x, (0, -x.shape[1] % 2048))[None], sample_posterior=False
        ).latents.mT,
        (24_000, 2048, 8),
    ),
    "wav2vec2": Tiny("hidden", _wav2vec2, _hidden_state, (16_000, 320, 24), {"layer": 2}),
    "hubert": Tiny("hidden", _hubert, _hidden_state, (16_000, 320, 24), {"layer": 2}),
    "wavlm": Tiny("hidden", _wavlm, _hidden_state, (16_000, 320, 24), {"layer": -2}),
    "w2v-bert": Tiny("hidden", _w2v_bert, _hidden_state, (16_000, 320, 24), {"layer": 2}),
}  # fmt: skip


def _mimi_codec(folder: Path, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    model = _transformers("MimiModel", folder)
    codes = model.encode(sound[None]).audio_codes
    return model.quantizer.decode(codes).mT, model.decode(codes).audio_values


def _encodec_codec(folder: Path, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    model = _transformers("EncodecModel", folder)
    made = model.encode(sound[None])
    features = model.quantizer.decode(made.audio_codes[0].transpose(0, 1)).mT
    return features, model.decode(made.audio_codes, made.audio_scales).audio_values


def _dac_codec(folder: Path, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    model = _transformers("DacModel", folder)
    made = model.encode(sound[None])
    return made.quantized_representation.mT, model.decode(made.quantized_representation).audio_values[:, None]


def _vibevoice_codec(folder: Path, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    made = _transformers("VibeVoiceAcousticTokenizerModel", folder)(sound[None], sample=False)
    return made.latents, made.audio


def _pocket_codec(folder: Path, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    made = _transformers("PocketTTSAudioTokenizerModel", folder)(sound[None])
    return made.latents, made.audio_values


def _autoencoder(name: str, channels: int, **settings: Any) -> Callable[[Path, torch.Tensor], Any]:
    def call(folder: Path, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model, given = _diffusers(name, folder), sound.repeat(1, channels, 1)
        encoded = model.encode(given)
        latents = encoded.latent_dist.mode() if "latent_dist" in encoded else model.encode(given, **settings).latents
        return latents.mT, model(given, **settings).sample

    return call


CODECS: dict[str, Callable[[Path, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] = {
    "pocket": _pocket_codec,
    "mimi": _mimi_codec,
    "vibevoice": _vibevoice_codec,
    "encodec": _encodec_codec,
    "dac": _dac_codec,
    "oobleck": _autoencoder("AutoencoderOobleck", 2),
    "same": _autoencoder("AutoencoderSAME", 2),
    "longcat": _autoencoder("LongCatAudioDiTVae", 1, sample_posterior=False),
}
"""Functions that run each model with a decoder on a sound (1, samples) of whole frames, with the library's own calls,
including a quantiser if there is one. They return the input of the decoder, (1, frames, dim), and the decoded sound,
(1, channels, samples)."""
