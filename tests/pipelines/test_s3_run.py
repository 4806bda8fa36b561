"""Whole runs on a lake in S3: the bytes of a local lake, under faults too, and not a secret anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from faulty_proxy import Proxy
from forked import Forked, start
from servers import S3Server
from test_cli import digests

from manifests.storage import Storage, StorageConfig, open_storage
from manifests.storage.local import LocalStorage
from pipelines.commands.cli import cli

ROOT = Path(__file__).parents[2]
RECIPE = """
name = "calls"
[ingest]
batch_hours = 0.017
[annotate.vad]
[select]
context_s = 2.0
continuation_s = 6.0
[encode]
shard_mb = 0.3
"""


def start_plainly(*words: str, **settings: str) -> subprocess.Popen[str]:
    """As `start`, but as a command of its own in the listing of processes."""
    command = [sys.executable, "-c", "from pipelines.commands.cli import main; main()", *words]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, **piped)  # type: ignore[call-overload]


def finish(process: Forked | subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out + err


def of_storage(storage: Storage) -> dict[str, str]:
    keys = (key for key in storage.list() if not key.startswith("runs/"))
    return {key: hashlib.sha256(storage.read(key)).hexdigest() for key in keys}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory, conversation: Path) -> tuple[Path, dict[str, str]]:
    """Six recordings with their recipe, and the digests of the local lake that they make."""
    folder = tmp_path_factory.mktemp("calls")
    speech, rate = soundfile.read(conversation, dtype="int16")
    for number in range(6):
        (folder / "in").mkdir(exist_ok=True)
        soundfile.write(folder / f"in/{number}.flac", np.roll(speech, number * rate), rate)
    (folder / "recipe.toml").write_text(RECIPE)
    finish(start("run", str(folder / "recipe.toml"), "--in", str(folder / "in"), "--lake", str(folder / "lake")))
    found = digests(folder / "lake")
    assert len(found) > 30
    return folder, found


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with Proxy(s3.endpoint_url, seed=3) as made:
        made.stall_s = 2.5
        yield made


def run(folder: Path, lake: str, proxy: Proxy, *words: str, retry_s: float = 60.0) -> Forked:
    sets = (f"storage.endpoint_url='{proxy.url}'", "storage.timeout_s=2.0", f"storage.retry_s={retry_s}")
    settings = [word for value in sets for word in ("--set", value)]
    return start("run", str(folder / "recipe.toml"), "--in", str(folder / "in"), "--lake", lake, *settings, *words)


def test_the_demo_on_s3_is_the_local_one(tmp_path: Path, conversation: Path, bucket: str) -> None:
    words = ("run", "demo", "--in", str(conversation), "--lake")
    here = finish(start(*words, str(tmp_path / "lake")))
    there = finish(start(*words, f"s3://{bucket}/lake"))
    of_place = r"(?m)^(new lake|note|dataset|next)\b.*\n?|^.* GiB.*\n?"  # where it lies, how long and how much it took
    assert re.sub(of_place, "", here) == re.sub(of_place, "", there)
    assert of_storage(open_storage(f"s3://{bucket}/lake")) == digests(tmp_path / "lake")
    assert finish(start("tokens", "verify", "demo", "--lake", f"s3://{bucket}/lake"))


@pytest.mark.slow
def test_a_run_under_faults_and_an_outage_makes_the_same_bytes_and_counts_its_retries(
    calls: tuple[Path, dict[str, str]], bucket: str, proxy: Proxy
) -> None:
    folder, expected = calls
    proxy.share, proxy.down_at, proxy.down_s = 0.05, 100, 8.0
    told = finish(run(folder, f"s3://{bucket}/lake", proxy))
    assert of_storage(open_storage(f"s3://{bucket}/lake")) == expected
    assert proxy.injected.total() >= 5
    assert re.search(r"s3:\w+ s3://\S+: EndpointConnectionError; next try in \d", told)
    (counted,) = re.findall(r"storage: (\d+) requests were tried again", told)
    assert int(counted) >= proxy.injected.total() - proxy.injected["repeat"]


@pytest.mark.slow
def test_a_server_down_for_good_ends_with_an_error_and_a_lake_that_the_same_command_finishes(
    calls: tuple[Path, dict[str, str]], bucket: str, proxy: Proxy
) -> None:
    folder, expected = calls
    proxy.down_at = 60
    process = run(folder, f"s3://{bucket}/lake", proxy, retry_s=1.0)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (1, False), err
    assert re.search(r"error: s3:\w+ s3://\S+: EndpointConnectionError, \d+ times in", err)
    assert "same command" in err
    begun = of_storage(open_storage(f"s3://{bucket}/lake"))
    assert 0 < len(begun) < len(expected)
    assert begun.items() <= expected.items()
    proxy.down_at = None
    proxy.up()
    finish(run(folder, f"s3://{bucket}/lake", proxy))
    assert of_storage(open_storage(f"s3://{bucket}/lake")) == expected


def test_a_lake_and_recordings_at_an_endpoint_that_only_the_recipe_names_are_looked_into(
    calls: tuple[Path, dict[str, str]], s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = calls
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    recipe, clip, page = tmp_path / "there.toml", tmp_path / "clip.wav", tmp_path / "page.html"
    recipe.write_text(RECIPE + f"[storage]\nendpoint_url = '{s3.endpoint_url}'\n")
    lake = f"s3://{bucket}/lake"
    s3.client().upload_file(str(folder / "in/0.flac"), bucket, "in/0.flac")

    def look(*words: str) -> str:
        done = CliRunner().invoke(cli, [*words, "--recipe", str(recipe)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    with Proxy(s3.endpoint_url) as proxy:
        (tmp_path / "heard.toml").write_text(recipe.read_text().replace(s3.endpoint_url, proxy.url))
        finish(start("run", str(tmp_path / "heard.toml"), "--in", f"s3://{bucket}/in", "--lake", lake))
    storage = open_storage(lake, StorageConfig(s3.endpoint_url))
    (told,) = (json.loads(storage.read(key)) for key in storage.list("runs") if key.endswith("summary.json"))
    spent = [sums["of"] for step in told["steps"].values() for sums in step["spent"].values()]
    counted = Counter[str]()
    for took in (*told["own"].values(), *({name: sums["total"] for name, sums in of.items()} for of in spent)):
        counted.update({name: count for name, count in took.items() if name.endswith("_requests")})
    # What opens and closes the lake belongs to no step.
    assert 0.85 * len(proxy.heard) <= counted.total() <= len(proxy.heard)
    assert spent[0]["get_requests"]["total"] >= 2  # of the recording, which another process reads for the worker
    (row,) = json.loads(look("manifest", "head", lake, "--json"))["rows"]
    stretch = (lake, row["recording_id"], "1", "3")
    look("manifest", "clip", *stretch, "-o", str(clip))
    assert soundfile.info(clip).duration == 2.0
    assert " Hz " in look("manifest", "spectrogram", *stretch)
    look("report", lake, "-o", str(page))
    assert "Excerpt of" in page.read_text()
    assert "cannot be read now" not in page.read_text()


def test_two_workers_that_race_on_each_shard_leave_one_winner_and_equal_bytes(
    calls: tuple[Path, dict[str, str]], bucket: str
) -> None:
    folder, expected = calls
    lake, there = LocalStorage(folder / "lake"), open_storage(f"s3://{bucket}/lake")
    for key in lake.list():
        if not key.startswith(("datasets/", "runs/")):
            there.put(key, lake.read(key))
    words = ("encode", str(folder / "recipe.toml"), "--lake", f"s3://{bucket}/lake")
    for process in [start(*words) for _ in range(2)]:
        finish(process)
    assert of_storage(there) == expected


@pytest.mark.slow
def test_no_secret_is_in_a_lake_an_error_a_log_or_a_process_listing(
    calls: tuple[Path, dict[str, str]], s3: S3Server, bucket: str, proxy: Proxy
) -> None:
    folder, _ = calls
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    user = s3.add_user("planted", everything)
    secrets = {"AWS_ACCESS_KEY_ID": user["aws_access_key_id"], "AWS_SECRET_ACCESS_KEY": user["aws_secret_access_key"]}
    planted = secrets["AWS_SECRET_ACCESS_KEY"]
    words = ("run", str(folder / "recipe.toml"), "--in", str(folder / "in"), "--lake", f"s3://{bucket}/lake")
    proxy.share, proxy.faults = 0.05, ("500", "lost")
    process = start_plainly(*words, "--workers", "2", AWS_ENDPOINT_URL=proxy.url, **secrets)
    listed = set()
    while process.poll() is None:
        listed |= command_lines(process.pid)
        time.sleep(0.2)
    told = finish(process)
    assert len(listed) >= 3  # the two workers too
    wrong = start(*words, **secrets | {"AWS_SECRET_ACCESS_KEY": planted[:-1] + "_"})
    out, err = wrong.communicate(timeout=60)
    assert wrong.returncode == 1
    assert "SignatureDoesNotMatch" in err
    assert "AWS_SECRET_ACCESS_KEY" in err  # the remedy
    lake = open_storage(f"s3://{bucket}/lake")
    stored = b"".join(key.encode() + lake.read(key) for key in lake.list())
    everything_seen = stored + "".join([told, out, err, *listed]).encode()
    assert b"s3://" in everything_seen
    for secret in (planted, planted[:-1], secrets["AWS_ACCESS_KEY_ID"]):
        assert secret.encode() not in everything_seen


def command_lines(pid: int) -> set[str]:
    """Those of a process and its children, as `ps` shows them."""
    import psutil

    try:
        parent = psutil.Process(pid)
        return {" ".join(process.cmdline()) for process in (parent, *parent.children(recursive=True))}
    except psutil.NoSuchProcess:
        return set()
