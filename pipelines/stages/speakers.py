"""pyannote's diarization pipeline on parts that ship inside packages: segmentation-3.0 and GE2E embeddings.

Imported by the diarize stage only: everything here needs the `diarize` extra.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
import torchaudio
from pyannote.audio import Model
from pyannote.audio.core.plda import PLDA
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.segmentation import PyanNet
from pyannote.audio.pipelines import SpeakerDiarization

from runtime import models

SAMPLE_RATE = 16000
HOP_SAMPLES = 160
PARTIAL_FRAMES = 160
STEP_FRAMES = 77
MIN_FRAMES = 20
TARGET_DBFS = -30.0


class GE2E(Model):
    """Resemblyzer's speaker encoder (Wan et al., 2018, "Generalized end-to-end loss for speaker verification").

    An LSTM reads 1.6 s of 40 mel powers (25 ms window, 10 ms hop; librosa's definitions) and its last state becomes a
    unit vector; an utterance is the mean over partials that start every 0.77 s, as `VoiceEncoder.embed_utterance` does.
    """

    dimension = 256
    mel: torch.Tensor
    window: torch.Tensor

    def __init__(self, sample_rate: int = SAMPLE_RATE, num_channels: int = 1, task: Any = None) -> None:
        super().__init__(sample_rate=sample_rate, num_channels=num_channels, task=task)
        self.lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = torch.nn.Linear(256, 256)
        mel = torchaudio.functional.melscale_fbanks(201, 0.0, 8000.0, 40, SAMPLE_RATE, "slaney", "slaney")
        self.register_buffer("mel", mel, persistent=False)
        self.register_buffer("window", torch.hann_window(400), persistent=False)

    def mel_power(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Mel powers (batch, samples // 160 + 1, 40) of waveforms (batch, samples) at 16 kHz."""
        spectrum = torch.stft(
            waveforms, 400, HOP_SAMPLES, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        powers: torch.Tensor = spectrum.abs().square().transpose(1, 2) @ self.mel
        return powers

    def forward(  # type: ignore[override]  # narrower than the base's, as pyannote's own embeddings are
        self, waveforms: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Unit vectors (batch, 256) of waveforms (batch, 1, samples), heard where `weights` (batch, frames) exceed 0.5.

        Frames outside the mask are cut out, not zeroed. Rows with less than 0.2 s left are NaN.
        """
        powers = self.mel_power(waveforms[:, 0])
        count = powers.shape[1]
        if weights is None:
            heard = torch.ones(powers.shape[:2], dtype=torch.bool, device=powers.device)
        else:
            heard = F.interpolate(weights[:, None], size=count, mode="nearest")[:, 0] > 0.5
        level = F.pad(waveforms[:, 0], (0, count * HOP_SAMPLES - waveforms.shape[2]))
        level = level.reshape(len(level), count, HOP_SAMPLES).square().mean(dim=2)
        partials, rows = [], []
        for row in range(len(powers)):
            frames = powers[row, heard[row]]
            if len(frames) < MIN_FRAMES:
                continue
            # Quiet speakers are raised to -30 dBFS, as upstream does to an utterance; loud ones are left alone.
            power = level[row, heard[row]].mean().clamp(min=1e-12)
            frames = frames * (10 ** (TARGET_DBFS / 10) / power).clamp(min=1.0)
            if len(frames) < PARTIAL_FRAMES:
                frames = frames.repeat(-(-PARTIAL_FRAMES // len(frames)), 1)[:PARTIAL_FRAMES]
            for start in range(0, len(frames) - PARTIAL_FRAMES + 1, STEP_FRAMES):
                partials.append(frames[start : start + PARTIAL_FRAMES])
                rows.append(row)
        embeddings = torch.full((len(powers), self.dimension), torch.nan, device=powers.device)
        if partials:
            _, (state, _) = self.lstm(torch.stack(partials))
            vectors = torch.relu(self.linear(state[-1]))
            vectors = vectors / vectors.norm(dim=1, keepdim=True)
            owner = torch.tensor(rows, device=powers.device)
            for row in sorted(set(rows)):
                mean = vectors[owner == row].mean(dim=0)
                embeddings[row] = mean / mean.norm()
        return embeddings


def load_segmentation() -> PyanNet:
    """segmentation-3.0: who of up to 3 speakers speaks in each 17 ms of 10 s, two at once at most."""
    saved = torch.load(models.verified("pyannote-segmentation-3.0"), map_location="cpu", weights_only=True)
    model = PyanNet(
        **{name: saved["model"][name] for name in ("sample_rate", "num_channels", "sincnet", "lstm", "linear")}
    )
    model.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=saved["inference"]["duration"],
        warm_up=(0.0, 0.0),
        classes=["speaker#1", "speaker#2", "speaker#3"],
        powerset_max_classes=2,
        permutation_invariant=True,
    )
    model.build()
    model.load_state_dict(saved["state_dict"])
    return model.eval()


def load_embedding() -> GE2E:
    """GE2E with Resemblyzer's weights."""
    state = torch.load(models.verified("ge2e"), map_location="cpu", weights_only=True)["model_state"]
    model = GE2E()
    # The two similarity scalars belong to the training loss.
    model.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("similarity_")})
    return model.eval()


class OfflineDiarization(SpeakerDiarization):
    """`SpeakerDiarization` on the two models above with agglomerative clustering; nothing is downloaded.

    `settings` are those of `SpeakerDiarization` (segmentation_step, batch sizes). Call `instantiate` before use.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            segmentation=load_segmentation(),
            embedding=load_embedding(),
            plda=object.__new__(PLDA),  # asked for whatever the clustering, used by VBx only
            clustering="AgglomerativeClustering",
            **settings,
        )
