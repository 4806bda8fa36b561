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

    def __call__(self, samples: np.ndarray, spoken: np.ndarray | None = None) -> Windows:
        """Segment float32 (samples,) at 16 kHz. The last window ends with the sound; shorter sound is padded.

        Where `spoken`, bool (frames,), is given, no voice speaks in the other frames. Windows without such a frame are
        not computed. It may be shorter than the windows, and ends in silence then.
        """
        frames = max(FRAMES, 1 + (len(samples) - FRAME_WIDTH) // FRAME_STEP)
        starts = list(range(0, frames - FRAMES + 1, self.step))
        if starts[-1] + FRAMES < frames:
            starts.append(frames - FRAMES)
        if spoken is None:
            spoken = np.ones(frames, bool)
        spoken = np.pad(spoken, (0, max(0, starts[-1] + FRAMES - len(spoken))))
        inside = np.stack([spoken[start : start + FRAMES] for start in starts])
        padded = np.pad(samples, (0, max(0, starts[-1] * FRAME_STEP + WINDOW_SAMPLES - len(samples))))
        classes = np.zeros((len(starts), FRAMES, len(POWERSET)), np.float32)
        classes[:, :, 0] = 1.0
        computed = np.flatnonzero(inside.any(axis=1))
        if len(computed):
            first = np.array(starts)[computed] * FRAME_STEP
            cut = np.stack([padded[start : start + WINDOW_SAMPLES] for start in first.tolist()])
            # The output of the model is logarithms of probabilities.
            found = self.model(torch.from_numpy(cut)[:, None].to(self.device)).exp().cpu().numpy()
            assert found.shape[1:] == (FRAMES, len(POWERSET))
            classes[computed] = np.where(inside[computed, :, None], found, classes[computed])
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
