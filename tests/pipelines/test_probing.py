"""Reading headers in a child process, ahead of those who ask for them."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from decoding_children import NAMES, children, end_children, serving, until

from manifests.storage import StorageConfig, retry
from pipelines.audio.probe import probe as probe_here
from pipelines.audio.probing import Prober, probe
from runtime.errors import (
    DecoderDiedError,
)


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Each test begins without any child."""
    end_children()


def test_what_the_storage_had_to_try_again_is_told_and_counted_here(
    tmp_path: Path, conversation: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("speechmill").propagate = True
    before = retry.retries()
    with serving(tmp_path, conversation, refuse=1, after_s=6) as url:
        claims = probe(url, StorageConfig(http_private=True))
    assert claims == probe_here(str(conversation))
    assert (retry.retries() - before).total() == 1
    assert {record.levelname for record in caplog.records if "status 503" in record.getMessage()} == {"WARNING"}


def test_headers_are_read_ahead_in_order_and_a_death_costs_none_of_them(recordings: Path) -> None:
    paths = [str(recordings / name) for name in NAMES] * 8
    found = []
    with Prober() as prober:
        for number, path in enumerate(prober.prefetch(paths, str)):
            found.append(prober.result(path))
            if number == 5:
                (child,) = children()
                child.kill()
    assert found == [probe_here(path) for path in paths]


def test_a_header_that_kills_twice_costs_itself(recordings: Path) -> None:
    """Killed by hand at the second of three files that are read ahead."""
    first, second, third = (str(recordings / name) for name in NAMES)
    with Prober() as prober:
        prober.request(first)
        assert prober.result(first) == probe_here(first)
        (child,) = children()
        child.suspend()
        prober.request(second)
        prober.request(third)
        child.kill()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(prober.result, second)
            until(lambda: len(children()) == 1 and children()[0].pid != child.pid)
            children()[0].kill()
            with pytest.raises(DecoderDiedError, match=r"stereo8k\.flac.*twice: SIGKILL"):
                asked.result()
        assert prober.result(third) == probe_here(third)


def test_no_header_is_read_of_names_that_nobody_asks_for(tmp_path: Path) -> None:
    with Prober() as prober:
        assert list(prober.prefetch(map(str, range(100)), str)) == [str(number) for number in range(100)]
    assert children() == []


def test_what_ends_the_names_is_raised_after_those_before_it(conversation: Path) -> None:
    def names() -> Iterator[str]:
        yield from [str(conversation)] * 20
        raise KeyError("no more")

    passed = []

    def read(prober: Prober) -> None:
        for name in prober.prefetch(names(), str):
            passed.append(prober.result(name))

    with Prober() as prober, pytest.raises(KeyError, match="no more"):
        read(prober)
    assert passed == [probe_here(str(conversation))] * 20
