"""A server on loopback that sends, byte for byte, what a plan tells, and forgets everything when the plan is done."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fuzz import sounds
from fuzz.edits import edited

CONNECTIONS = 400
"""More than any plan needs; then the server is silent."""
LONGEST_S = 20.0


@contextmanager
def site(answers: list[Any], tail: bytes = b"") -> Iterator[str]:
    """Its URL. `/3.wav` is answered by the fourth answer; `tail` follows each body."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ended = threading.Event()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def serve() -> None:
            for _ in range(CONNECTIONS):
                try:
                    connection, _ = listening.accept()
                except OSError:  # closed: the plan is done
                    return
                arguments = (connection, answers, url, tail, ended)
                threading.Thread(target=_answer, args=arguments, daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield url
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def _answer(connection: socket.socket, answers: list[Any], url: str, tail: bytes, ended: threading.Event) -> None:
    with connection, suppress(OSError):
        connection.settimeout(5)
        asked = b""
        while b"\r\n\r\n" not in asked and len(asked) < 1 << 16:
            if not (read := connection.recv(4096)):
                return
            asked += read
        number = re.match(rb"GET [^ ]*?/(\d+)\.wav", asked)
        if not number or int(number[1]) >= len(answers):
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        wanted = re.search(rb"(?i)range: bytes=(\d{1,18})-(\d{1,18})", asked)
        until = time.monotonic() + LONGEST_S
        for part in _parts(answers[int(number[1])], wanted, url.encode(), tail):
            if ended.is_set() or time.monotonic() > until:
                return
            if isinstance(part, float):
                ended.wait(part)
            else:
                connection.sendall(part)


def _parts(answer: Any, wanted: re.Match[bytes] | None, url: bytes, tail: bytes) -> Iterator[bytes | float]:
    """What is sent and, as float, seconds of silence.

    In values of headers `{start}`, `{stop}`, `{last}`, `{size}`, `{length}` and `{url}` stand for what an honest server
    would say. The body is bytes, or a sound and edits of it; an honest one is cut to the range that was asked for.
    `pieces` is (size of a piece, seconds between two, times the last one is sent again).
    """
    status, headers, body, (piece, pause_s, again) = answer
    data = body if isinstance(body, bytes) else edited(sounds.sound(body[0]), body[1])
    start, stop = (int(wanted[1]), min(int(wanted[2]) + 1, len(data))) if wanted else (0, len(data))
    sent = data[start:stop] if b" 206" in status else data
    numbers = {b"start": start, b"stop": stop, b"last": stop - 1, b"size": len(data), b"length": len(sent)}
    head = status + b"\r\n"
    for name, value in headers:
        head += name + b": " + value.replace(b"{url}", url) + b"\r\n"
    for name, number in numbers.items():
        head = head.replace(b"{" + name + b"}", b"%d" % number)
    whole = head + b"\r\n" + sent + tail
    last = b""
    for at in range(0, len(whole), piece):
        yield (last := whole[at : at + piece])
        if pause_s:
            yield pause_s
    for _ in range(again):
        yield last
        if pause_s:
            yield pause_s
