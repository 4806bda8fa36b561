"""What machine and disk cannot hold is told before the work begins."""

import shutil
from pathlib import Path

import pytest
from forked import speechmill
from lakes import write_lake

from manifests.fingerprint import pretty
from manifests.funnel import Funnel
from pipelines.recipes import recipe
from pipelines.units import resources
from pipelines.units.engines import Engine

DISK = shutil.disk_usage("/")


@pytest.fixture
def demo() -> recipe.Recipe:
    return recipe.load("demo")


def test_more_workers_than_cores_or_memory_are_noted(demo: recipe.Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_cores", lambda: 4)
    monkeypatch.setattr(resources, "free_memory_gib", lambda: 12.0)
    assert list(resources.notes(demo, Engine("local", (4, 4)), True)) == []
    few_cores, little_memory = resources.notes(demo, Engine("local", (8, 8)), True)
    assert few_cores.startswith("8 workers share the 4 cores")
    assert little_memory.startswith("8 workers take up to about 20.0 GiB of memory, and 12.0 GiB are free")
    assert little_memory.endswith("--workers 4")
    assert len(list(resources.notes(demo, Engine("local", (8, 8)), False))) == 1  # no models, little memory
    assert list(resources.notes(demo, Engine("ray", (8, 8), "head:6379"), True)) == []


def test_a_stage_that_wants_a_gpu_where_there_is_none_is_told_before_a_lake_is_made(
    tmp_path: Path, conversation: Path
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    words = ["--in", str(conversation), "--lake", str(tmp_path / "lake"), "--set", "annotate.diarize.device=cuda"]
    done = speechmill("run", "demo", *words)
    assert done.returncode == 1
    assert 'error: annotate.diarize.device is "cuda", and no GPU can be used on this machine' in done.stderr
    assert not (tmp_path / "lake").exists()


def test_what_clearly_does_not_fit_on_the_disk_is_refused_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = recipe.load("demo")
    lake = write_lake(tmp_path / "lake", [])
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: DISK._replace(free=1_000_000_000))
    funnel = Funnel("s").as_dict()
    kept = {"verdict": "kept", "reasons": [], "count": 900, "hours": 100.0}
    funnel["windows"]["jointly"] = [kept]
    funnel["windows"]["in"] = funnel["windows"]["kept"] = {"count": 900, "hours": 100.0}
    lake.storage.put("selections/s/funnel.json", pretty(funnel).encode())
    with pytest.raises(
        resources.NoRoomError, match=r"100\.0 h of kept windows take about 4\.61 GB, and 1\.00 GB are"
    ) as caught:
        resources.check_room_for_features(lake, {"demo": demo.encode}, demo.shard_s, "s", 1)
    assert "--set storage.check_room=false" in caught.value.remedy
    lake.storage.put("datasets/demo/train/latents.000000.tar", b"")
    with open(tmp_path / "lake/datasets/demo/train/latents.000000.tar", "wb") as made:
        made.truncate(4_000_000_000)  # what is encoded already takes no more room
    resources.check_room_for_features(lake, {"demo": demo.encode}, demo.shard_s, "s", 1)
    with pytest.raises(resources.NoRoomError, match=r"the annotations of 100,000\.0 h"):
        resources.check_room_for_rows(lake, 1e5 * 3600)
    anyway = recipe.load("demo", ("storage.check_room=false",))
    resources.check_room_for_rows(type(lake)(lake.storage, anyway.storage), 1e5 * 3600)
    assert anyway.resolved == demo.resolved  # equal lakes stay equal
