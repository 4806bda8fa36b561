"""Diarization by one model from end to end: Sortformer as transformers runs it, such as nvidia/Nemotron-3-Diarization.

A streaming Sortformer (Medennikov et al., 2025) gives for every frame of 10 ms the probability that each of its few
speakers speaks, in order of their arrival. Overlaps are thus told frame by frame, and nothing is clustered.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manifests.install import install
from runtime.batches import PRECISIONS, Batches, Inputs, reproducible
from runtime.errors import MissingExtraError, SpeechmillError

if TYPE_CHECKING:
    import torch
    from transformers import Nemotron3DiarizationSpeakerCache

Turn = tuple[str, float, float]
Read = Callable[[int, int], np.ndarray]
"""Samples [start, stop) of one track at 16 kHz, float32 (samples,), from what exists."""

EXTRA = "diarize-sortformer"
MODEL_TYPE = "nemotron3_diarization"
THRESHOLD = 0.5
"""Probability above which transformers' own processor counts a frame as speech."""
SAMPLE_RATE = 16000
MAX_CONFIG_BYTES = 1 << 20
REMEDY = (
    "name a Sortformer that transformers runs, such as nvidia/Nemotron-3-Diarization, with its config.json, "
    "processor_config.json and weights in safetensors; or a pipeline of pyannote.audio with its config.yaml"
)


def is_sortformer(path: Path) -> bool:
    """Whether `load` is to read what `path` names, rather than pyannote, whose folders hold a config.yaml.

    True for any folder of a model for transformers, and for one of NeMo: `load` says what is wrong with others than
    Sortformers.
    """
    if not path.is_dir() or (path / "config.yaml").exists():
        return False
    return (path / "config.json").is_file() or any(path.glob("*.nemo"))


def load(
    path: Path, name: str, device: str, precision: str = "float32", threads: int = 1, threshold: float = THRESHOLD
) -> Sortformer:
    """The model in a folder, as `save_pretrained` and the hub have it. No code of the folder is run.

    `precision` is 'float32', or 'float16' for mixed precision. Raises SpeechmillError for a folder that holds no
    Sortformer or not all of it, MissingExtraError where transformers is missing or too old.
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
        # A configuration may name kernels of others by its kind of attention, which are downloaded and run.
        config = Nemotron3DiarizationConfig.from_pretrained(path, local_files_only=True)
        found: Any = Nemotron3DiarizationForAudioFrameClassification.from_pretrained(
            path, config=config, attn_implementation="sdpa", dtype="float32", use_safetensors=True,
            local_files_only=True, output_loading_info=True,
        )  # fmt: skip
        model, loaded = found
        if missing := sorted(loaded["missing_keys"]):
            raise ValueError(f"the weights lack {len(missing)} tensors, {missing[0]} among them")
        return Sortformer(model, extractor, name, device, precision, threads, threshold)
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, StrictDataclassError, SafetensorError,
    ) as error:  # fmt: skip
        told = " ".join(str(error).split())
        what = f"model {name!r}: {path} is no Sortformer that transformers loads: {told:.300}"
        raise SpeechmillError(what, REMEDY) from error


def _check(path: Path, name: str) -> None:
    """What can be said of a folder without reading its weights."""
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
    """A loaded model, which hears a recording of any length as a whole.

    It gives no embeddings by which speakers of chunks could be linked, and needs none: it carries a cache of frames of
    each speaker from step to step, so that a speaker keeps their number through the recording. A step reads some 30 s
    of sound, and memory does not grow with the recording but for its turns. So a recording is never cut into chunks for
    it, and is heard by one worker. The steps, their look-ahead and look-back, and the sizes of the cache are those of
    the model's offline inference; transformers itself would want the features of the whole recording at once for it.
    """

    def __init__(
        self, model: Any, extractor: Any, name: str, device: str, precision: str, threads: int, threshold: float
    ) -> None:
        """`model` and `extractor` are transformers' own. ValueError where they do not fit together or this stage."""
        import torch

        assert precision in PRECISIONS
        config = model.config
        self._config, self._extractor, self._name, self._threads = config, extractor, name, threads
        self._device, self._threshold = device, threshold
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie in (0, 1), not {threshold}")
        if extractor.sampling_rate != SAMPLE_RATE:
            raise ValueError(f"it hears sound at {extractor.sampling_rate} Hz, not at {SAMPLE_RATE} Hz")
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
        """Most speakers that it tells apart in a recording; whoever comes later is heard as one of them."""
        self._model = model.to(device).eval()
        self._mixed = functools.partial(
            torch.autocast, device, dtype=getattr(torch, precision), enabled=precision != "float32"
        )

    def turns(self, read: Read, num_samples: int) -> list[Turn]:
        """(speaker, start, end) of a recording or a part of it, in seconds from its beginning, by start.

        `read` gives its samples by range, each at most some 30 s long and in order. Turns of different speakers overlap
        where they speak at once. Sound shorter than a frame of 10 ms has none.
        """
        turns: list[tuple[int, int, int]] = []
        latest: dict[int, int] = {}
        for first, spoken in self._steps(read, num_samples):
            for speaker, start, end in _runs(spoken):
                start, end = first + start, first + end
                number = latest.get(speaker)
                if number is not None and turns[number][2] == start:  # goes on from the step before
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
        """First frame of each step, and who speaks in its frames: bool (frames, speakers)."""
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
            # One recording a call: a step is long enough to occupy a device, and each recording has its own cache.
            (logits,) = Batches(self._name, 1, call, torch.cuda.empty_cache)([(features,)])
            if not torch.isfinite(logits).all():
                raise SpeechmillError(
                    f"model {self._name!r} gave values that are not finite at {start * factor} of {num_frames} frames",
                    'write precision = "float32" in [annotate.diarize], or check the weights of the model',
                )
            yield start * factor, (logits.sigmoid() > self._threshold).numpy()

    def _features(self, read: Read, first: int, last: int, num_samples: int) -> torch.Tensor:
        """Log-mel features (frames, mels) of the frames [first, last), as those of the whole recording are."""
        import torch

        hop, half = self._extractor.hop_length, self._extractor.n_fft // 2
        num_frames = num_samples // hop
        ends = last == num_frames
        # Frame n lies around sample n * hop. Where that begins before the sound, the extractor pads.
        centred = first * hop < half
        start = 0 if centred else first * hop - half
        samples = read(start, num_samples if ends else min((last - 1) * hop + half, num_samples))
        with torch.inference_mode(), reproducible(self._threads):
            found: torch.Tensor = self._extractor(
                samples, sampling_rate=SAMPLE_RATE, center=centred, is_last_audio_chunk=ends
            )["input_features"][0]
        skipped = first if centred else 0
        return found[skipped : skipped + last - first]

    def _logits(
        self, cache: Nemotron3DiarizationSpeakerCache, before: int, after: int, rows: Sequence[Inputs]
    ) -> Sequence[torch.Tensor]:
        """Logits (frames, speakers) of one row of features, whose outer encoder frames are context; moves the cache."""
        import torch

        ((features,),) = rows
        with torch.inference_mode(), reproducible(self._threads, self._device), self._mixed():
            output = self._model(
                input_features=features[None].to(self._device), speaker_cache=cache, num_lookback_frames=before,
                num_lookahead_frames=after,
            )  # fmt: skip
        return [output.logits[0].float().cpu()]


def _runs(spoken: np.ndarray) -> list[tuple[int, int, int]]:
    """(speaker, first frame, last frame + 1) of each stretch of bool (frames, speakers)."""
    edges = np.diff(np.pad(spoken, ((1, 1), (0, 0))).astype(np.int8), axis=0)
    return [
        (speaker, start, end)
        for speaker in range(spoken.shape[1])
        for start, end in np.flatnonzero(edges[:, speaker]).reshape(-1, 2).tolist()
    ]
