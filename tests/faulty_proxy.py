"""A proxy on loopback between a client and a real server, which injects faults of networks and servers.

A share of the requests gets a fault that is drawn with a seed. `injected` counts the faults.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

FAULTS = ("500", "503", "reset", "lost", "cut", "truncated", "stall", "corrupt", "skew", "repeat")
"""There is also "rot", which flips a bit in a range that is read. Only the checksum of the whole object reveals it."""
CODES = {"500": (500, "InternalError"), "503": (503, "SlowDown"), "skew": (403, "RequestTimeTooSkewed")}


class Proxy:
    """The proxy. `share` and `faults` may be changed at any time, and `down` makes the server unreachable."""

    def __init__(self, target: str, share: float = 0.0, faults: tuple[str, ...] = FAULTS, seed: int = 0) -> None:
        self.target = urlsplit(target).netloc
        self.share, self.faults, self.stall_s = share, faults, 5.0
        self.injected: Counter[str] = Counter()
        self.heard: list[tuple[str, dict[str, str]]] = []
        """Method and path, and headers with lower-case names, of each request."""
        self.requests = 0
        self.down_at: int | None = None
        """Number of the request at which the server goes down."""
        self.down_s: float | None = None
        """How long it is down; None for ever."""
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._pages: dict[str, tuple[http.client.HTTPMessage, bytes]] = {}
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.down()

    def up(self) -> None:
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and close existing ones at their next request."""
        server, self._server = self._server, None
        if server:
            server.shutdown()
            server.server_close()

    def _pause(self) -> None:
        self.down()
        if self.down_s is not None:
            time.sleep(self.down_s)
            self.up()

    def draw(self) -> tuple[str | None, float]:
        """Draw the fault of the next request, and its position in the bytes, from 0 to 1."""
        with self._lock:
            self.requests += 1
            if self.requests == self.down_at:
                threading.Thread(target=self._pause, daemon=True).start()
            fault = self._chance.choice(self.faults) if self._chance.random() < self.share else None
            return fault, self._chance.random()

    def count(self, fault: str) -> None:
        with self._lock:
            self.injected[fault] += 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def handle_request(self) -> None:
        proxy = self.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if proxy._server is None:
            return self._reset()
        headers = {name.lower(): value for name, value in self.headers.items()}
        proxy.heard.append((f"{self.command} {self.path}", headers))
        fault, place = proxy.draw()
        if fault in CODES:
            proxy.count(fault)
            return self._refuse(*CODES[fault])
        if fault == "reset":
            proxy.count(fault)
            return self._reset()
        if fault == "corrupt" and body and not self.path.endswith("?delete"):
            proxy.count(fault)
            body = _flipped(body, place)
            fault = None
        self._answer(fault, place, *self._forward(body))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request  # noqa: N815

    def _answer(self, fault: str | None, place: float, status: int, headers: Any, data: bytes) -> None:
        proxy = self.proxy
        if fault == "repeat" and "list-type" in self.path:
            prefix = parse_qs(urlsplit(self.path).query).get("prefix", [""])[0]
            if prefix in proxy._pages:
                headers, data = proxy._pages[prefix]
                proxy.count(fault)
            elif b"<IsTruncated>true" in data:
                proxy._pages[prefix] = headers, data
        checked = "x-amz-checksum-sha256" in headers and "-" not in headers["x-amz-checksum-sha256"]
        if fault == "corrupt" and self.command == "GET" and data and checked:
            proxy.count(fault)
            data = _flipped(data, place)
        if fault == "rot" and status == 206:
            proxy.count(fault)
            data = _flipped(data, place)
        if fault == "lost":  # the request is done, but the response is lost
            proxy.count(fault)
            return self._reset()
        head = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}"]
        head += [f"{name}: {value}" for name, value in headers.items() if name.lower() != "transfer-encoding"]
        if "content-length" not in headers:
            head.append(f"Content-Length: {len(data)}")
        whole = "\r\n".join([*head, "", ""]).encode("latin-1") + data
        if fault in ("cut", "stall") or (fault == "truncated" and data):
            proxy.count(fault)
            least = len(whole) - len(data) if fault == "truncated" else 0
            self.wfile.write(whole[: least + int(place * (len(whole) - least))])
            self.wfile.flush()
            if fault == "stall":
                time.sleep(proxy.stall_s)
            self.close_connection = True
            return None if fault == "truncated" else self._reset()
        self.wfile.write(whole)
        return None

    def _forward(self, body: bytes) -> tuple[int, Any, bytes]:
        upstream = http.client.HTTPConnection(self.proxy.target, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            upstream.close()

    def _refuse(self, status: int, code: str) -> None:
        data = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):  # the connection was closed by the client or by this proxy
            self.close_connection = True

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *words: object) -> None:
        pass


def _flipped(data: bytes, place: float) -> bytes:
    at = int(place * len(data))
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
