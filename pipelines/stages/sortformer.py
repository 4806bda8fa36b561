"""Diarization by one model from end to end: Sortformer as transformers runs it, such as nvidia/Nemotron-3-Diarization.

A streaming Sortformer (Medennikov et al., 2025) gives the probability that each of its few speakers speaks in each
frame of 10 ms. Speakers are numbered in the order in which they first speak. Overlaps need no separate step, and
nothing is clustered.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manifests.install import install
from pipelines.stages.diarizers import ChunkTurns, Read
from runtime.batches import PRECISIONS, Batches, Inputs, reproducible
from runtime.errors import MissingExtraError, SpeechmillError

if TYPE_CHECKING:
    import torch
    from transformers import Nemotron3DiarizationSpeakerCache

Turn = tuple[str, float, float]
"""Speaker, start and end in seconds."""

EXTRA = "diarize-sortformer"
MODEL_TYPE = "nemotron3_diarization"
PACKAGES = ("torch", "transformers")
SAMPLE_RATE = 16000
MAX_CONFIG_BYTES = 1 << 20
REMEDY = (
    "name a Sortformer that transformers runs, such as nvidia/Nemotron-3-Diarization, with its config.json, "
    "processor_config.json and weights in safetensors; or a pipeline of pyannote.audio with its config.yaml"
)


def is_sortformer(path: Path) -> bool:
    """Whether a path is to be read by `load`. The pipelines of pyannote.audio have a config.yaml instead.

    True for the folder of any model for transformers and for one with a checkpoint of NeMo: for those that are no
    Sortformer, `load` raises an error that says so.
    """
    if not path.is_dir() or (path / "config.yaml").exists():
        return False
    return (path / "config.json").is_file() or any(path.glob("*.nemo"))


def load(
    path: Path, name: str, device: str, precision: str = "float32", threads: int = 1, threshold: float = 0.5
) -> Sortformer:
    """Load the model from a folder in the layout of `save_pretrained` and of the hub. No code in the folder is run.

    `precision` is 'float32', or 'float16' for mixed precision. A speaker speaks in the frames whose probability exceeds
    `threshold`. Raises SpeechmillError for a folder that holds no Sortformer or only part of one, and MissingExtraError
    where transformers is missing or too old.
    """
    _check(path, name)
    try:
        from transformers import (
            Nemotron3DiarizationConfig,
            Nemotron3DiarizationForAudioFrameClassification,
            NemotronAsrStreamingFeatureExtractor,
        )
    except ImportError as error:
        raise MissingExtraError(f"model {name!r} needs transformers: {error}", install([EXTRA])) from error
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        extractor = NemotronAsrStreamingFeatureExtractor.from_pretrained(path, local_files_only=True)
        # The attention in a configuration may name somebody's kernel on the hub, which would be downloaded and run. So
        # the kind of attention is given here.
        config = Nemotron3DiarizationConfig.from_pretrained(path, local_files_only=True)
        loaded: Any = Nemotron3DiarizationForAudioFrameClassification.from_pretrained(
            path, config=config, attn_implementation="sdpa", dtype="float32", use_safetensors=True,
            local_files_only=True, output_loading_info=True,
        )  # fmt: skip
        model, report = loaded
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"the weights lack {len(missing)} tensors, {missing[0]} among them")
        return Sortformer(model, extractor, name, device, precision, threads, threshold)
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, StrictDataclassError, SafetensorError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        what = f"model {name!r}: {path} is no Sortformer that transformers loads: {reason:.300}"
        raise SpeechmillError(what, REMEDY) from error


def _check(path: Path, name: str) -> None:
    """Raise SpeechmillError for what is wrong with a folder, as far as can be known without reading its weights."""
    file = path / "config.json"
    if not file.is_file():
        nemo = any(path.glob("*.nemo")) if path.is_dir() else path.suffix == ".nemo"
        what = "is a checkpoint of NeMo, and holds no config.json" if nemo else "holds no config.json"
        raise SpeechmillError(f"model {name!r}: {path} {what}", REMEDY)
    try:
        with file.open("rb") as opened:
            config = json.loads(opened.read(MAX_CONFIG_BYTES))
        model_type = config.get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        what = f"model {name!r}: {file} is not the configuration of a model: {error!s:.200}"
        raise SpeechmillError(what, REMEDY) from error
    if model_type != MODEL_TYPE:
        what = f"model {name!r}: {file} is of the type {model_type!r:.100}, not {MODEL_TYPE!r}"
        raise SpeechmillError(what, REMEDY)
    if not any(path.glob("*.safetensors")):
        raise SpeechmillError(f"model {name!r}: {path} holds no weights in safetensors", REMEDY)


class Sortformer:
    """A loaded model. It processes a whole recording of any length, in steps.

    The model gives no embeddings by which speakers of different chunks could be linked, so a recording is not cut into
    chunks and is processed by one worker. Instead the model passes a cache of frames of each speaker from step to step,
    so that a speaker keeps the same number throughout the recording. A step reads some 30 s of sound; apart from the
    turns, memory does not grow with the recording. The length of steps, their left and right context, and the sizes of
    the cache are those of the model's offline inference, for which transformers itself would need the features of the
    whole recording at once.
    """

    def __init__(
        self, model: Any, extractor: Any, name: str, device: str, precision: str, threads: int, threshold: float
    ) -> None:
        """`model` and `extractor` are objects of transformers.

        Raises ValueError where the two do not fit together, or where this stage cannot run them.
        """
        import torch

        assert precision in PRECISIONS
        config = model.config
        self._config, self._extractor, self._name, self._threads = config, extractor, name, threads
        self._device, self._threshold = device, threshold
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie in (0, 1), not {threshold}")
        if extractor.sampling_rate != SAMPLE_RATE:
            raise ValueError(f"it takes sound at {extractor.sampling_rate} Hz, not at {SAMPLE_RATE} Hz")
        if extractor.feature_size != config.audio_config.num_mel_bins:
            raise ValueError(
                f"its features have {extractor.feature_size} mel bins, its model {config.audio_config.num_mel_bins}"
            )
        at_least = {"chunk_length": 1, "chunk_right_context": 0, "fifo_length": 0, "speaker_cache_update_period": 1}
        for setting, least in at_least.items():
            if getattr(config, setting) < least:
                raise ValueError(f"its {setting} is {getattr(config, setting)}, below {least}")
        if not 0 < extractor.hop_length <= extractor.n_fft // 2:
            raise ValueError(f"its hop_length is {extractor.hop_length}")
        self.num_speakers = int(config.head_config.num_speakers)
        """The most speakers that the model tells apart in a recording. Further ones are mistaken for one of these."""
        self._model = model.to(device).eval()
        self._mixed = functools.partial(
            torch.autocast, device, dtype=getattr(torch, precision), enabled=precision != "float32"
        )

    def __call__(self, read: Read, num_samples: int, name: str) -> ChunkTurns:
        return ChunkTurns([(*turn, None) for turn in self.turns(read, num_samples)], None)

    def turns(self, read: Read, num_samples: int) -> list[Turn]:
        """(speaker, start, end) of a recording or a part of it, in seconds from its beginning, by start.

        `read` is called for ranges of at most some 30 s, in order. Turns of different speakers overlap where they speak
        at once. Sound shorter than a frame of 10 ms has no turns.
        """
        turns: list[tuple[int, int, int]] = []
        latest: dict[int, int] = {}
        for first, active in self._steps(read, num_samples):
            for speaker, start, end in _runs(active):
                start, end = first + start, first + end
                number = latest.get(speaker)
                if number is not None and turns[number][2] == start:  # continues a turn of the step before
                    turns[number] = (turns[number][0], speaker, end)
                else:
                    latest[speaker] = len(turns)
                    turns.append((start, speaker, end))
        hop = self._extractor.hop_length
        return [
            (f"speaker {speaker}", start * hop / SAMPLE_RATE, end * hop / SAMPLE_RATE)
            for start, speaker, end in sorted(turns)
        ]

    def _steps(self, read: Read, num_samples: int) -> Iterator[tuple[int, np.ndarray]]:
        """First frame of each step, and whether each speaker speaks in its frames: bool (frames, speakers)."""
        import torch
        from transformers import Nemotron3DiarizationSpeakerCache

        config, factor = self._config, int(self._config.audio_config.subsampling_factor)
        num_frames = num_samples // self._extractor.hop_length
        num_embeds = -(-num_frames // factor)
        cache = Nemotron3DiarizationSpeakerCache(
            config.streaming_config, config.fifo_length, config.speaker_cache_update_period
        )
        for start in range(0, num_embeds, config.chunk_length):
            end = min(start + config.chunk_length, num_embeds)
            before = start - max(start - config.chunk_left_context, 0)
            after = min(end + config.chunk_right_context, num_embeds) - end
            features = self._features(
                read, (start - before) * factor, min((end + after) * factor, num_frames), num_samples
            )
            call = functools.partial(self._logits, cache, before, after)
            # One recording in a call: a step is long enough to occupy a device, and each recording has its own cache.
            (logits,) = Batches(self._name, 1, call, torch.cuda.empty_cache)([(features,)])
            if not torch.isfinite(logits).all():
                raise SpeechmillError(
                    f"model {self._name!r} gave values that are not finite at {start * factor} of {num_frames} frames",
                    'write precision = "float32" in [annotate.diarize], or check the weights of the model',
                )
            yield start * factor, (logits.sigmoid() > self._threshold).numpy()

    def _features(self, read: Read, first: int, last: int, num_samples: int) -> torch.Tensor:
        """Log-mel features (frames, mels) of the frames [first, last), equal to those of the whole recording."""
        import torch

        hop, half = self._extractor.hop_length, self._extractor.n_fft // 2
        num_frames = num_samples // hop
        ends = last == num_frames
        # Frame n is centred at sample n * hop. Where it begins before the sound, the extractor pads.
        centred = first * hop < half
        start = 0 if centred else first * hop - half
        samples = read(start, num_samples if ends else min((last - 1) * hop + half, num_samples))
        with torch.inference_mode(), reproducible(self._threads):
            features: torch.Tensor = self._extractor(
                samples, sampling_rate=SAMPLE_RATE, center=centred, is_last_audio_chunk=ends
            )["input_features"][0]
        skipped = first if centred else 0
        return features[skipped : skipped + last - first]

    def _logits(
        self, cache: Nemotron3DiarizationSpeakerCache, before: int, after: int, rows: Sequence[Inputs]
    ) -> Sequence[torch.Tensor]:
        """Logits (frames, speakers) of one row of features, and update the cache.

        `before` and `after` count the encoder frames of context at both ends, for which no logits are returned.
        """
        import torch

        ((features,),) = rows
        with torch.inference_mode(), reproducible(self._threads, self._device), self._mixed():
            output = self._model(
                input_features=features[None].to(self._device), speaker_cache=cache, num_lookback_frames=before,
                num_lookahead_frames=after,
            )  # fmt: skip
        return [output.logits[0].float().cpu()]


def _runs(active: np.ndarray) -> list[tuple[int, int, int]]:
    """(speaker, first frame, last frame + 1) of each run of True in bool (frames, speakers)."""
    edges = np.diff(np.pad(active, ((1, 1), (0, 0))).astype(np.int8), axis=0)
    return [
        (speaker, start, end)
        for speaker in range(active.shape[1])
        for start, end in np.flatnonzero(edges[:, speaker]).reshape(-1, 2).tolist()
    ]
