"""Several encoders in one pass over the sound: each dataset is what it would be alone."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import lhotse
import numpy as np
import pytest
import soundfile
import webdataset
import wids
from forked import speechmill
from small_runs import conversation as sample
from test_growth import RECIPE, Sound
from test_growth import mill_all as mill

import encoders.logmel
from manifests.lake import Lake
from manifests.verify import verify
from pipelines import encode
from pipelines.audio.resample import resampled
from pipelines.audio.sound import TrackStream
from pipelines.encoding.cutting import SharedIterator
from pipelines.recipes import recipe as recipes
from pipelines.units.background import Emit, run_in_background
from runtime.errors import RecipeError

PAPER: dict[str, Any] = {"encoder": "logmel"}
NARROW: dict[str, Any] = {
    "encoder": "logmel", "sample_rate": 16000, "n_fft": 1024, "window_samples": 800, "hop_samples": 200, "num_mels": 40,
}  # fmt: skip
CD: dict[str, Any] = {
    "encoder": "logmel", "sample_rate": 44100, "n_fft": 4096, "window_samples": 2048, "hop_samples": 2048,
    "num_mels": 64, "on_grid": False,
}  # fmt: skip


def of(*names: str) -> dict[str, Any]:
    tables = {"paper": PAPER, "narrow": NARROW, "cd": CD}
    return RECIPE | {"encode": {"shard_mb": 0.3, **{name: tables[name] for name in names}}}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings of one track, and a telephone call with a speaker on each of two channels."""
    sound = Sound(tmp_path_factory.mktemp("several") / "in")
    sound.add(4)
    speech, rate = sample()
    soundfile.write(sound.folder / "call.wav", np.stack([speech, np.roll(speech[::-1], 5 * rate)], 1), rate)
    return sound.folder


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts of recordings decoded for encoding, and of windows given to each encoder, by its rate."""
    counted: Counter[str] = Counter()
    encode_windows, init = encoders.logmel.LogMel.encode, TrackStream.__init__

    def encoding(self: Any, windows: Any) -> Any:
        counted[f"windows at {self.sample_rate}"] += len(windows)
        return encode_windows(self, windows)

    def decoding(self: Any, *given: Any) -> None:
        counted["decoded"] += 1
        init(self, *given)

    monkeypatch.setattr(encoders.logmel.LogMel, "encode", encoding)
    monkeypatch.setattr(TrackStream, "__init__", decoding)
    return counted


def shards(root: Path, dataset: str) -> dict[str, bytes]:
    """What a dataset holds but for what is said of its recipe."""
    folder = root / "datasets" / dataset
    said = ("recipe.json", "plan.json", "README.md", "croissant.json", "version.json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in said
    }


def test_each_dataset_of_a_pass_is_the_one_that_its_encoder_makes_alone(
    sound: Path, tmp_path: Path, work: Counter[str]
) -> None:
    made = mill(tmp_path / "both", sound, of("paper", "narrow", "cd"))
    assert [one.dataset for one in made] == ["cheap-paper", "cheap-narrow", "cheap-cd"]
    assert work["decoded"] == 5
    windows = work["windows at 24000"]
    assert windows == work["windows at 16000"] == work["windows at 44100"] == made[0].version.windows
    for name in ("paper", "narrow", "cd"):
        # The widest encoder, that of the paper, decides how much a shard holds.
        (alone,) = mill(tmp_path / name, sound, of(name) | {"encode": {**of(name)["encode"], "shard_mb": share(name)}})
        assert alone.version.windows == windows
        found, expected = shards(tmp_path / "both", f"cheap-{name}"), shards(tmp_path / name, f"cheap-{name}")
        # A commit names the plan, and with it `shard_mb`.
        for held in (found, expected):
            for key in [key for key in held if key.startswith(("commits/", "versions/", "stats"))]:
                del held[key]
        assert found == expected
        assert not [problem for problem in verify(Lake.at(str(tmp_path / "both")), f"cheap-{name}") if not problem.note]


def share(name: str) -> float:
    bytes_per_s = {one: recipes.parse(of(one)).encode.bytes_per_s for one in ("paper", name)}
    return 0.3 * bytes_per_s[name] / bytes_per_s["paper"]


def test_an_encoder_that_is_added_later_is_the_only_one_to_encode(
    sound: Path, tmp_path: Path, work: Counter[str]
) -> None:
    root = tmp_path / "lake"
    mill(root, sound, of("paper"))
    before = shards(root, "cheap-paper")
    work.clear()
    mill(root, None, of("paper", "narrow"))
    assert work["windows at 24000"] == 0 < work["windows at 16000"]
    assert work["decoded"] == 5
    assert shards(root, "cheap-paper") == before
    work.clear()
    mill(root, None, of("paper", "narrow"))
    assert not work


def test_one_that_was_killed_between_two_commits_is_finished_to_the_same_bytes(
    sound: Path, tmp_path: Path, work: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mill(tmp_path / "whole", sound, of("paper", "narrow"))
    root, commit = tmp_path / "killed", encode.ShardEncoder._commit

    def killed(self: Any, dataset: str, *given: Any) -> None:
        if dataset == "cheap-narrow":
            raise KeyboardInterrupt
        commit(self, dataset, *given)

    with monkeypatch.context() as patch:
        patch.setattr(encode.ShardEncoder, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            mill(root, sound, of("paper", "narrow"))
    work.clear()
    mill(root, None, of("paper", "narrow"))
    assert 0 < work["windows at 24000"] < work["windows at 16000"]
    for name in ("cheap-paper", "cheap-narrow"):
        assert shards(root, name) == shards(tmp_path / "whole", name)


def test_a_window_that_one_encoder_cannot_make_is_made_by_the_other(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_one = encoders.logmel.LogMel._encode_one

    def failing(self: Any, window: Any) -> np.ndarray:
        features = encode_one(self, window)
        return features * 1e9 if self.sample_rate == 16000 and window.before == 0 else features

    monkeypatch.setattr(encoders.logmel.LogMel, "_encode_one", failing)
    paper, narrow = mill(tmp_path / "lake", sound, of("paper", "narrow"))
    assert 0 < narrow.version.windows < paper.version.windows
    rows = Lake.at(str(tmp_path / "lake")).read("datasets/cheap-narrow/windows/train-000000.parquet").to_pylist()
    assert any("float16" in row["error"] for row in rows if row["status"] == "failed")


def test_windows_are_encoded_many_at_a_time_over_recordings_to_the_same_bytes(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RECIPE | {"encode": {"shard_mb": 5.0, "paper": PAPER}}
    mill(tmp_path / "one", sound, settings)
    sizes = []
    encode_windows = encoders.logmel.LogMel.encode

    def counting(self: Any, windows: Any) -> Any:
        sizes.append(len(windows))
        return encode_windows(self, windows)

    monkeypatch.setattr(encoders.logmel.LogMel, "encode", counting)
    monkeypatch.setattr(encoders.logmel.LogMel, "batch", 7)
    mill(tmp_path / "many", sound, settings)
    assert max(sizes) == 7
    assert shards(tmp_path / "many", "cheap-paper") == shards(tmp_path / "one", "cheap-paper")


def test_every_folder_of_every_dataset_opens_in_four_readers(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    mill(tmp_path / "lake", sound, of("paper", "narrow"))
    for dataset, dim in (("cheap-paper", 80), ("cheap-narrow", 40)):
        root = tmp_path / "lake/datasets" / dataset
        folders = sorted({path.parent for path in root.glob("*/latents.*.tar")})
        assert any(folder.name.endswith(".2tracks") for folder in folders)
        for folder in folders:
            tracks = 2 if folder.name.endswith(".2tracks") else 1
            cuts = list(lhotse.CutSet.from_shar(in_dir=str(folder)))
            shapes = {cut.id: cut.load_latents().shape for cut in cuts}
            assert {shape[-1] for shape in shapes.values()} == {dim}
            assert {len(shape) for shape in shapes.values()} == {2 if tracks == 1 else 3}
            tars = sorted(map(str, folder.glob("*.tar")))
            read = webdataset.WebDataset(tars, shardshuffle=False).decode()
            assert {sample["__key__"]: sample["npy"].shape for sample in read} == shapes
            for streaming in (True, False):
                rows = datasets.load_dataset(
                    "webdataset", data_files=tars, split="train", streaming=streaming, cache_dir=str(tmp_path / "hf")
                )
                assert {row["__key__"]: np.asarray(row["npy"]).shape for row in rows} == shapes
            listed = [{"url": tar, "nsamples": _count(tar)} for tar in tars]
            index = wids.ShardListDataset(listed, cache_dir=str(tmp_path / "wids" / dataset / folder.name))
            assert len(index) == len(shapes)
            assert index[0][".npy"].shape == shapes[index[0]["__key__"]]


def _count(tar: str) -> int:
    return sum(1 for _ in webdataset.WebDataset([tar], shardshuffle=False))


def test_frames_off_the_grid_are_the_nearest_ones(sound: Path, tmp_path: Path) -> None:
    mill(tmp_path / "lake", sound, of("cd"))
    encoder, off_s = recipes.parse(of("cd")).encode.load(), []
    for cut in lhotse.CutSet.from_shar(in_dir=str(tmp_path / "lake/datasets/cheap-cd/train")):
        samples, rate = soundfile.read(cut.recording.sources[0].source, dtype="float32")
        whole = np.concatenate(list(resampled([samples[None]], rate, 44100)), axis=1)
        first = round(cut.start * 44100 / 2048)
        off_s.append(abs(first * 2048 / 44100 - cut.start))
        (expected,) = encoder.encode([encoder.cut(whole, first, int(8 * 44100 / 2048))])
        np.testing.assert_array_equal(cut.load_latents(), expected[0].astype(np.float16))
    assert 1e-3 < max(off_s) <= 1024 / 44100


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ({"encoder": "logmel", "other": {"encoder": "logmel"}}, "encode.encoder and tables of encoders"),
        ({"logmel": {}, "mel": {}}, "unknown encoder 'mel'"),
        ({"logmel": {"hop": 3}}, "has no setting 'hop'"),
        ({"log/mel": {"encoder": "logmel"}}, "'log/mel'"),
        ({"logmel": {}, "cd": CD | {"on_grid": True}}, "between two frames"),
        ({"logmel": {}, "shard": 3}, "unknown key 'shard' in encode$"),
    ],
)
def test_tables_of_encoders_that_make_no_sense_are_refused(table: dict[str, Any], error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        recipes.parse(RECIPE | {"encode": table})


def test_an_error_of_decoding_is_met_by_every_encoder_where_it_lies() -> None:
    speech, _ = sample()

    def broken() -> Any:
        yield from (speech[None, :1000], speech[None, 1000:2000])
        raise ValueError("cut off")

    shared = SharedIterator(broken(), 2)
    readers = [shared.reader(number) for number in range(2)]
    for reader in readers:
        assert [next(reader).shape, next(reader).shape] == [(1, 1000), (1, 1000)]
        with pytest.raises(ValueError, match="cut off"):
            next(reader)


def test_windows_that_are_decoded_in_a_thread_ahead_of_a_gpu_make_the_same_bytes(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = of("paper", "narrow")
    mill(tmp_path / "one", sound, settings)
    monkeypatch.setattr(encode, "AHEAD_WINDOWS", 2)
    monkeypatch.setattr(encoders.logmel.LogMel, "setup", lambda self: setattr(self, "device", "cuda"))
    monkeypatch.setattr(encoders.logmel.LogMel, "batch", 5)
    threads: set[str] = set()
    cut_windows = encode.cut_windows

    def cutting(*given: Any) -> Any:
        threads.add(threading.current_thread().name)
        return cut_windows(*given)

    monkeypatch.setattr(encode, "cut_windows", cutting)
    mill(tmp_path / "ahead", sound, settings)
    assert threads == {"background"}
    for name in ("cheap-paper", "cheap-narrow"):
        assert shards(tmp_path / "ahead", name) == shards(tmp_path / "one", name)


def test_what_is_emitted_beside_keeps_its_order_and_errors_come_back() -> None:
    told: list[int] = []

    def work(emit: Emit) -> None:
        for number in range(100):
            emit(told.append, number)
        raise ValueError("the end")

    with pytest.raises(ValueError, match="the end"):
        run_in_background(work, 3)
    assert told == list(range(100))

    def refuse(number: int) -> None:
        if number == 5:
            raise KeyError(number)

    def endless(emit: Emit) -> None:
        for number in itertools.count():
            emit(refuse, number)

    with pytest.raises(KeyError):
        run_in_background(endless, 3)
    assert "background" not in {thread.name for thread in threading.enumerate()}


def test_the_ledgers_of_all_datasets_of_a_recipe_are_shown_and_recounted(tmp_path: Path, conversation: Path) -> None:
    recipe, lake = tmp_path / "recipe.toml", str(tmp_path / "lake")
    recipe.write_text(
        'name = "both"\n[annotate.vad]\n[select]\ncontext_s = 2.0\ncontinuation_s = 6.0\n[encode.logmel]\n'
        '[encode.narrow]\nencoder = "logmel"\nnum_mels = 40\n'
    )
    done = speechmill("run", str(recipe), "--in", str(conversation), "--lake", lake)
    assert done.returncode == 0, done.stderr

    def tokens(command: str, *words: str) -> tuple[dict[str, Any], str]:
        done = speechmill("tokens", command, str(recipe), "--lake", lake, "--json", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    told, errors = tokens("show")
    assert [one["dataset"] for one in told["datasets"]] == ["both-logmel", "both-narrow"]
    assert all(one["ledger"] for one in told["datasets"])
    assert errors == ""
    (one,) = tokens("show", "--dataset", "both-narrow")[0]["datasets"]
    assert one == told["datasets"][1]
    assert tokens("verify")[0]["verified"] == ["both-logmel", "both-narrow"]
    shown = speechmill("tokens", "show", str(recipe), "--lake", lake).stdout
    assert shown.index("datasets/both-logmel:") < shown.index("datasets/both-narrow:")

    with recipe.open("a") as file:
        file.write('[encode.later]\nencoder = "logmel"\nnum_mels = 20\n')
    told, errors = tokens("show")
    assert len(told["datasets"]) == 2
    assert "no dataset both-later yet" in errors
