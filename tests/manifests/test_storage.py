import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from manifests.lake import Lake
from manifests.schemas import BASE
from manifests.storage import LocalStorage, open_storage


def test_lists_keys_in_order_and_hides_temporary_files(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for key in ("b/2", "a", "b/1", "runs/now/log"):
        storage.put(key, b"x")
    (storage.scratch() / "half").write_bytes(b"?")
    assert list(storage.list()) == ["a", "b/1", "b/2", "runs/now/log"]
    assert list(storage.list("b")) == ["b/1", "b/2"]
    assert list(storage.list("nowhere")) == []


def test_put_replaces_and_put_if_absent_does_not(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    assert storage.put_if_absent("k", b"first")
    assert not storage.put_if_absent("k", b"second")
    assert storage.read("k") == b"first"
    storage.put("k", b"third")
    assert (storage.read("k"), storage.size("k")) == (b"third", 5)
    storage.delete("k")
    storage.delete("k")
    assert not storage.exists("k")


def test_put_file_consumes_the_file(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "lake")
    file = tmp_path / "made"
    file.write_bytes(b"shard")
    storage.put_file("datasets/d/train/x.tar", file)
    assert not file.exists()
    assert storage.read("datasets/d/train/x.tar") == b"shard"


def test_a_killed_writer_leaves_the_old_bytes_and_its_litter_is_swept(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("k", b"old")
    script = (
        "import os, signal, sys\n"
        "from manifests.storage import LocalStorage\n"
        "storage = LocalStorage(sys.argv[1])\n"
        "storage._rename = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage.put('k', b'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert storage.read("k") == b"old"
    assert len(list((tmp_path / "runs/tmp").iterdir())) == 1
    storage.sweep()
    assert list((tmp_path / "runs/tmp").iterdir()) == []


def test_sweep_spares_the_living(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    mine = storage.scratch()
    storage.sweep()
    assert mine.is_dir()


def test_equal_tables_are_equal_bytes_and_batches_are_listed(tmp_path: Path) -> None:
    lake = Lake.at(str(tmp_path))
    table = pa.Table.from_pylist([{"recording_id": "a", "status": "ok"}], schema=pa.schema(BASE))
    lake.write(lake.recordings_key("batch-000001"), table)
    lake.write(lake.recordings_key("batch-000000"), pa.concat_tables([table]))
    assert list(lake.batches()) == ["batch-000000", "batch-000001"]
    first, second = (lake.storage.read(lake.recordings_key(batch)) for batch in lake.batches())
    assert first == second
    assert lake.read(lake.recordings_key("batch-000000")).equals(table)


def test_a_lake_with_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="only local folders"):
        open_storage("ftp://host/lake")
