"""A dataset that grows: nothing is encoded twice, and what it holds is what one made at once would hold."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import soundfile
from click.testing import CliRunner
from lhotse import CutSet
from small_runs import conversation

import encoders.logmel
from manifests.amend import drop_recordings, finish_replacing
from manifests.choice import choose
from manifests.exchange.validate import validate
from manifests.fingerprint import pretty
from manifests.lake import Lake
from manifests.report.tokens import Tokens
from manifests.select import select
from manifests.shards import ShardCommit
from manifests.storage.local import LocalStorage, owner
from manifests.verify import verify
from manifests.versions import fields, in_fair_order, versions
from manifests.views import open_views
from pipelines.commands.cli import cli
from pipelines.encode import ShardEncoder
from pipelines.progress.watch import Watch
from pipelines.recipes import recipe as recipes
from pipelines.run import Encoded, Run
from runtime.errors import SpeechmillError

RECIPE: dict[str, Any] = {
    "name": "cheap",
    "ingest": {"batch_hours": 0.02, "source": "here", "licence": "CC BY 4.0"},
    "annotate": {"vad": {}},
    "select": {"context_s": 2.0, "continuation_s": 6.0, "splits": {"train": 0.7, "valid": 0.3}},
    "encode": {"shard_mb": 0.3},
}


def changed(**tables: dict[str, Any]) -> dict[str, Any]:
    """The recipe with other values in some of its tables."""
    return {key: value | tables.get(key, {}) if isinstance(value, dict) else value for key, value in RECIPE.items()}


def mill_all(root: Path, sound: Path | None, settings: dict[str, Any]) -> list[Encoded]:
    """`speechmill run`, or without sound `select` and `encode`."""
    recipe = recipes.parse(settings)
    lake = Lake.at(str(root))
    with Watch(lake.storage, "speechmill run", recipe.resolved, True) as watch:
        run = Run(recipe, lake, watch)
        if sound is not None:
            run.ingest([str(sound)])
            for _ in run.annotate():
                pass
        run.select()
        return run.encode()


def mill(root: Path, sound: Path | None, settings: dict[str, Any] = RECIPE) -> Encoded:
    """The same with a recipe of one encoder."""
    (made,) = mill_all(root, sound, settings)
    return made


class Sound:
    """A folder of recordings, each of other samples."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.speech, self.rate = conversation()
        folder.mkdir()

    def add(self, count: int) -> None:
        for number in range(self.count, self.count + count):
            rolled = np.roll(self.speech, number * self.rate // 7)
            soundfile.write(self.folder / f"{number:03d}.wav", rolled, self.rate)
        self.count += count


@pytest.fixture
def sound(tmp_path: Path) -> Sound:
    return Sound(tmp_path / "in")


@pytest.fixture
def encoded_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of every window that the encoder is given."""
    seen: list[float] = []
    encode = encoders.logmel.LogMel.encode

    def counted(self: Any, windows: Any) -> Any:
        seen.extend(window.frames / self.frame_rate for window in windows)
        return encode(self, windows)

    monkeypatch.setattr(encoders.logmel.LogMel, "encode", counted)
    return seen


def held(root: Path, dataset: str = "cheap") -> dict[str, bytes]:
    """The bytes of the features of every window of the newest version, as plain tar readers find them."""
    found: dict[str, bytes] = {}
    folder = root / "datasets" / dataset
    for tar in sorted(folder.glob("*/latents.*.tar")):
        with tarfile.open(tar) as archive:
            for member in archive:
                content = archive.extractfile(member)
                assert content is not None
                assert member.name not in found
                found[member.name] = content.read()
    return found


def ledger_of(root: Path, dataset: str = "cheap", folder: str = "") -> list[dict[str, Any]]:
    return pq.read_table(root / "datasets" / dataset / folder / "ledger.parquet").to_pylist()


def statistics_of(root: Path, dataset: str = "cheap") -> dict[str, list[float]]:
    stored = safetensors.numpy.load((root / "datasets" / dataset / "stats.safetensors").read_bytes())
    return {name: array.tolist() for name, array in stored.items()}


def test_a_dataset_that_grew_holds_what_one_made_at_once_holds(
    tmp_path: Path, sound: Sound, encoded_s: list[float]
) -> None:
    grown, once = tmp_path / "grown", tmp_path / "once"
    shards: dict[str, bytes] = {}
    for step, more in enumerate((5, 2, 1), 1):
        sound.add(more)
        encoded_s.clear()
        made = mill(grown, sound.folder)
        assert (made.version.version, made.versions_before) == (step, step - 1)
        assert len(encoded_s) == 3 * more  # what is new, and nothing else
        files = {str(path): path.read_bytes() for path in sorted(grown.glob("datasets/cheap/*/*.tar"))}
        assert {name: files[name] for name in shards} == shards  # older shards are as they were
        shards = files
    mill(once, sound.folder)
    assert held(grown) == held(once)
    assert ledger_of(grown) == ledger_of(once)
    assert statistics_of(grown) == statistics_of(once)
    lake = Lake.at(str(grown))
    assert verify(lake, "cheap") == []
    assert validate(lake, deep=True) == []
    history = versions(lake, "cheap")
    for version in history:  # each stays exact and readable
        folder = f"versions/{version.version:06d}"
        rows = [row for row in ledger_of(grown, folder=folder) if row["patch"] == 1]
        assert sum(row["windows"] for row in rows) == version.windows == 3 * (5, 7, 8)[version.version - 1]
        listed = lake.read_json(f"datasets/cheap/{folder}/fields.json")
        assert {split: len(of["cuts"]) for split, of in listed.items()} == version.shards
        prefix = f"{grown}/datasets/cheap/"
        cuts = [
            cut
            for of in listed.values()
            for cut in CutSet.from_shar(fields={name: [prefix + path for path in of[name]] for name in of})
        ]
        assert len(cuts) == version.windows
        assert f"This is version {version.version}." in lake.storage.read(f"datasets/cheap/{folder}/README.md").decode()
    assert lake.read_json("datasets/cheap/fields.json") == fields([version.shards for version in history])


def test_nothing_is_done_where_nothing_is_new(tmp_path: Path, sound: Sound, encoded_s: list[float]) -> None:
    sound.add(3)
    root = tmp_path / "lake"
    first = mill(root, sound.folder)
    files = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and "runs" not in path.parts}
    encoded_s.clear()
    again = mill(root, sound.folder)
    assert (again.version, again.versions_before, encoded_s) == (first.version, 1, [])
    assert {
        path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and "runs" not in path.parts
    } == files


def test_statistics_are_those_of_train_and_of_each_split(tmp_path: Path, sound: Sound) -> None:
    sound.add(6)
    root = tmp_path / "lake"
    mill(root, sound.folder)
    stored = statistics_of(root)
    for split, prefixes in (("train", ("", "train.")), ("valid", ("valid.",))):
        arrays = []
        for tar in sorted((root / "datasets/cheap" / split).glob("*.tar")):
            with tarfile.open(tar) as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    if member.name.endswith(".npy") and content is not None:
                        arrays.append(np.load(io.BytesIO(content.read())).astype(np.float64))
        frames = np.concatenate(arrays)
        for prefix in prefixes:
            assert stored[f"{prefix}count"] == [len(frames)]
            np.testing.assert_allclose(stored[f"{prefix}mean"], frames.mean(0), rtol=1e-12)
            np.testing.assert_allclose(stored[f"{prefix}variance"], frames.var(0), rtol=1e-9)
    assert "those of the split `train`;" in (root / "datasets/cheap/README.md").read_text()


@pytest.mark.parametrize(
    "tables",
    [
        {"select": {"windows": {"speech": "speech_share > 0.7"}}},  # a changed threshold
        {"encode": {"seed": 1}},  # another order of the shards
        {"encode": {"shard_mb": 0.9}},
        {"annotate": {"vad": {"threshold": 0.6}}},  # a stage that is measured again
        {"select": {"context_s": 3.0, "continuation_s": 5.0}},  # the same windows, divided otherwise
    ],
)
def test_a_changed_recipe_makes_another_dataset_of_the_features_that_are_there(
    tmp_path: Path, sound: Sound, encoded_s: list[float], tables: dict[str, Any]
) -> None:
    sound.add(5)
    root, once = tmp_path / "lake", tmp_path / "once"
    mill(root, sound.folder)
    before = {path: path.read_bytes() for path in (root / "datasets/cheap").rglob("*") if path.is_file()}
    encoded_s.clear()
    made = mill(root, sound.folder, changed(**tables))
    assert (made.dataset, made.version.version, encoded_s) == ("cheap-2", 1, [])
    assert {path: path.read_bytes() for path in (root / "datasets/cheap").rglob("*") if path.is_file()} == before
    mill(once, sound.folder, changed(**tables))
    made_at_once = {path.name: path.read_bytes() for path in (once / "datasets/cheap").rglob("*.*") if path.is_file()}
    copied = {path.name: path.read_bytes() for path in (root / "datasets/cheap-2").rglob("*.*") if path.is_file()}
    assert {name for name in copied if copied[name] != made_at_once[name]} <= {"README.md", "croissant.json"}
    assert verify(Lake.at(str(root)), "cheap-2") == []
    encoded_s.clear()
    assert mill(root, sound.folder).dataset == "cheap"  # back again: it is still there
    assert encoded_s == []


def test_other_windows_and_another_encoder_are_encoded(tmp_path: Path, sound: Sound, encoded_s: list[float]) -> None:
    sound.add(3)
    root = tmp_path / "lake"
    mill(root, sound.folder)
    for number, tables in enumerate(({"select": {"continuation_s": 8.0}}, {"encode": {"settings": {"num_mels": 40}}})):
        encoded_s.clear()
        assert mill(root, sound.folder, changed(**tables)).dataset == f"cheap-{number + 2}"
        assert len(encoded_s) == 3 * 3
    # Windows that overlap those of before: every other one is there already.
    encoded_s.clear()
    assert mill(root, sound.folder, changed(select={"stride_s": 4.0})).dataset == "cheap-4"
    assert Counter(encoded_s) == {8.0: 3 * 3}
    for dataset in ("cheap-2", "cheap-3", "cheap-4"):
        assert verify(Lake.at(str(root)), dataset) == []


def test_a_plan_that_was_interrupted_is_followed_to_the_same_bytes(tmp_path: Path, sound: Sound) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    sound.add(4)
    for root in (calm, killed):
        mill(root, sound.folder)
    sound.add(5)
    for root in (calm, killed):
        mill(root, sound.folder)
    lake = Lake.at(str(killed))
    first, second = versions(lake, "cheap")
    # As a kill during the second version leaves it: some shards without a record, and no version.
    numbers = {split: range(first.shards.get(split, 0), count) for split, count in second.shards.items()}
    for split, of_split in numbers.items():
        for number in list(of_split)[::2]:
            lake.storage.delete(f"datasets/cheap/commits/{split}/{number:06d}.json")
    lake.storage.delete("datasets/cheap/versions/000002/version.json")
    mill(killed, None)
    files = {
        root: {str(path.relative_to(root)): path.read_bytes() for path in root.glob("datasets/**/*") if path.is_file()}
        for root in (calm, killed)
    }
    assert files[calm] == files[killed]


def test_sound_that_came_after_a_kill_is_added_and_nothing_is_encoded_twice(
    tmp_path: Path, sound: Sound, encoded_s: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, once = tmp_path / "lake", tmp_path / "once"
    sound.add(6)
    encode = ShardEncoder.encode
    calls: list[str] = []

    def stopping(self: ShardEncoder, shard: Any, *rest: Any) -> Any:
        calls.append(shard.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, shard, *rest)

    monkeypatch.setattr(ShardEncoder, "encode", stopping)
    with pytest.raises(KeyboardInterrupt):
        mill(root, sound.folder)
    monkeypatch.setattr(ShardEncoder, "encode", encode)
    sound.add(3)
    made = mill(root, sound.folder)
    assert (made.version.version, len(encoded_s)) == (1, 3 * 9)
    mill(once, sound.folder)
    assert held(root) == held(once)
    lake = Lake.at(str(root))
    assert verify(lake, "cheap") == []
    assert {split: set(range(count)) for split, count in made.version.shards.items()} == {
        split: {int(path.stem) for path in (root / "datasets/cheap/commits" / split).iterdir()}
        for split in made.version.shards
    }


def test_a_run_that_follows_another_plan_waits_for_one_that_lives(tmp_path: Path, sound: Sound) -> None:
    root = tmp_path / "lake"
    sound.add(2)
    mill(root, sound.folder)
    lake = Lake.at(str(root))
    record = {"owner": owner(), "base": {}, "new": "another"}
    lake.storage.put("runs/encoding/cheap.json", pretty(record).encode())
    sound.add(1)
    with pytest.raises(SpeechmillError, match="may still be encoding it"):
        mill(root, sound.folder)
    lake.storage.delete("runs/encoding/cheap.json")  # as the remedy says
    assert mill(root, sound.folder).version.version == 2


def test_a_label_that_was_corrected_is_corrected_in_the_shards_that_hold_it(
    tmp_path: Path, sound: Sound, encoded_s: list[float]
) -> None:
    sound.add(6)
    root = tmp_path / "lake"
    mill(root, sound.folder)
    sound.add(2)
    mill(root, sound.folder)
    lake = Lake.at(str(root))
    batch = next(lake.batches())
    table = lake.read(lake.recordings_key(batch))
    rows = table.to_pylist()
    rows[0] |= {"licence": "CC0", "labels": [("country", "DE")]}
    lake.write(lake.recordings_key(batch), table.from_pylist(rows, schema=table.schema))
    before = {path: path.read_bytes() for path in (root / "datasets").rglob("*") if path.is_file()}
    encoded_s.clear()
    made = mill(root, None)
    assert (made.version.version, encoded_s) == (2, [])
    after = {path: path.read_bytes() for path in before}
    other = {path.name for path in before if after[path] != before[path]}
    (shard,) = {name.split(".")[1] for name in other if name.startswith("cuts.")}
    assert {name for name in other if not name.startswith(("ledger", "README", "croissant", "version"))} == {
        f"cuts.{shard}.jsonl.gz",
        f"{shard}.json",
        *(name for name in other if name.endswith(f"-{shard}.parquet")),
    }
    assert verify(lake, "cheap") == []
    folders = [root / "datasets/cheap" / split for split in made.version.shards]
    cuts = [cut for folder in folders for cut in CutSet.from_shar(in_dir=str(folder))]
    assert {cut.recording.id for cut in cuts if cut.custom["licence"] == "CC0"} == {rows[0]["recording_id"]}
    assert {cut.recording.id for cut in cuts if cut.custom.get("labels")} == {rows[0]["recording_id"]}
    stored = datasets.load_dataset("parquet", data_files=str(root / "datasets/cheap/windows/*.parquet"), split="train")
    labels = {row["recording_id"]: row["labels"] for row in stored if row["labels"]}
    assert labels == {rows[0]["recording_id"]: [{"key": "country", "value": "DE"}]}
    (tmp_path / "cheap.toml").write_text("name = 'cheap'\n[annotate.vad]\n")
    shown = ["tokens", "show", str(tmp_path / "cheap.toml"), "--lake", str(root), "--by", "split,labels.country"]
    assert " DE " in CliRunner().invoke(cli, shown, catch_exceptions=False).output
    for version in ([], ["--version", "1"]):
        done = CliRunner().invoke(cli, [*shown, *version, "--json"], catch_exceptions=False)
        told, whole = (
            json.loads(done.output)["datasets"][0]["ledger"],
            ledger_of(root, folder="versions/000001" if version else ""),
        )
        assert {row["labels.country"] for row in told} == {"DE", None}
        for name in ("windows", "hours", "frames", "context_tokens", "continuation_tokens"):
            assert sum(row[name] for row in told) == pytest.approx(sum(row[name] for row in whole))
        german = sum(row["windows"] for row in told if row["labels.country"] == "DE" and row["patch"] == 1)
        assert german == sum(cut.recording.id == rows[0]["recording_id"] for cut in cuts)
    assert mill(root, None).version == made.version  # once and for all
    assert "CC0" in (root / "datasets/cheap/README.md").read_text()
    assert "CC0" in (root / "datasets/cheap/versions/000001/README.md").read_text()


def test_a_withdrawn_recording_leaves_every_version_and_nothing_else_changes(tmp_path: Path, sound: Sound) -> None:
    sound.add(6)
    root = tmp_path / "lake"
    mill(root, sound.folder)
    sound.add(2)
    mill(root, sound.folder)
    lake = Lake.at(str(root))
    before = held(root)
    gone = lake.read(lake.recordings_key(next(lake.batches())))["recording_id"][0].as_py()
    assert drop_recordings(lake, frozenset([gone])) == ["cheap"]
    after = held(root)
    assert after == {name: data for name, data in before.items() if not name.startswith(gone)}
    assert len(after) == len(before) - 2 * 3
    assert [version.windows for version in versions(lake, "cheap")] == [3 * 5, 3 * 7]
    assert [problem for problem in verify(lake, "cheap") if "keeps are in no committed shard" not in problem.what] == []
    assert drop_recordings(lake, frozenset([gone])) == []


def test_a_shard_that_is_replaced_is_whole_whenever_a_kill_comes(
    tmp_path: Path, sound: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each write: what is there afterwards is the shard of before, or becomes the one of after."""
    sound.add(3)
    root = tmp_path / "lake"
    mill(root, sound.folder)
    gone = Lake.at(str(root)).read("recordings/batch-000000.parquet")["recording_id"][0].as_py()

    class Killed(BaseException):
        pass

    outcomes = set()
    for writes in range(30):
        copy = tmp_path / f"copy{writes}"
        shutil.copytree(root, copy)
        lake = Lake.at(str(copy))
        left = [writes]

        def dying(method: Any, left: list[int] = left) -> Any:
            def call(self: Any, *given: Any) -> Any:
                if not left[0]:
                    raise Killed
                left[0] -= 1
                return method(self, *given)

            return call

        with monkeypatch.context() as patch:
            for name in ("put", "put_file", "delete"):
                patch.setattr(LocalStorage, name, dying(getattr(LocalStorage, name)))
            try:
                drop_recordings(lake, frozenset([gone]))
                ended = True
            except Killed:
                ended = False
        finish_replacing(lake, "cheap")
        shards = [ShardCommit.read(lake.storage, key) for key in lake.storage.list("datasets/cheap/commits")]
        for commit in shards:
            for name, told in commit.files.items():
                data = lake.storage.read(f"datasets/cheap/{name}")
                assert hashlib.sha256(data).hexdigest() == told["sha256"], (writes, name)
        drop_recordings(lake, frozenset([gone]))
        assert not [name for name in held(copy) if name.startswith(gone)]
        outcomes.add(sum(commit.windows for commit in shards))
        if ended:
            break
    assert ended
    assert outcomes == {9, 6}


def test_any_prefix_of_the_list_of_shards_has_its_share_of_every_version() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        counts = rng.choice([0, 1, 1, 2, 5, 30], rng.integers(1, 9)).tolist()
        order = list(in_fair_order(counts))
        assert sorted(order) == list(range(sum(counts)))
        ends = np.cumsum(counts)
        many = sum(map(bool, counts))
        met = np.zeros(len(counts))
        for place, number in enumerate(order, 1):
            met[np.searchsorted(ends, number, side="right")] += 1
            share = place * np.array(counts) / sum(counts)
            assert np.abs(met - share).max() <= (1 - 1 / (2 * many - 2) if many > 1 else 0) + 1e-9


def test_select_is_not_done_again_but_for_new_annotations(tmp_path: Path, sound: Sound) -> None:
    sound.add(2)
    root = tmp_path / "lake"
    mill(root, sound.folder)
    lake = Lake.at(str(root))
    recipe = recipes.parse(RECIPE)
    with Watch(lake.storage, "x", recipe.resolved, True) as watch:
        selection = Run(recipe, lake, watch).selection()
    written = {key: lake.storage.stat(key).mtime_ns for key in lake.storage.list("selections")}
    first = lake.read_json(f"selections/{selection.name}/funnel.json")
    assert select(lake, selection).as_dict() == first
    assert {key: lake.storage.stat(key).mtime_ns for key in lake.storage.list("selections")} == written
    lake.storage.delete(f"selections/{selection.name}/windows-000000.parquet")
    assert select(lake, selection).as_dict() == first
    assert lake.storage.exists(f"selections/{selection.name}/windows-000000.parquet")


def test_datasets_and_their_newest_versions_are_listed_and_removed(tmp_path: Path, sound: Sound) -> None:
    root = tmp_path / "lake"

    def call(*words: str) -> str:
        result = CliRunner().invoke(cli, ["datasets", words[0], str(root), *words[1:]], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    sound.add(3)
    mill(root, sound.folder)
    first = {path: path.read_bytes() for path in (root / "datasets").rglob("*") if path.is_file()}
    sound.add(2)
    mill(root, sound.folder)
    assert "version 1: 9 windows" in call("list")
    assert "version 2: 15 windows" in call("list")
    with pytest.raises(SpeechmillError, match="nothing would be freed"):
        call("remove", "cheap", "--version", "1", "--yes")
    told = call("remove", "cheap", "--version", "2", "--yes")
    assert re.search(r"removed version 2 of datasets/cheap, which frees [\d.]+ MB", told)
    assert {path: path.read_bytes() for path in (root / "datasets").rglob("*") if path.is_file()} == first
    assert mill(root, None).version.windows == 15  # what is selected is encoded again
    call("remove", "cheap", "--yes")
    assert not list((root / "datasets/cheap").rglob("*.*"))
    with pytest.raises(SpeechmillError, match="no dataset cheap") as raised:
        call("remove", "cheap", "--yes")
    assert raised.value.remedy == "there is: none"


@pytest.mark.parametrize("patch", [1, 2])
def test_card_ledger_tokens_report_and_croissant_say_the_same_numbers(tmp_path: Path, sound: Sound, patch: int) -> None:
    sound.add(6)
    root = tmp_path / "lake"
    settings = changed(encode={"patch": patch})
    mill(root, sound.folder, settings)
    rows = [row for row in ledger_of(root) if row["patch"] == patch]
    expected = {
        split: tuple(
            sum(row[name] for row in rows if row["split"] == split)
            for name in ("windows", "frames", "context_tokens", "continuation_tokens")
        )
        for split in ("train", "valid")
    }
    card = (root / "datasets/cheap/README.md").read_text()
    told = {}
    for split, windows, _, *counts in re.findall(
        r"^\| (train|valid) \| (.+) \| (.+) \| (.+) \| (.+) \| (.+) \|$", card, re.M
    ):
        told[split] = tuple(int(count.replace(",", "")) for count in (windows, *counts))
    assert told == expected
    assert f"A token is {'one frame' if patch == 1 else '2 frames'} " in card
    lake = Lake.at(str(root))
    views = open_views(lake, choose(lake))
    tokens = Tokens.from_ledger(views, lake.read_json("datasets/cheap/recipe.json"))
    assert tokens is not None
    assert tokens.tokens == sum(context + continuation for _, _, context, continuation in expected.values())
    assert (tokens.windows, tokens.frames) == tuple(sum(counts[n] for counts in expected.values()) for n in (0, 1))
    (tmp_path / "cheap.toml").write_text(f"name = 'cheap'\n[annotate.vad]\n[encode]\npatch = {patch}\n")
    given = ["tokens", "show", str(tmp_path / "cheap.toml"), "--lake", str(root), "--by", "split"]
    shown = CliRunner().invoke(cli, given, catch_exceptions=False).output
    for split, counts in expected.items():
        (line,) = [line for line in shown.splitlines() if line.startswith(split)]
        numbers = [int(word.replace(",", "")) for word in line.split()[1:] if "." not in word]
        assert tuple(numbers) == counts
    assert f"tokens of {patch} frame" in shown
    # The dataset keeps its recipe, so that whoever has the lake alone can ask, too.
    for command in ("show", "verify"):
        done = CliRunner().invoke(cli, ["tokens", command, "cheap", "--lake", str(root)], catch_exceptions=False)
        assert done.exit_code == 0
    assert CliRunner().invoke(cli, ["tokens", "show", "cheap", *given[3:]]).output == shown
    assert "no recipe 'cheap-2'" in str(CliRunner().invoke(cli, ["tokens", "show", "cheap-2", *given[3:]]).exception)
    croissant = lake.read_json("datasets/cheap/croissant.json")
    assert f"{tokens.windows:,} windows" in croissant["description"]
    assert croissant["version"] == "1.0.0"
