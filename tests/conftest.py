"""Shared fixtures: real sound is found where it lies and never copied into the project."""

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

# One thread a model and no network, before any library reads these.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS / "pipelines"), str(TESTS.parent)]  # the last one for docs/

# The same examples every time, however slow the machine: a run tells of the change that it tests, not of luck.
settings.register_profile("speechmill", derandomize=True, deadline=None)
settings.load_profile("speechmill")


LONGEST = (
    "test_month", "test_engines", "test_fuzz", "test_clusters", "test_ray", "test_bench_gpu", "test_latents",
    "test_commit", "test_restart", "test_s3_run", "test_report", "test_growth", "test_diarize", "test_shares",
    "test_isolated", "test_cli", "test_pjsd_cli", "test_merge", "test_remove", "test_select_plainly",
    "test_report_roundtrips", "test_audio_parts", "test_rounds", "test_logmel", "test_several", "test_label",
    "test_hostile_http", "test_recipes",
)  # fmt: skip
"""Files that take longest, the longest first: the last ones to be begun are short, so that workers end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files are begun in the order of `LONGEST`; pytest-xdist keeps it by --no-loadscope-reorder."""
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
    """The stage of voice activity, loaded once."""
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
    """A started S3 server, reached from this process by the usual variables as a user who may do everything."""
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
    """Output of commands is as wide as they make it: pytest-xdist tells its workers a width."""
    os.environ.pop("COLUMNS", None)
