"""`speechmill encoder train`: trains a VAE on the log-mel features of a dataset; a killed training resumes exactly.

The excerpts and the noise of a step depend only on its number and the seed, so that a checkpoint consists of the
weights, the moments of the optimizer and the number of steps done.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from encoders.logmel import LogMel
from encoders.vae_network import CONFIG, WEIGHTS, VaeShape, make
from manifests.install import install
from manifests.lake import Lake
from manifests.shards import stored_array
from manifests.whole import whole
from pipelines.encoding.dataset import encoder_of
from runtime import checkpoint
from runtime.batches import reproducible, resolve_device
from runtime.errors import MissingExtraError, SpeechmillError

CHECKPOINT, LOSSES, CURVES, SETTINGS = "checkpoint.safetensors", "losses.jsonl", "losses.png", "settings.json"
"""Names of the files in the folder `training` beside the model."""
VALIDATION_WINDOWS = 16
KEPT_WINDOWS = 512
"""Number of windows whose features stay in memory: about 250 MB for windows of 40 s."""


@dataclass(frozen=True)
class Training:
    """How a VAE is trained. The loss is the mean absolute error of log-mel features, each brought to a variance of 1,
    plus `beta` times the divergence from a standard normal distribution per value of a latent, in nats."""

    steps: int = 20_000
    """Steps of the optimizer (AdamW); the learning rate falls to zero along a cosine."""
    batch: int = 16
    """Number of excerpts in a step."""
    crop_frames: int = 160
    """Length of an excerpt in log-mel frames."""
    learning_rate: float = 1e-3
    """Learning rate of the first step."""
    beta: float = 1e-3
    """Weight of the divergence: higher makes latents smoother and sound less exact."""
    seed: int = 0
    """Seed of the initial weights, the excerpts and the noise."""
    checkpoint_steps: int = 500
    """Steps between two checkpoints; each measures the error on the validation windows as well."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "crop_frames", "checkpoint_steps"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {getattr(self, name)!r}")
        for name in ("learning_rate", "beta"):
            if not isinstance(getattr(self, name), (int, float)) or not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)!r}")


class Windows:
    """The log-mel features of a dataset's windows, by split."""

    def __init__(self, lake: Lake, dataset: str) -> None:
        self._storage, self._dataset = lake.storage, dataset
        prefix = f"datasets/{dataset}"
        made_by = lake.read_json(f"{prefix}/plan.json", "encoder")["encoder"]
        if not made_by.startswith("logmel-"):
            what = f"the dataset {dataset} holds features of the encoder {made_by}"
            raise SpeechmillError(what, "name a dataset of log-mel features: a VAE is trained on these")
        encoder = encoder_of(lake, dataset)
        assert isinstance(encoder, LogMel)
        self.logmel = encoder.layout
        self.rows: dict[str, list[dict[str, Any]]] = {}
        for key in sorted(lake.storage.list(f"{prefix}/windows")):
            for row in lake.read(key).to_pylist():
                if row["status"] == "ok":
                    self.rows.setdefault(row["split"], []).append(row)
        if not self.rows.get("train"):
            raise SpeechmillError(f"the dataset {dataset} has no window in its split train", "encode some first")
        stored = safetensors.numpy.load(lake.storage.read(f"{prefix}/stats.safetensors"))
        self.mean, self.variance = stored["train.mean"], stored["train.variance"]
        self.features = functools.lru_cache(KEPT_WINDOWS)(self._features)

    def validation(self) -> list[np.ndarray]:
        """Features, float32 (frames, num_mels), of windows outside the split train; empty where there are none."""
        split = next((name for name in ("validation", "test") if name in self.rows), None)
        count = min(VALIDATION_WINDOWS, len(self.rows[split])) if split else 0
        return [self._features(split, number)[0].astype(np.float32) for number in range(count) if split]

    def batch(self, training: Training, step: int) -> np.ndarray:
        """The excerpts of a step, float32 (batch, num_mels, crop_frames)."""
        random = np.random.default_rng((training.seed, step))
        rows = self.rows["train"]
        crops = []
        for number in random.integers(len(rows), size=training.batch):
            track = random.choice(self.features("train", int(number)))
            if len(track) < training.crop_frames:
                what = f"the window {rows[number]['window_id']} has {len(track)} frames"
                raise SpeechmillError(f"{what}, fewer than crop_frames", f"--set crop_frames={len(track)}")
            first = random.integers(len(track) - training.crop_frames + 1)
            crops.append(track[first : first + training.crop_frames].T)
        return np.stack(crops).astype(np.float32)

    def _features(self, split: str, number: int) -> np.ndarray:
        return stored_array(self._storage, self._dataset, self.rows[split][number])


class Trainer:
    """Trains one model in one folder; `run` continues after the last checkpoint."""

    def __init__(self, windows: Windows, shape: VaeShape, training: Training, folder: Path, device: str) -> None:
        """Raises SpeechmillError where the folder has a model of another shape, or one trained with other settings."""
        try:
            import torch
        except ImportError as error:
            raise MissingExtraError("training needs torch", install(["hearing"])) from error

        self.windows, self.shape, self.training, self.folder = windows, shape, training, folder
        self.device = resolve_device(device)
        self.state = folder / "training"
        continues = (self.state / CHECKPOINT).is_file()
        if continues:
            self._check_settings()
        torch.manual_seed(training.seed)
        self.network = make(shape)
        self.network.get_buffer("mean")[:, 0] = torch.from_numpy(windows.mean)
        self.network.get_buffer("scale")[:, 0] = torch.from_numpy(np.sqrt(np.maximum(windows.variance, 1e-6)))
        self.network.to(self.device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), training.learning_rate)
        self.validation = windows.validation()
        self.done = 0
        self.losses: list[dict[str, Any]] = []
        if continues:
            self._restore()

    def run(self, tell: Callable[[dict[str, Any]], None] = lambda row: None) -> None:
        """Train to the last step. `tell` is called with the newest row of losses.jsonl at each checkpoint."""
        with reproducible(1, self.device):
            for step in range(self.done, self.training.steps):
                row = self._step(step)
                self.done = step + 1
                self.losses.append(row)
                if self.done % self.training.checkpoint_steps == 0 or self.done == self.training.steps:
                    row["validation"] = self._validate()
                    self._keep()
                    tell(row)

    def _step(self, step: int) -> dict[str, Any]:
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.training.steps))
        features = torch.from_numpy(self.windows.batch(self.training, step)).to(self.device)
        mean, log_variance = self.network.encode(features)  # type: ignore[operator]
        # Drawn on the CPU, so that a step has the same noise on any device.
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(self.training.seed * 1_000_003 + step))
        decoded = self.network.decode(mean + (0.5 * log_variance).exp() * noise.to(self.device))  # type: ignore[operator]
        error = decoded - features
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        loss = (error / self.network.scale).abs().mean() + self.training.beta * divergence
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        values = {"loss": loss, "error_nepers": error.abs().mean(), "divergence": divergence}
        return {"step": step + 1, **{name: value.item() for name, value in values.items()}, "validation": None}

    def _validate(self) -> float | None:
        """Mean absolute error in nepers of the validation windows, decoded from the means of their latents."""
        import torch

        errors = []
        for features in self.validation:
            frames = len(features) // self.shape.stride * self.shape.stride
            given = torch.from_numpy(np.ascontiguousarray(features[None, :frames].transpose(0, 2, 1))).to(self.device)
            with torch.inference_mode():
                mean, _ = self.network.encode(given)  # type: ignore[operator]
                errors.append((self.network.decode(mean) - given).abs().mean().item())  # type: ignore[operator]
        return float(np.mean(errors)) if errors else None

    def _settings(self) -> dict[str, Any]:
        """All settings on which the weights depend, as JSON. The data are not among them."""
        return json.loads(self.shape.to_json()) | dataclasses.asdict(self.training)

    def _check_settings(self) -> None:
        before, now = json.loads((self.state / SETTINGS).read_text()), self._settings()
        if changed := [f"{key} = {before.get(key)!r}" for key in now if before.get(key) != now[key]]:
            what = f"{self.folder} was trained with other settings: {', '.join(changed)}"
            raise SpeechmillError(what, "give the same settings to go on, or name another folder")

    def _keep(self) -> None:
        """Write the model, its curves and, last, the checkpoint from which training resumes."""
        from safetensors.torch import save_file

        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        losses = "".join(json.dumps(row) + "\n" for row in self.losses)
        settings = json.dumps(self._settings(), indent=1, sort_keys=True) + "\n"
        texts = {self.folder / CONFIG: self.shape.to_json(), self.state / SETTINGS: settings}
        for path, text in (texts | {self.state / LOSSES: losses}).items():
            with whole(path) as unfinished:
                unfinished.write_text(text)
        draw(self.losses, self.state / CURVES)
        with whole(self.folder / WEIGHTS) as unfinished:
            save_file(weights, unfinished)
        with whole(self.state / CHECKPOINT) as unfinished:
            checkpoint.save(unfinished, {"model": self.network}, self.optimizer, {"steps": str(self.done)})

    def _restore(self) -> None:
        metadata = checkpoint.load(self.state / CHECKPOINT, {"model": self.network}, self.optimizer)
        self.done = int(metadata["steps"])
        rows = [json.loads(line) for line in (self.state / LOSSES).read_text().splitlines()]
        self.losses = [row for row in rows if row["step"] <= self.done]


def draw(losses: list[dict[str, Any]], path: Path) -> None:
    """Write a picture of the error of excerpts and of validation windows, and of the divergence, over the steps."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the curves of training need matplotlib", install(["hearing"])) from error
    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    steps = [row["step"] for row in losses]
    upper.plot(steps, [row["error_nepers"] for row in losses], linewidth=0.6, label="excerpts, sampled")
    measured = [row for row in losses if row["validation"] is not None]
    upper.plot([r["step"] for r in measured], [r["validation"] for r in measured], "o-", label="validation, mean")
    upper.set_ylabel("log-mel error, nepers")
    upper.legend()
    lower.plot(steps, [row["divergence"] for row in losses], linewidth=0.6)
    lower.set_ylabel("divergence, nats a value")
    lower.set_xlabel("steps")
    with whole(path) as unfinished:
        figure.savefig(unfinished, metadata={"Software": None})
