"""What is printed and what a run keeps of itself holds no secret, and nothing that steers a terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path

from forked import speechmill
from test_cli import ROOT

from pipelines.progress.console import public, public_command

ESCAPE = "\x1b]0;owned\x07"


def test_urls_in_any_place_of_a_line_lose_their_secrets() -> None:
    line = "ConnectionError: https://me:pw@host/a?x=1 and http://h/b.wav?signature=abc: 403; remedy: sign anew"
    assert public(line).startswith("ConnectionError: https://host/a?x=1 and http://h/b.wav")
    assert public(line).endswith(" 403; remedy: sign anew")
    assert not any(secret in public(line) for secret in ("pw", "me:", "abc"))


def test_a_command_is_kept_without_values_of_secret_options() -> None:
    words = [
        "run", "r.toml", "--in", "https://me:pw@host/a.wav", "--set", "storage.profile=me",
        "--set", "storage.endpoint_url=http://me:pw@host", "--", "--s3_secret_access_key=abc",
        "--s3_session_token", "def", "--region", "eu", "--password=xyz",
    ]  # fmt: skip
    kept = list(public_command(words))
    assert len(kept) == len(words)
    assert not any(secret in word for word in kept for secret in ("pw", "abc", "def", "xyz"))
    assert kept[:3] == words[:3]
    assert (kept[-3], kept[-2]) == ("--region", "eu")


def test_nothing_of_a_run_holds_a_secret_or_an_escape(tmp_path: Path, conversation: Path) -> None:
    names = tmp_path / "in"
    names.mkdir()
    (names / f"{ESCAPE}.wav").write_bytes(b"no sound")
    lake = tmp_path / "lake"
    words = ["--in", str(names), "--in", "https://me:hunter2@127.0.0.1:9/a.wav?token=hunter2", "--lake", str(lake)]
    words += ["--set", "storage.retry_s=0.5", "--set", "storage.http_private=true", "--", "--password=hunter2"]
    done = speechmill("ingest", "demo", "--engine", "beam", *words)
    kept = [path.read_text() for path in lake.glob("runs/*/*") if path.suffix in (".txt", ".json")]
    assert {path.name for path in lake.glob("runs/*/*")} >= {"log.txt", "recipe.json", "summary.json"}
    (summary,) = lake.glob("runs/*/summary.json")
    assert "--password=***" in json.loads(summary.read_text())["command"]
    for text in (done.stdout, done.stderr, *kept):
        assert "hunter2" not in text
        assert "\x1b" not in text
        assert "\x07" not in text
    assert "owned" in done.stderr


def test_an_endpoint_with_a_password_is_refused_and_neither_printed_nor_kept(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    words = ["select", "demo", "--lake", str(lake), "--set", "storage.endpoint_url=http://me:hunter2@host/"]
    done = speechmill(*words)
    assert (done.returncode, "hunter2" in done.stderr + done.stdout) == (2, False), done.stderr
    assert "AWS_ACCESS_KEY_ID" in done.stderr
    assert not lake.exists()


def test_an_endpoint_of_the_environment_with_a_password_is_not_printed(tmp_path: Path) -> None:
    environment = {**os.environ, "AWS_ENDPOINT_URL_S3": "http://me:hunter2@127.0.0.1:9", "AWS_ACCESS_KEY_ID": "hunter2"}
    environment |= {"AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_CONFIG_FILE": "/nowhere"}
    words = ["select", "demo", "--lake", "s3://bucket/lake", "--set", "storage.retry_s=0.5"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.commands", *words], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert (done.returncode, "hunter2" in done.stderr + done.stdout) == (1, False), done.stderr


def test_a_mistake_in_options_is_told_without_what_it_holds(tmp_path: Path) -> None:
    words = ["select", "demo", "--lake", str(tmp_path), "--workers", f"{ESCAPE}https://me:hunter2@host"]
    done = speechmill(*words)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "hunter2" not in done.stderr
