"""Speaker segmentation: which of up to three voices speaks in each frame of windows of 10 s.

The model is pyannote's segmentation-3.0 (Plaquet and Bredin, 2023, "Powerset multi-class cross entropy loss for neural
speaker diarization"). Imported by the diarize stage only: everything here needs the `diarize` extra.
"""

from __future__ import annotations

import numpy as np
import torch
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.segmentation import PyanNet

from pipelines.stages.stretches import FRAME_STEP, FRAME_WIDTH, FRAMES, POWERSET, SAMPLE_RATE, WINDOW_SAMPLES, Windows
from runtime import models
from runtime.batches import batch_calls


class Segmentation:
    """The segmentation model on a device, called in batches."""

    def __init__(self, step_s: float, device: str, precision: str, batch_size: int, threads: int) -> None:
        """`step_s` is the step between windows in seconds. It is rounded to frames, and at most a window, so that every
        frame lies in a window."""
        self.step = min(FRAMES, max(1, round(step_s * SAMPLE_RATE / FRAME_STEP)))
        self.device = device
        self.model = load_segmentation().to(device)
        batch_calls(self.model, "diarize, segmentation", batch_size, precision, threads)

    def __call__(self, samples: np.ndarray) -> Windows:
        """Segment float32 (samples,) at 16 kHz. The last window ends with the sound; shorter sound is padded."""
        frames = max(FRAMES, 1 + (len(samples) - FRAME_WIDTH) // FRAME_STEP)
        starts = list(range(0, frames - FRAMES + 1, self.step))
        if starts[-1] + FRAMES < frames:
            starts.append(frames - FRAMES)
        padded = np.pad(samples, (0, max(0, starts[-1] * FRAME_STEP + WINDOW_SAMPLES - len(samples))))
        cut = np.stack([padded[start * FRAME_STEP : start * FRAME_STEP + WINDOW_SAMPLES] for start in starts])
        # The output of the model is logarithms of probabilities.
        classes = self.model(torch.from_numpy(cut)[:, None].to(self.device)).exp().cpu().numpy()
        assert classes.shape[1:] == (FRAMES, len(POWERSET))
        return Windows(np.array(starts, np.int64), classes, len(samples))


def load_segmentation() -> PyanNet:
    """Load segmentation-3.0 with its published weights, which ship inside a package."""
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
