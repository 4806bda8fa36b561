"""Helpers of tests of decoding in a child process."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import numpy as np
import psutil
import soundfile

from pipelines.audio import children as module

RNG = np.random.default_rng(5)
NAMES = ("fw/jfk.flac", "lca_calls/lca_40_stereo8k.flac", "google/multi.flac")


def children() -> list[psutil.Process]:
    """The living child processes that decode for this process."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # of a dead process that has not been waited for yet, too
            if any("audio.child" in word for word in child.cmdline()):
                found.append(child)
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most 30 s."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def die(child: psutil.Process, number: int) -> None:
    """Kill a child, and wait until it is dead but not yet waited for."""
    child.send_signal(number)
    until(lambda: child.status() == psutil.STATUS_ZOMBIE)


def end_children() -> None:
    """End all children, so that a test begins without any."""
    for child in module._idle:
        child.end()
    module._idle.clear()
    for process in children():  # of a test that failed
        process.kill()
        process.wait()


def long_file(folder: Path) -> str:
    """16 blocks of noise, which are more than the shared memory has room for."""
    path = folder / "long.wav"
    soundfile.write(path, RNG.integers(-9000, 9000, (16 << 18) - 1000, dtype=np.int16), 48000)
    return str(path)


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def slow_to_decode(folder: Path, size_bytes: int = 8 << 30) -> str:
    """A second of MP3 and then zeros, in which FFmpeg searches for another frame. Zeros take no room on the disk."""
    path = folder / "slow.mp3"
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(RNG.integers(-3000, 3000, (1, 16000), dtype=np.int16), "s16", "mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    os.truncate(path, size_bytes)
    return str(path)


@contextmanager
def serving(folder: Path, path: Path, pause_s: float = 0.0, refuse: int = 0, after_s: int = 0) -> Iterator[str]:
    """A server of one file on loopback, which pauses before it answers, or refuses the first requests."""
    data = path.read_bytes()
    left = refuse

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal left
            time.sleep(pause_s)
            if left > 0:
                left -= 1
                self.send_response(503)
                self.send_header("Retry-After", str(after_s))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/x.wav"
    finally:
        server.shutdown()
        server.server_close()
