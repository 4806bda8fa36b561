"""Shared fixtures. Real recordings are read where they are, and never copied into the project."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from servers import S3Server

# One thread per model and no network. Libraries read these variables when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS / "pipelines"), str(TESTS.parent)]  # the last one for docs/

# Hypothesis uses the same examples every time, so that a failure comes from a change and not from chance.
settings.register_profile("speechmill", derandomize=True, deadline=None)
settings.load_profile("speechmill")


LONGEST = (
    "test_month", "test_engines", "test_fuzz", "test_clusters", "test_ray", "test_bench_gpu", "test_latents",
    "test_growth", "test_report", "test_s3_run", "test_commit", "test_restart", "test_faults", "test_several",
    "test_extras", "test_round_trips", "test_neural", "test_pieces", "test_archives", "test_simulate_speech",
    "test_select_plainly", "test_language", "test_verify", "test_vocoders", "test_cli", "test_reader", "test_corrupt",
    "test_isolated", "test_pjsd_cli", "test_listings", "test_vae", "test_diarize", "test_slm", "test_batches",
    "test_encoder_cli", "test_shares", "test_report_roundtrips", "test_bench", "test_scan", "test_merge", "test_remove",
)  # fmt: skip
"""The slowest test files, the slowest first. Short files then run last, so that all workers end at about the same
time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files in the order of `LONGEST`, which pytest-xdist keeps with --no-loadscope-reorder."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of the real test recordings."""
    from sounds import RECORDINGS

    if not (RECORDINGS / "index.tsv").is_file():
        pytest.skip(f"no test recordings at {RECORDINGS}: set SPEECHMILL_TEST_AUDIO")
    return RECORDINGS


@pytest.fixture(scope="session")
def vad():
    """The stage for voice activity, loaded once."""
    from pipelines.stages.vad import Vad, VadConfig

    stage = Vad(VadConfig())
    stage.setup()
    return stage


@pytest.fixture(scope="session")
def conversation() -> Path:
    """30 s of two speakers."""
    from sounds import packaged_conversation

    return packaged_conversation()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server. The environment of this process has the credentials of a user with all permissions."""
    from servers import EVERYTHING, plain_environment, s3_server

    with s3_server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in plain_environment(server, server.add_user("everything", EVERYTHING)).items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A new bucket."""
    name = f"test-{uuid.uuid4().hex}"
    s3.client().create_bucket(Bucket=name)
    return name


@pytest.fixture(autouse=True, scope="session")
def _no_columns() -> None:
    """Remove the width that pytest-xdist sets for its workers, so that it does not affect the output of commands."""
    os.environ.pop("COLUMNS", None)
