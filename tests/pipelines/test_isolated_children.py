"""The child processes that decode: they end with their parent, serve threads and forks, and leave nothing open."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import psutil
import pytest
from decoding_children import children, end_children, long_file, same, sha256, slow_to_decode, until
from test_cli import ROOT

from pipelines.audio import children as module
from pipelines.audio.decode import Decoder
from pipelines.audio.isolated import IsolatedDecoder
from pipelines.audio.probe import probe as probe_here
from pipelines.audio.probing import probe
from runtime.errors import (
    UnreadableAudioError,
)


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Each test begins without any child."""
    end_children()


@pytest.fixture
def long(tmp_path: Path) -> str:
    return long_file(tmp_path)


def test_stopping_early_ends_the_decoding_and_keeps_the_child(long: str, conversation: Path) -> None:
    for taken in (0, 1, 2, 7):
        decoder = IsolatedDecoder(long)
        list(islice(decoder, taken))
        decoder.close()
        assert same(list(IsolatedDecoder(str(conversation))), list(Decoder(str(conversation))))
    assert len(children()) == 1


def test_a_cancelled_decoding_that_does_not_end_is_killed(tmp_path: Path, conversation: Path) -> None:
    decoder = IsolatedDecoder(slow_to_decode(tmp_path, 1 << 40))
    until(lambda: len(children()) == 1)
    (child,) = children()
    until(lambda: child.cpu_times().user > 1)
    decoder.close()
    assert probe(str(conversation)) == probe_here(str(conversation))
    assert [other.pid == child.pid for other in children()] == [False]


def test_threads_decode_side_by_side(long: str, conversation: Path) -> None:
    paths = [long, str(conversation)] * 4
    with ThreadPoolExecutor(4) as pool:
        heard = list(pool.map(lambda path: list(IsolatedDecoder(path)), paths))
    for path, blocks in zip(paths, heard, strict=True):
        assert same(blocks, list(Decoder(path)))
    assert len(children()) <= module.MAX_IDLE


@pytest.mark.slow
def test_two_hundred_decodings_leave_nothing_open(tmp_path: Path, conversation: Path, long: str) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF" + bytes(40))

    def some(count: int) -> None:
        for number in range(count):
            path = (str(conversation), str(tmp_path / "bad.wav"), long)[number % 3]
            decoder = IsolatedDecoder(path)
            try:
                list(islice(decoder, 2))
                decoder.verify_sha256(sha256(path))
            except UnreadableAudioError:
                pass
            decoder.close()
            if number % 20 == 0:
                module._idle[-1].end()  # as where it died

    def open_files() -> tuple[int, int]:
        (child,) = children()
        probe(str(conversation))
        return psutil.Process().num_fds(), child.num_fds()

    some(3)
    module._idle[-1].end()
    some(3)
    before = open_files()
    some(200)
    assert open_files() == before


KEEP_DECODING = """
import sys, time
from pipelines.audio.isolated import IsolatedDecoder
import psutil
blocks = iter(IsolatedDecoder(sys.argv[1]))
if sys.argv[2] == "waiting":
    next(blocks)
while not psutil.Process().children():
    time.sleep(0.01)
print(psutil.Process().children()[0].pid, flush=True)
time.sleep(60) if sys.argv[2] == "waiting" else next(blocks)
"""


@pytest.mark.parametrize("state", ["waiting", "busy"])
def test_a_killed_parent_leaves_no_child(state: str, long: str, tmp_path: Path) -> None:
    path = long if state == "waiting" else slow_to_decode(tmp_path, 1 << 40)
    words = [sys.executable, "-c", KEEP_DECODING, path, state]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        if state == "busy":
            until(lambda: child.cpu_times().user > 1)
        parent.kill()
    until(lambda: not child.is_running())


def test_a_thread_that_ends_leaves_the_child_to_the_others(conversation: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(probe, str(conversation)).result()
    (child,) = children()
    time.sleep(0.2)
    assert probe(str(conversation)) == probe_here(str(conversation))
    assert [other.pid for other in children()] == [child.pid]


def test_ctrl_c_does_not_end_the_child(long: str) -> None:
    decoder = IsolatedDecoder(long)
    blocks = iter(decoder)
    heard = [next(blocks)]
    (child,) = children()
    assert os.getpgid(child.pid) != os.getpgid(0)  # where a terminal sends it
    child.send_signal(signal.SIGINT)
    heard += blocks
    assert same(heard, list(Decoder(long)))
    assert child.is_running()
    decoder.close()


def test_a_forked_process_starts_a_child_of_its_own(conversation: Path) -> None:
    probe(str(conversation))
    (child,) = children()
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        found = probe(str(conversation)) == probe_here(str(conversation))
        os.write(writing, b"%d %d" % (found, child.pid in [other.pid for other in children()]))
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 10) == b"1 0"
    assert probe(str(conversation)) == probe_here(str(conversation))
    assert [other.pid for other in children()] == [child.pid]
