"""The reference trainer: runs of a plan on drawn features, equal when repeated and when killed, and what they learn."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from documented_json import documented
from synthetic_datasets import add_shards, spread

from manifests.lake import Lake
from pipelines.commands.cli import cli
from runtime.errors import SpeechmillError
from speechmill.reader import Loader, Reader
from studies.slm import ar, data, diffusion, sweep
from studies.slm.model import MMDiT, Shape
from studies.slm.train import COLUMNS, Corpus, Settings, Trainer, evaluated, made

ROOT = Path(__file__).parents[2]
DIM, PATCH = 4, 2
TINY: dict[str, Any] = {"patch": PATCH, "held_windows": 16, "rows": 8, "evaluations": 2}
SET = ["--set", "held_windows=16", "--set", "rows=8", "--patch", str(PATCH)]


def levels(number: int, tracks: int, dim: int) -> np.ndarray:
    """Features that go on as they began: (tracks, 40, dim), noise around levels that the number draws."""
    random = np.random.default_rng(number)
    return (5 + random.normal(0, 1, (tracks, 1, dim)) + random.normal(0, 0.3, (tracks, 40, dim))).astype(np.float16)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Windows of 2 + 2 s, 20 frames each: 60 to train on, some of two tracks, and 16 held out."""
    root = tmp_path_factory.mktemp("slm") / "lake"
    made = Lake.at(str(root))
    numbers = range(0, 6 * 76, 6)  # those of one length

    def shards(first: int, last: int) -> list[list[int]]:
        return [[numbers[first + n] for n in part] for part in spread(last - first, 20)]

    add_shards(made, "levels", shards(0, 60), dim=DIM, tracks=lambda n: 1 + (n % 12 == 0), make=levels)
    add_shards(made, "levels", shards(60, 76), "validation", dim=DIM, make=levels)
    return root


@pytest.fixture(scope="module")
def corpus(lake: Path) -> Corpus:
    return Corpus(str(lake), None, PATCH, "cpu", 16)


def run(*words: str) -> str:
    done = CliRunner().invoke(cli, ["study", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_blocks_have_the_parameters_of_the_plan() -> None:
    for shape in (Shape(16, 3), Shape(24, 1), Shape(16, 2, streams=1)):
        made = ar.Discrete(shape, torch.zeros(5, 8)) if shape.streams == 1 else diffusion.Diffusion(shape, 8)
        assert sum(one.numel() for one in made.network.blocks.parameters()) == shape.params
    assert Shape(256, 2).params == 36 * 256**2 * 2
    assert Shape.of(36 * 40**2 * 2, 2) == Shape(40, 2)
    with pytest.raises(ValueError, match="must be even"):
        Shape(36, 1)


def test_every_row_of_an_epoch_comes_once_and_tokens_are_those_of_the_ledger(corpus: Corpus) -> None:
    memory = corpus.memory
    assert memory is not None
    assert len(memory.context) == 90  # thirty windows have two tracks
    assert memory.ledger_tokens == 90 * 20
    steps = [memory.batch(step, 9, seed=3)[0] for step in range(20)]
    for epoch in (torch.cat(steps[:10]), torch.cat(steps[10:])):
        assert sorted(epoch.flatten(1).tolist()) == sorted(memory.context.flatten(1).tolist())
    assert not torch.equal(torch.cat(steps[:10]), torch.cat(steps[10:]))
    across = memory.batch(0, 100, seed=3)[0]  # into the next epoch
    assert torch.equal(across, torch.cat(steps)[:100])


def test_streamed_windows_are_those_in_memory_and_a_stream_goes_on_where_it_was(corpus: Corpus) -> None:
    memory = corpus.memory
    assert memory is not None
    stream = data.Stream(corpus.sound, "cpu", 6, 1, {})
    assert stream.tokens_a_row == memory.tokens_a_row
    first = [stream.batch(0, 6, 1)[0] for _ in range(10)]
    assert sorted(torch.cat(first).flatten(1).tolist()) == sorted(memory.context.flatten(1).tolist())
    state = json.loads(json.dumps(stream.state()))
    rest = [stream.batch(0, 6, 1)[0] for _ in range(3)]
    again = data.Stream(corpus.sound, "cpu", 6, 1, state)
    for one, other in zip(rest, [again.batch(0, 6, 1)[0] for _ in range(3)], strict=True):
        assert torch.equal(one, other)


def test_features_are_those_of_the_shards_again(corpus: Corpus) -> None:
    memory = corpus.memory
    assert memory is not None
    context = next(iter(Loader(Reader(corpus.sound.source("train"), shuffle=False, rank=0, world_size=1), 5)))[
        "context"
    ]
    raw = context[:, 0].float()
    np.testing.assert_allclose(corpus.sound.features(corpus.sound.normal(raw)), raw.reshape(5, -1, DIM), atol=1e-5)
    everything = torch.cat([memory.context, memory.continuation], 1).reshape(-1, DIM)
    assert everything.std(0, correction=0).tolist() == pytest.approx([1] * DIM, abs=1e-3)


def test_a_held_out_window_is_measured_the_same_in_any_batch(corpus: Corpus) -> None:
    objective = diffusion.Diffusion(Shape(16, 1), DIM * PATCH)
    torch.nn.init.normal_(objective.network.head.weight)
    held = corpus.held[""]
    whole = objective.held(held.context, held.continuation, 0)
    parts = [objective.held(held.context[n : n + 4], held.continuation[n : n + 4], n) for n in range(0, 16, 4)]
    torch.testing.assert_close(whole, torch.cat(parts, 1))
    assert evaluated(objective, held)["loss"] == pytest.approx(whole.double().mean().item(), rel=1e-6)


def test_a_network_begins_at_principal_components(corpus: Corpus) -> None:
    random = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(8, generator=random), dim=0)
    tokens = 3 * torch.randn(4000, 1, generator=random) * direction + 0.1 * torch.randn(4000, 8, generator=random)
    found = diffusion.principal(tokens)
    assert abs(found[0] @ direction).item() == pytest.approx(1 / np.sqrt(9 + 1), rel=0.05)
    assert (found[1:] @ direction).abs().max() < 0.05
    assert found[1:].norm(dim=1).tolist() == pytest.approx([1 / np.sqrt(0.01 + 1)] * 7, rel=0.01)
    for width in (4, 16):  # narrower and wider than a token
        network = made(corpus, Settings(1e9, width, 1, **TINY)).network
        assert isinstance(network, MMDiT)
        for one in (network.context_in, network.noisy_in):
            assert torch.equal(one.weight[:8], corpus.components[:width])


def test_what_is_fitted_before_training_is_fitted_to_the_first_windows(corpus: Corpus) -> None:
    assert corpus.memory is not None
    assert torch.equal(data.first(corpus.sound, 95), corpus.memory.continuation[:10].flatten(0, 1))
    assert torch.equal(corpus.tokens, corpus.memory.continuation.flatten(0, 1))  # it has fewer than are wanted


@pytest.mark.parametrize("predict", ["x", "v"])
def test_the_loss_is_that_of_v_whatever_is_predicted(corpus: Corpus, predict: diffusion.Predict) -> None:
    """A network that has learned nothing guesses that v is 0."""
    continuation = corpus.held[""].continuation
    objective = diffusion.Diffusion(Shape(16, 1), DIM * PATCH, predict)
    noise = torch.randn(continuation.shape, generator=torch.Generator().manual_seed(0))
    for level in diffusion.grid():
        levels = level.expand(len(continuation))
        alpha, sigma = diffusion.scales(levels)
        snr = (alpha / sigma)[0].item() ** 2
        v = alpha * noise - sigma * continuation
        found = objective.errors(corpus.held[""].context, continuation, levels, noise)
        torch.testing.assert_close(found, min(snr, 5) / (snr + 1) * v.square().mean(-1), rtol=1e-3, atol=1e-5)
        assert ((alpha**2 + sigma**2)[0].item(), snr) == pytest.approx((1, np.exp(-2 * level.item())))


def test_speech_is_told_apart_by_turns(corpus: Corpus) -> None:
    held = corpus.held[""]
    assert held.speech is not None
    # The turn goes from 0.5 to 3 s; the continuation begins at 2 s, and a token has 0.2 s.
    assert held.speech.tolist() == [[True] * 5 + [False] * 5] * 16
    found = evaluated(diffusion.Diffusion(Shape(16, 1), DIM * PATCH), held)
    assert found["loss"] == pytest.approx((found["loss_speech"] + found["loss_other"]) / 2)


def test_a_run_learns_and_what_it_gives_goes_on_like_its_context(corpus: Corpus, tmp_path: Path) -> None:
    settings = Settings(2e9, 16, 1, **TINY | {"rows": 16})
    nothing = evaluated(diffusion.Diffusion(settings.shape, DIM * PATCH), corpus.held[""])["loss"]
    trainer = Trainer(corpus, settings, tmp_path / "run")
    result = trainer.run()
    assert result["loss"] < 0.85 * nothing
    assert result["flops"] == pytest.approx(2e9, rel=0.01)
    assert result["tokens"] == result["steps"] * 16 * 20
    rows = [row for row in trainer.rows if row["held"] is not None]
    assert len(rows) == 2
    assert rows[-1]["held"] == result["loss"] < rows[0]["held"]
    assert len(rows[-1]["held_by_level"]) == diffusion.GRID
    assert all(b"description" in field.metadata for field in COLUMNS)
    held, random = corpus.held[""], torch.Generator().manual_seed(0)
    given = trainer.averaged.sample(held.context, 10, random, 16, 1.0)
    off = (given - held.continuation).square().mean().item()
    other = (given - held.continuation.roll(1, 0)).square().mean().item()
    assert off < 0.5 * other  # of its own context, not of another one


def test_the_discrete_rival_learns_by_the_same_harness(corpus: Corpus, tmp_path: Path) -> None:
    corpus.__dict__["centres"] = ar.codebook(corpus.memory.continuation.flatten(0, 1), 16)  # type: ignore[union-attr]
    trainer = Trainer(corpus, Settings(1e9, 32, 1, model="ar", **TINY, learning_rate=0.02), tmp_path / "run")
    result = trainer.run()
    assert result["loss"] < 0.9 * np.log(16)
    assert result["nats_per_s"] == pytest.approx(result["loss"] / 0.2)
    given = trainer.averaged.sample(corpus.held[""].context, 10, torch.Generator(), 1, 1.0)
    assert {tuple(one) for one in given.flatten(0, 1).tolist()} <= {tuple(one) for one in corpus.centres.tolist()}


PLAN = "flops,depth,width,params\n2e9,,,2e3\n2e9,,,7e3\n4e9,1,14.2,\n"


def test_a_sweep_twice_gives_equal_tables_that_a_fit_reads(lake: Path, tmp_path: Path) -> None:
    from studies.laws import runs

    (tmp_path / "plan.csv").write_text(PLAN)
    words = ["sweep", str(tmp_path / "plan.csv"), str(lake), "--seeds", "2", "--depth", "1", *SET, "--set", "rows=128"]
    tables = []
    for name in ("one", "other"):
        told = run(*words, "-o", str(tmp_path / name))
        assert re.match(r"expected: [\d,]+ s of computing, [\d.,]+ min\n", told)
        tables.append((tmp_path / name / "runs.csv").read_bytes())
    assert tables[0] == tables[1]
    with (tmp_path / "one/runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["width"], row["seed"]) for row in rows] == [(w, s) for w in ("8", "14") for s in "01"] + [
        ("14", "0"), ("14", "1"),
    ]  # fmt: skip
    table = runs.read(tmp_path / "one/runs.csv", runs.Columns())
    assert table.columns == {"params": "params", "tokens": "tokens", "loss": "loss", "flops": "flops"}
    assert table.groups[""].evaluations.tolist() == [2, 2, 2]  # two seeds of each point
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one/runs").rglob("*")}
    assert "expected: " not in run(*words, "-o", str(tmp_path / "one"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one/runs").rglob("*")} == before
    with pytest.raises(SpeechmillError, match=r"trained otherwise: learning_rate = 0\.008"):
        run(*words, "-o", str(tmp_path / "one"), "--set", "learning_rate=0.1")  # also where all is done


def test_killed_and_continued_a_run_is_as_if_undisturbed(lake: Path, tmp_path: Path) -> None:
    words = ["study", "train", str(lake), "--flops", "2e8", "--params", "2304", "--depth", "1", *SET]
    code = (
        "import sys; from studies.slm import train; from pipelines.commands.cli import cli; "
        "train.Trainer.run.__defaults__ = (0.0, *train.Trainer.run.__defaults__[1:]); cli(sys.argv[1:])"
    )  # with a checkpoint after each step
    killed = tmp_path / "killed"
    first = subprocess.Popen([sys.executable, "-c", code, *words, "-o", str(killed)], cwd=ROOT, stdout=subprocess.PIPE)
    while first.poll() is None and not (killed / "checkpoint.safetensors").is_file():
        time.sleep(0.002)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL, "it ended before it could be killed"
    told = run(*words[1:], "-o", str(killed))
    assert "goes on after step" in told
    run(*words[1:], "-o", str(tmp_path / "whole"))
    for name in ("result.json", "model.safetensors", "curves.parquet"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (killed / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_a_sweep_by_two_processes_that_is_killed_gives_the_table_of_one(lake: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.csv"
    plan.write_text("flops,depth,width,params\n" + "".join(f"{c}e9,1,{w},\n" for c in (1, 2) for w in (8, 12, 16)))
    words = ["study", "sweep", str(plan), str(lake), *SET, "--set", "rows=64"]
    command = [sys.executable, "-m", "pipelines.commands", *words, "--workers", "2", "-o", str(tmp_path / "killed")]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while first.poll() is None and not (tmp_path / "killed/runs.csv").is_file():
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL, "it ended before it could be killed"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run(*words[1:], "-o", str(tmp_path / "one"))
    assert (tmp_path / "killed/runs.csv").read_bytes() == (tmp_path / "one/runs.csv").read_bytes()


def test_products_in_bfloat16_give_nearly_the_same(corpus: Corpus, tmp_path: Path) -> None:
    exact, rough = (
        Trainer(corpus, Settings(1e9, 16, 1, **TINY, precision=precision), tmp_path / precision).run()["loss"]
        for precision in ("float32", "bfloat16")
    )
    assert exact != rough
    assert rough == pytest.approx(exact, rel=0.05)


@pytest.mark.slow
def test_a_model_of_real_speech_is_heard(tmp_path: Path) -> None:
    """From recordings to sound that was generated, by commands alone."""
    import soundfile
    from small_runs import make_input, run_words

    make_input(tmp_path, 6)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[encode]", "splits = { train = 0.5, validation = 0.5 }\n[encode]"))
    root, out = str(tmp_path / "lake"), tmp_path / "said"
    done = CliRunner().invoke(cli, run_words(tmp_path, Path(root)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    model = str(tmp_path / "model")
    run("train", root, "-o", model, "--flops", "1e9", "--params", "9216", "--depth", "1", "--set", "held_windows=4")
    words = ["generate", model, root, "-o", str(out), "--clips", "2", "--steps", "4", "--vocoder", "griffin-lim"]
    told = json.loads(run(*words, "--json"))
    assert set(told) == documented()["study generate"]
    assert (told["clips"], told["seconds_each"]) == (2, 6.0)
    for name, seconds in (("generated", 6), ("real", 6), ("heard", 8)):
        for path in sorted((out / name).iterdir()):
            sound, rate = soundfile.read(path)
            assert (len(sound) / rate, len(list((out / name).iterdir()))) == (seconds, 2)
            assert np.abs(sound).max() > 1e-3
    first = (out / "generated/00000.wav").read_bytes()
    run(*words)
    assert (out / "generated/00000.wav").read_bytes() == first


def test_what_is_printed_is_documented(lake: Path, tmp_path: Path) -> None:
    words = [str(lake), *SET, "--set", "rows=128", "--depth", "1"]
    told = json.loads(run("train", *words, "--flops", "2e9", "--params", "7056", "-o", str(tmp_path / "a"), "--json"))
    assert set(told) == documented()["study train"]
    (tmp_path / "plan.csv").write_text(PLAN)
    swept = json.loads(run("sweep", str(tmp_path / "plan.csv"), *words, "-o", str(tmp_path / "b"), "--json"))
    assert swept["runs"][1] == {"run": "diffusion-2e09-14x1-0", **told}  # the same run


def test_the_lines_of_the_page_are_commands_that_there_are() -> None:
    from bench.study_slm import blocks

    text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", "".join(blocks()).replace("\\\n", " "))
    lines = [shlex.split(line) for line in text.splitlines() if line.strip().startswith("speechmill ")]
    assert [line[1] for line in lines] == ["simulate", "run", *["study"] * 5]
    for words in lines:
        command, context = cli, None
        while isinstance(command, click.Group):
            words = words[1:]
            command = command.commands[words[0]]
        context = click.Context(command)
        named = {name for parameter in command.get_params(context) for name in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= named, words


def test_two_commands_cannot_work_in_one_folder(tmp_path: Path) -> None:
    from studies.slm.train import locked

    with locked(tmp_path), pytest.raises(SpeechmillError, match="another command is at work"), locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "KeyError"),
        ("flops,params,width,depth\n", "has no runs"),
        ("flops,params,width,depth\nx,1,,\n", "ValueError"),
    ],
)
def test_other_tables_are_no_plans(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.csv").write_text(text)
    with pytest.raises(SpeechmillError, match=message):
        sweep.cells(tmp_path / "plan.csv")


def test_mistakes_are_told(lake: Path, tmp_path: Path) -> None:
    words = ["study", "train", "--flops", "1e9", "--params", "2e3", "-o", str(tmp_path / "run")]
    for more, message in [
        ([str(lake), "--set", "learning=1"], "no setting 'learning'"),
        ([str(lake), "--set", "rows=x"], "--set rows=x"),
        ([str(lake), "--set", "rows=0"], "rows must be at least 1"),
        ([str(lake), "--set", "compile=yes"], "neither true nor false"),
        ([str(lake), "--set", "predict=z"], "predict is x or v"),
        ([str(tmp_path / "nowhere")], "no dataset in"),
        ([str(lake), "--also", str(lake)], "no windows of the splits test"),
    ]:
        done = CliRunner().invoke(cli, [*words, *more])
        assert isinstance(done.exception, SpeechmillError), done.output
        assert message in f"{done.exception} {done.exception.remedy}"
