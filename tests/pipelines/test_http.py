"""Recordings over HTTP as hostile input: ranges, redirects, limits, addresses that may not be reached."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from manifests.lake import Lake
from manifests.storage import StorageConfig
from manifests.storage.ranged import BLOCK_BYTES
from pipelines.audio.files import open_file, stat_file
from pipelines.audio.http import is_public
from pipelines.errors import UnreadableAudioError
from pipelines.ingest import ingest
from pipelines.recipe import IngestConfig

CONFIG = StorageConfig(http_private=True, retry_s=3.0, timeout_s=1.0)
LAST_MODIFIED = "Tue, 24 Nov 2026 10:00:00 GMT"


class Site:
    """A server on loopback; `pages` by path are bytes or a function that answers by itself."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.ranges, self.seen = True, []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                self.seen.append((handler.path, handler.headers["Range"]))
                page = self.pages.get(handler.path)
                if page is None:
                    handler.send_error(404)
                elif callable(page):
                    page(handler)
                else:
                    self.send(handler, page)

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *words: None  # clients that hang up are what is tested
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def send(self, handler: BaseHTTPRequestHandler, page: bytes) -> None:
        wanted = handler.headers["Range"]
        body = page
        if self.ranges and wanted:
            start, stop = (int(text) for text in wanted.removeprefix("bytes=").split("-"))
            if start >= len(page):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(page)}")
                handler.send_header("Content-Length", "0")
                return handler.end_headers()
            body = page[start : stop + 1]
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(page)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Last-Modified", LAST_MODIFIED)
        handler.end_headers()
        handler.wfile.write(body)
        return None


def redirect(target: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    return answer


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("size", [0, 1, 2 * BLOCK_BYTES + 5])
def test_a_file_is_read_at_any_place_with_or_without_ranges(site: Site, ranges: bool, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    site.pages["/a.wav"], site.ranges = data[:size], ranges
    with open_file(f"{site.url}/a.wav", CONFIG) as file:
        assert file.read() == data[:size]
        file.seek(max(0, size - 3))
        assert file.read() == data[max(0, size - 3) : size]
    stat = stat_file(f"{site.url}/a.wav", CONFIG)
    assert stat.size_bytes == size
    assert stat.mtime_ns == (0 if not size and ranges else 1795514400 * 10**9)


def test_redirects_are_followed_but_not_for_ever_and_only_to_http(site: Site) -> None:
    site.pages |= {"/1": redirect("/2"), "/2": redirect(f"{site.url}/3"), "/3": b"sound", "/loop": redirect("/loop")}
    site.pages |= {"/file": redirect("file:///etc/passwd"), "/nowhere": redirect("")}
    assert open_file(f"{site.url}/1", CONFIG).read() == b"sound"
    for path, message in (("/loop", "redirects"), ("/file", "only http"), ("/nowhere", "redirects")):
        with pytest.raises(UnreadableAudioError) as caught:
            open_file(f"{site.url}{path}", CONFIG)
        assert message in f"{caught.value} {caught.value.remedy}"


def test_private_addresses_are_refused_however_they_are_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    port = site.server.server_port
    site.pages["/a"] = b"secret of the inside"
    for host in ("127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0"):
        with pytest.raises(UnreadableAudioError) as caught:
            open_file(f"http://{host}:{port}/a", StorageConfig(retry_s=0.1))
        assert "no public address" in str(caught.value) or "no address" in str(caught.value), host
    assert site.seen == []
    # A name that is public when asked first and private the next time: the address that was checked is connected to.
    answers = [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))] for ip in ("8.8.8.8", "127.0.0.1")]
    connected: list[str] = []
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *words, **named: answers.pop(0) if len(answers) > 1 else answers[0]
    )
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: connected.append(address[0]) or self.refuse)
    with pytest.raises((UnreadableAudioError, AttributeError)):
        open_file(f"http://rebinding.example:{port}/a", StorageConfig(retry_s=0.1))
    assert connected == ["8.8.8.8"]
    assert site.seen == []


def test_a_redirect_to_the_inside_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first hop is taken for public, as a crawled site would be."""
    site.pages |= {"/a": redirect(f"http://localhost:{site.server.server_port}/b"), "/b": b"secret of the inside"}
    monkeypatch.setattr("pipelines.audio.http.is_public", lambda address: len(site.seen) == 0)
    with pytest.raises(UnreadableAudioError, match="no public address"):
        open_file(f"{site.url}/a", StorageConfig())
    assert [path for path, _ in site.seen] == ["/a"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2600::1", True), ("10.0.0.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("224.0.0.1", False), ("fe80::1%eth0", False), ("fd00:ec2::254", False), ("::1", False),
        ("::ffff:10.0.0.1", False), ("64:ff9b::a9fe:a9fe", False), ("2002:7f00:1::", False), ("64:ff9b::808:808", True),
    ],
)  # fmt: skip
def test_public_addresses_are_told_from_those_of_the_inside(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_file_that_is_too_large_or_too_slow_is_given_up(site: Site) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):  # the client hangs up
            while True:
                handler.wfile.write(bytes(1 << 16))

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):  # the client hangs up
            while not threading.Event().wait(0.05):
                handler.wfile.write(b"x")

    site.pages |= {"/endless": endless, "/drip": drip, "/large": bytes(2_000_000)}
    small = StorageConfig(http_private=True, http_max_gb=0.001, http_max_s=1.5, timeout_s=1.0)
    for path, message in (("/endless", r"10\d{5} bytes"), ("/drip", "too slow"), ("/large", "2000000 bytes")):
        with pytest.raises(UnreadableAudioError, match=message):
            open_file(f"{site.url}{path}", small)


def test_passing_failures_are_tried_again(site: Site) -> None:
    def first(failure: Callable[[BaseHTTPRequestHandler], None]) -> Callable[[BaseHTTPRequestHandler], None]:
        tried: list[int] = []

        def answer(handler: BaseHTTPRequestHandler) -> None:
            tried.append(1)
            failure(handler) if len(tried) == 1 else site.send(handler, b"sound")

        return answer

    def short(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"so")

    site.pages["/busy"] = first(lambda handler: handler.send_error(503))
    site.pages["/short"] = first(short)
    site.pages["/hang"] = first(lambda handler: threading.Event().wait(1.5) and None)
    for path in ("/busy", "/short", "/hang"):
        assert open_file(f"{site.url}{path}", CONFIG).read() == b"sound"
    with pytest.raises(UnreadableAudioError, match="status 404"):
        open_file(f"{site.url}/missing", CONFIG)


def test_a_list_of_urls_is_ingested_and_urls_with_secrets_are_failed_rows_without_them(
    site: Site, tmp_path: Path, conversation: Path
) -> None:
    site.pages |= {"/calls/a b.wav": b"", "/calls/a%20b.wav": conversation.read_bytes(), "/calls/gone.wav": b"x"}
    secret = f"{site.url}/calls/x.wav?X-Amz-Signature=plantedsecret"
    password = site.url.replace("http://", "http://user:plantedsecret@") + "/calls/y.wav"
    site.pages["/calls/list.txt"] = f"a b.wav\nmissing.wav\n{secret}\n{password}\n".encode()
    lake = Lake.at(str(tmp_path / "lake"), CONFIG)
    result = ingest(lake, [f"{site.url}/calls/list.txt"], IngestConfig())
    assert (result.met, result.failed) == (4, 3)
    (table,) = (table for _, table in lake.recordings())
    rows = {row["uris"][0].rpartition("/")[2]: row for row in table.to_pylist()}
    assert rows["a%20b.wav"]["sha256"] == hashlib.sha256(conversation.read_bytes()).hexdigest()
    assert "404" in rows["missing.wav"]["error"]
    assert "signature" in rows["x.wav"]["error"]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "lake").rglob("*.parquet")) + str(rows).encode()
    assert b"plantedsecret" not in kept
    assert not any("x.wav" in path or "y.wav" in path for path, _ in site.seen)
