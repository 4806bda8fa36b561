"""A training run: compute and size are given; tokens, steps, batch and schedule follow. A killed run goes on exactly.

What a step sees is drawn by its number and the seed, so that weights, their averages, the moments of the optimizer and
the number of steps done are all that a checkpoint has to keep.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from manifests.whole import whole, whole_text
from runtime import checkpoint
from runtime.batches import reproducible, resolve_device
from runtime.errors import SpeechmillError
from studies.slm import ar, data
from studies.slm.diffusion import Diffusion, Predict, principal
from studies.slm.model import Shape, groups

SETTINGS, CHECKPOINT, WEIGHTS, CURVES, RESULT = (
    "settings.json", "checkpoint.safetensors", "model.safetensors", "curves.parquet", "result.json",
)  # fmt: skip
"""In the folder of a run; the last one says that it is done."""
WARMUP = 0.1
"""Share of the steps over which the learning rate rises; it then falls to zero along a line."""
EMA_POWER = 16.97
"""Of the average of weights (Karras et al. 2024): its width is 5 % of the run, however long that is."""
CLIP = 1.0
FITTED_TOKENS = 50_000
"""To which the codebook and the principal components are fitted."""
EVALUATED_AT_ONCE = 64
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}
"""Of dense bfloat16, by a part of the card's name, as makers state it."""
COLUMNS = pa.schema(
    [
        pa.field("step", pa.int64(), metadata={"description": "Steps done."}),
        pa.field("tokens", pa.int64(), metadata={"description": "Tokens of context and continuation that were read."}),
        pa.field("learning_rate", pa.float64(), metadata={"description": "Of the step, before muP's factor."}),
        pa.field("loss", pa.float64(), metadata={"description": "Of the step's batch, by the weights being trained."}),
        pa.field("held", pa.float64(), metadata={"description": "Of held-out windows, by averaged weights."}),
        pa.field("held_by_level", pa.list_(pa.float64()), metadata={"description": "The same at each noise level."}),
    ]
)


@dataclass(frozen=True)
class Settings:
    """All that decides a run but for the data."""

    flops: float
    """C = 6 N D."""
    width: int
    depth: int
    seed: int = 0
    """Of weights, order and noise."""
    model: Literal["diffusion", "ar"] = "diffusion"
    patch: int = 4
    """Frames in a token."""
    predict: Predict = "x"
    """What the diffusion model gives: the clean continuation or v."""
    learning_rate: float = 8e-3
    """At the width of 64 and the depth of 2, from where muP carries it."""
    decay: float = 0.03
    """AdamW's weight decay."""
    rows: int | None = None
    """Windows in a step; by the budget if not given."""
    held_windows: int = 256
    evaluations: int = 1
    """How often held-out windows are measured, evenly over the run; the last time at its end."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products in training; held-out windows are measured in float32."""
    compile: bool = False
    """Whether torch.compile makes the training step: it pays on a GPU in runs of minutes."""

    def __post_init__(self) -> None:
        if not (self.flops > 0 and self.learning_rate > 0 and self.decay >= 0):
            raise ValueError("flops and learning_rate must be above 0, and decay at least 0")
        if min(self.patch, self.held_windows, self.evaluations, self.rows or 1) < 1 or self.rows == 0:
            raise ValueError("patch, held_windows, evaluations and rows must be at least 1")
        if self.predict not in ("x", "v") or self.precision not in ("float32", "bfloat16"):
            raise ValueError("predict is x or v, and precision float32 or bfloat16")

    @property
    def shape(self) -> Shape:
        """Of the network."""
        return Shape(self.width, self.depth, 2 if self.model == "diffusion" else 1)

    @property
    def rows_a_step(self) -> int:
        """The same for all sizes of a budget; it grows with the cube root of compute: 8 at 3e10 FLOP, 80 at 3e13."""
        return self.rows or max(4, round(8 * (self.flops / 3e10) ** (1 / 3)))

    def steps(self, tokens_a_row: int) -> int:
        """D = C / 6 N in steps, rounded."""
        return max(1, round(self.flops / 6 / self.shape.params / (self.rows_a_step * tokens_a_row)))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step."""
        done = (step + 0.5) / steps
        return self.learning_rate * min(done / WARMUP, (1 - done) / (1 - WARMUP))


class Corpus:
    """A dataset opened for the runs of one process: the split train and what is held out, on the device."""

    def __init__(
        self, lake: str, dataset: str | None, patch: int, device: str, held_windows: int, also: str | None = None
    ) -> None:
        """`also` is a lake of other recordings, whose split `test` is measured beside the split `validation`."""
        self.device = resolve_device(device)
        self.sound = data.Sound.opened(lake, dataset, patch)
        self.held = {"": data.Held.of(self.sound, "validation", held_windows, self.device)}
        self.also = also
        if also:
            other = data.Sound.opened(also, None, patch, "test")
            if other.encoder != self.sound.encoder:
                raise SpeechmillError(
                    f"{also} holds features of {other.encoder}, and {lake} of {self.sound.encoder}",
                    "encode both with one recipe",
                )
            same = dataclasses.replace(other, mean=self.sound.mean, scale=self.sound.scale)
            self.held["_also"] = data.Held.of(same, "test", held_windows, self.device)

    @functools.cached_property
    def memory(self) -> data.Memory | None:
        """The windows of the split train, None where they are streamed."""
        return data.memory(self.sound, self.device)

    @functools.cached_property
    def tokens(self) -> Tensor:
        """Tokens of the first windows of the split train, (n, token), to which what is not learned is fitted."""
        return data.first(self.sound, FITTED_TOKENS).to(self.device)

    @functools.cached_property
    def components(self) -> Tensor:
        """Principal components of tokens, where the diffusion model begins."""
        return principal(self.tokens)

    @functools.cached_property
    def centres(self) -> Tensor:
        """The codebook of the discrete model."""
        return ar.codebook(self.tokens)


class Trainer:
    """One run in one folder; `run` does what of it is not done yet."""

    def __init__(self, corpus: Corpus, settings: Settings, folder: Path) -> None:
        """SpeechmillError where the folder holds a run of other settings or data."""
        self.corpus, self.settings, self.folder = corpus, settings, folder
        check_same(folder, told(settings, corpus.sound, corpus.also))
        self.objective = made(corpus, settings)
        self.averaged = made(corpus, settings).requires_grad_(False)
        given = groups(self.objective.network, settings.learning_rate, settings.decay)
        self.optimizer = torch.optim.AdamW(given, betas=(0.9, 0.98), fused=True)
        self.factors = [group["lr"] / settings.learning_rate for group in self.optimizer.param_groups]
        self.done, self.rows, state = 0, list[dict[str, Any]](), dict[str, Any]()
        if (folder / CHECKPOINT).is_file():
            words = checkpoint.load(folder / CHECKPOINT, self._networks(), self.optimizer)
            self.done, state = int(words["steps"]), json.loads(words["reader"])
            self.rows = [row for row in pq.read_table(folder / CURVES).to_pylist() if row["step"] <= self.done]
        rows = settings.rows_a_step
        self.windows = corpus.memory or data.Stream(corpus.sound, corpus.device, rows, settings.seed, state)
        self.steps = settings.steps(self.windows.tokens_a_row)

    def run(self, checkpoint_s: float = 60.0, alive: Callable[[], bool] = lambda: True) -> dict[str, Any]:
        """Train to the end and give the result, which is written too.

        A checkpoint is written every `checkpoint_s` seconds. Ends without a result where `alive` says no.
        """
        if (self.folder / RESULT).is_file():
            done: dict[str, Any] = json.loads((self.folder / RESULT).read_text())
            return done
        loss = self.objective.loss
        if self.settings.compile:
            loss = torch.compile(loss)
        begun = kept = time.monotonic()
        measured = {round(self.steps * (n + 1) / self.settings.evaluations) for n in range(self.settings.evaluations)}
        first, found = self.done, None
        with reproducible(1, self.corpus.device):
            while self.done < self.steps:
                self.rows.append(row := self._step(loss))
                found = None
                if self.done in measured:
                    found = self.measure()
                    row |= {"held": found["loss"], "held_by_level": found["by_level"]}
                if not alive():  # the command was killed, and may have been begun again
                    return {}
                if time.monotonic() - kept >= checkpoint_s and self.done < self.steps:
                    self._keep()
                    kept = time.monotonic()
            trained_s = time.monotonic() - begun
            result = self._result(found or self.measure())
        self._end(result, {"steps": self.done - first, "seconds": trained_s})
        return result

    def _step(self, loss: Callable[..., Tensor]) -> dict[str, Any]:
        settings, rate = self.settings, self.settings.rate(self.done, self.steps)
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        context, continuation = self.windows.batch(self.done, settings.rows_a_step, settings.seed)
        random = torch.Generator().manual_seed((settings.seed << 40) + self.done)
        with torch.autocast(self.corpus.device, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            found = loss(context, continuation, random)
        self.optimizer.zero_grad(set_to_none=True)
        found.backward()
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), CLIP)
        self.optimizer.step()
        self.done += 1
        with torch.no_grad():
            share = 1 - (1 - 1 / self.done) ** (EMA_POWER + 1)
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.objective.parameters()), share)
        tokens = self.done * settings.rows_a_step * self.windows.tokens_a_row
        row = {"step": self.done, "tokens": tokens, "learning_rate": rate, "loss": found.detach()}
        return row | {"held": None, "held_by_level": None}

    def seconds_a_step(self, clock: Callable[[], float], steps: int = 4) -> float:
        """What one step takes, the median of a few, all of which are undone by making the trainer anew."""
        took = []
        with reproducible(1, self.corpus.device):
            for _ in range(steps):
                begun = clock()
                float(self._step(self.objective.loss)["loss"])  # waits for the device
                took.append(clock() - begun)
        return sorted(took)[steps // 2 - 1]

    def measure(self) -> dict[str, Any]:
        """Losses of everything that is held out, by the averaged weights."""
        return {
            f"{name}{where}": value
            for where, held in self.corpus.held.items()
            for name, value in evaluated(self.averaged, held).items()
        }

    def _result(self, measured: dict[str, Any]) -> dict[str, Any]:
        settings, shape, windows = self.settings, self.settings.shape, self.windows
        continuation = self.corpus.held[""].continuation.shape[1]
        tokens = self.steps * settings.rows_a_step * windows.tokens_a_row
        losses = {name: value for name, value in measured.items() if not name.startswith("by_level")}
        nats = losses["loss"] / self.corpus.sound.token_s if settings.model == "ar" else None
        return {
            "model": settings.model,
            "seed": settings.seed,
            "params": shape.params,
            "tokens": tokens,
            "flops": 6.0 * shape.params * tokens,
            **losses,
            "nats_per_s": nats,
            "width": shape.width,
            "depth": shape.depth,
            "other_params": sum(one.numel() for one in self.objective.parameters()) - shape.params,
            "steps": self.steps,
            "rows": settings.rows_a_step,
            "continuation_tokens": tokens * continuation // windows.tokens_a_row,
            "epochs": tokens / windows.ledger_tokens,
            "flops_spent": self.steps * self._flops_a_step(),
        }

    def _flops_a_step(self) -> float:
        """Of the products of matrices and the attention that a step has, three times those of its forward pass."""
        from torch.utils.flop_counter import FlopCounterMode

        context, continuation = (one[:1] for one in (self.corpus.held[""].context, self.corpus.held[""].continuation))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.averaged.loss(context, continuation, torch.Generator())
        return 3.0 * counter.get_total_flops() * self.settings.rows_a_step

    def _networks(self) -> dict[str, torch.nn.Module]:
        return {"model": self.objective, "averaged": self.averaged}

    def _keep(self) -> None:
        """Write the curves and, last of all, the checkpoint from which the run goes on."""
        with whole_text(self.folder / SETTINGS) as file:
            file.write(json.dumps(told(self.settings, self.corpus.sound, self.corpus.also), indent=1) + "\n")
        for row in self.rows:
            row["loss"] = float(row["loss"])
        with whole(self.folder / CURVES) as unfinished:
            pq.write_table(pa.Table.from_pylist(self.rows, COLUMNS), unfinished)
        words = {"steps": str(self.done), "reader": json.dumps(self.windows.state())}
        with whole(self.folder / CHECKPOINT) as unfinished:
            checkpoint.save(unfinished, self._networks(), self.optimizer, words)

    def _end(self, result: dict[str, Any], took: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        self._keep()
        with whole(self.folder / WEIGHTS) as unfinished:
            save_file({name: one.contiguous() for name, one in self.averaged.state_dict().items()}, unfinished)
        rate = took["steps"] * result["flops_spent"] / self.steps / max(took["seconds"], 1e-9)
        name = torch.cuda.get_device_name() if self.corpus.device == "cuda" else "cpu"
        peak = next((flops for card, flops in PEAK_FLOPS.items() if card in name), None)
        took |= {"device": name, "flops_a_second": rate, "mfu": rate / peak if peak else None}
        with whole_text(self.folder / "took.json") as file:  # apart: two runs that are equal differ in it
            file.write(json.dumps(took, indent=1) + "\n")
        with whole_text(self.folder / RESULT) as file:
            file.write(json.dumps(result, indent=1) + "\n")
        (self.folder / CHECKPOINT).unlink(missing_ok=True)


def told(settings: Settings, sound: data.Sound, also: str | None) -> dict[str, Any]:
    """All that decides a run, as its folder keeps it."""
    of_data = {"dataset": sound.dataset, "version": sound.version, "encoder": sound.encoder, "also": also}
    return dataclasses.asdict(settings) | of_data


def check_same(folder: Path, now: dict[str, Any]) -> None:
    """SpeechmillError where the run in a folder, done or not, was begun otherwise."""
    if not (folder / SETTINGS).is_file():
        return
    before = json.loads((folder / SETTINGS).read_text())
    if changed := [f"{key} = {before.get(key)!r}" for key in now if before.get(key) != now[key]]:
        what = f"{folder} was trained otherwise: {', '.join(changed)}"
        raise SpeechmillError(what, "give the same settings and data, or name another folder")


def made(corpus: Corpus, settings: Settings) -> Diffusion | ar.Discrete:
    """The network with its loss, its weights drawn by the seed."""
    torch.manual_seed(settings.seed)
    if settings.model == "ar":
        return ar.Discrete(settings.shape, corpus.centres).to(corpus.device)
    objective = Diffusion(settings.shape, corpus.sound.token, settings.predict)
    objective.begin(corpus.components)
    return objective.to(corpus.device)


@torch.no_grad()
def evaluated(objective: Diffusion | ar.Discrete, held: data.Held) -> dict[str, Any]:
    """The loss over held-out windows, `loss_speech` and `loss_other` where turns are known, and `by_level`."""
    parts = []
    for first in range(0, len(held.context), EVALUATED_AT_ONCE):
        part = slice(first, first + EVALUATED_AT_ONCE)
        parts.append(objective.held(held.context[part], held.continuation[part], first).double())
    errors = torch.cat(parts, dim=1)
    found = {"loss": errors.mean().item(), "loss_speech": None, "loss_other": None, "speech_by": held.speech_by}
    if held.speech is not None:
        found["loss_speech"] = errors[:, held.speech].mean().item()
        found["loss_other"] = errors[:, ~held.speech].mean().item()
    return found | {"by_level": errors.mean((1, 2)).tolist()}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process. SpeechmillError where another one is at work in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SpeechmillError(f"another command is at work in {folder}", "wait for it, or end it") from error
        yield
