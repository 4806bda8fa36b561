"""Answers over HTTP that are wrong, endless or odd, byte by byte from raw sockets: none ends or hangs an ingest."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_listings import speechmill as limited

from manifests.lake import Lake
from manifests.storage import StorageConfig
from pipelines.audio import wire
from pipelines.audio.files import open_file, stat_file
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig
from runtime.errors import UnreachableAudioError

CONFIG = StorageConfig(http_private=True, http_max_s=1.0, retry_s=0.5, timeout_s=0.8)
DATA = bytes(range(251)) * 40
WHOLE = b"HTTP/1.1 200 OK\r\n"
PART = b"HTTP/1.1 206 Partial Content\r\n"
END = b"\r\n\r\n"
DIGITS = b"9" * 5000

Page = bytes | Callable[[socket.socket], None]


class RawSite:
    """A server on loopback that sends pages byte by byte as they are. A page that is a function sends by itself."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.context: ssl.SSLContext | None = None
        self.stopped = threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=32)
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://{self.address}{path}"

    def close(self) -> None:
        self.stopped.set()
        self.socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:  # the client hangs up
            connection.settimeout(10)
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connection.recv(4096)
            page = self.pages.get(request.split()[1].decode(), b"")
            if callable(page):
                page(connection)
            else:
                connection.sendall(page)
            connection.shutdown(socket.SHUT_WR)


@pytest.fixture
def site() -> Iterator[RawSite]:
    made = RawSite()
    yield made
    made.close()


def endless(start: bytes, again: bytes, pause_s: float = 0.0) -> Callable[[socket.socket], None]:
    """For at most 10 s."""

    def send(connection: socket.socket) -> None:
        connection.sendall(start)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            connection.sendall(again)
            time.sleep(pause_s)

    return send


def redirect(target: bytes) -> bytes:
    return b"HTTP/1.1 302 Found\r\nLocation: " + target + END


CHUNKED = WHOLE + b"Transfer-Encoding: chunked" + END
DRIPS: dict[str, Page] = {
    "/drip/status": endless(b"", b"H", 0.1),
    "/drip/headers": endless(WHOLE + b"X: ", b"x", 0.1),
    "/drip/continue": endless(b"", b"HTTP/1.1 100 Continue" + END, 0.1),
    "/drip/body": endless(WHOLE + b"\r\n", b"x", 0.1),
    "/drip/part": endless(PART + b"Content-Range: bytes 0-9999/10000" + END, b"x", 0.1),
    "/drip/chunk": endless(CHUNKED, b"1", 0.1),
    "/drip/trailers": endless(CHUNKED + b"0\r\n", b"X: y\r\n", 0.1),
    "/silent": lambda connection: time.sleep(3),
}
FLOODS: dict[str, Page] = {
    "/flood/status": endless(b"", b"H" * 4096),
    "/flood/header": endless(WHOLE + b"X: ", b"x" * 4096),
    "/flood/headers": endless(WHOLE, b"X: y\r\n" * 512),
    "/flood/continue": endless(b"", (b"HTTP/1.1 100 Continue" + END) * 256),
    "/flood/chunk": endless(CHUNKED, b"0" * 4096),
    "/flood/extension": endless(CHUNKED, b"1;" + b"x" * 4096 + b"\r\nx\r\n"),
    "/flood/trailers": endless(CHUNKED + b"0\r\n", b"X: y\r\n" * 512),
}
WRONG: dict[str, Page] = {
    "/redirect/bracket": redirect(b"http://[::1/ok.wav"),
    "/redirect/port": redirect(b"http://h:99999/"),
    "/redirect/long": redirect(b"http://" + b"a" * 300),
    "/redirect/dots": redirect(b"http://a..b/"),
    "/redirect/file": redirect(b"file:///etc/passwd"),
    "/redirect/none": b"HTTP/1.1 302 Found" + END,
    "/size/digits": WHOLE + b"Content-Length: " + DIGITS + END,
    "/size/two": WHOLE + b"Content-Length: 5\r\nContent-Length: 6" + END + b"sound",
    "/size/more": WHOLE + b"Content-Length: 6" + END + b"sound",
    "/range/digits": PART + b"Content-Range: bytes 0-" + DIGITS + b"/" + DIGITS + END,
    "/range/total": PART + b"Content-Range: bytes 0-4/" + DIGITS + END + b"sound",
    "/range/star": PART + b"Content-Range: bytes 0-4/*" + END + b"sound",
    "/range/none": PART + END + b"sound",
    "/range/two": PART + b"Content-Range: bytes 0-4/\xb2" + END + b"sound",
    "/range/416": b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */" + DIGITS + END,
    "/retry/digits": b"HTTP/1.1 503 Busy\r\nRetry-After: " + DIGITS + END,
    "/retry/two": b"HTTP/1.1 503 Busy\r\nRetry-After: \xb2" + END,
    "/retry/day": b"HTTP/1.1 429 Slow Down\r\nRetry-After: 86400" + END,
    "/reason": b"HTTP/1.1 404 \x1b[31mRED\x1b]0;title\x07\xe2\x80\xae" + b"x" * 9999 + END,
    "/nothing": b"",
    "/ssh": b"SSH-2.0-OpenSSH_9.6 \x1b[31m\r\n",
    "/http2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\n\n",
    "/switch": b"HTTP/1.1 101 Switching Protocols" + END,
    "/chunk/word": CHUNKED + b"\x1b[31mfive\r\nsound\r\n0\r\n\r\n",
    "/chunk/minus": CHUNKED + b"-5\r\nsound\r\n0\r\n\r\n",
    "/chunk/large": CHUNKED + b"f" * 300 + b"\r\nsound\r\n0\r\n\r\n",
    "/chunk/longer": CHUNKED + b"3\r\nsound\r\n0\r\n\r\n",
    "/chunk/cut": CHUNKED + b"5\r\nsou",
    "/chunk/no-end": CHUNKED + b"5\r\nsound\r\n",
    "/coding": WHOLE + b"Transfer-Encoding: gzip, chunked" + END + b"5\r\nsound\r\n0\r\n\r\n",
}
HOSTILE = DRIPS | FLOODS | WRONG

LENGTH = b"Content-Length: %d\r\n" % len(DATA)
FRAMED = b"%x;a=b\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(DATA), DATA)
ODD: dict[str, Page] = {
    "/date/far": WHOLE + LENGTH + b"Last-Modified: Fri, 31 Dec 9999 23:59:59 GMT\r\n\r\n" + DATA,
    "/date/digits": WHOLE + LENGTH + b"Last-Modified: Tue, 24 Nov " + DIGITS + b" 10:00:00 GMT\r\n\r\n" + DATA,
    "/date/large": WHOLE + LENGTH + b"Last-Modified: " + b"9" * 40 + b" Nov 2026 10:00:00 GMT\r\n\r\n" + DATA,
    "/date/early": WHOLE + LENGTH + b"Last-Modified: Mon, 01 Jan 1900 00:00:00 GMT\r\n\r\n" + DATA,
    "/size/two": WHOLE + b"Content-Length: \xb2" + END + DATA,
    "/size/minus": WHOLE + b"Content-Length: -5" + END + DATA,
    "/size/none": WHOLE + b"\r\n" + DATA,
    "/size/twice": WHOLE + LENGTH + LENGTH + b"\r\n" + DATA,
    "/chunked": CHUNKED + FRAMED,
    "/chunked/and-size": WHOLE + b"Content-Length: 3\r\nTransfer-Encoding: Chunked" + END + FRAMED,
    "/header/no-colon": WHOLE + b"what is this\r\nTransfer-Encoding: chunked" + END + FRAMED,
    "/header/blank": WHOLE + b"X : y\r\nTransfer-Encoding : chunked" + END + FRAMED,
    "/header/letters": WHOLE + "Ü: ü\r\n".encode() + b": y\r\nTransfer-Encoding: chunked" + END + FRAMED,
    "/header/folded": WHOLE + b"X: y\r\n z\r\nTransfer-Encoding:\r\n chunked" + END + FRAMED,
    "/header/many": WHOLE + b"".join(b"X-%d: y\r\n" % n for n in range(1000)) + LENGTH + b"\r\n" + DATA,
    "/header/line-feeds": b"HTTP/1.0 200\nContent-Length: %d\n\n" % len(DATA) + DATA,
    "/continue": (b"HTTP/1.1 100 Continue" + END + b"HTTP/1.1 103 Early Hints\r\nLink: x" + END) * 9
    + WHOLE + LENGTH + b"\r\n" + DATA,
    "/tiny": CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in DATA) + b"0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_answer_fails_within_the_deadline_and_drives_no_terminal(site: RawSite, path: str) -> None:
    site.pages = HOSTILE
    began = time.monotonic()
    with pytest.raises(UnreachableAudioError) as caught:
        open_file(site.url(path), CONFIG)
    assert time.monotonic() - began < 2.0
    assert f"{caught.value}{caught.value.remedy}".isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("path", ODD)
def test_an_odd_answer_that_browsers_read_is_read(site: RawSite, path: str) -> None:
    site.pages = ODD
    assert open_file(site.url(path), CONFIG).read() == DATA
    stat = stat_file(site.url(path), CONFIG)
    assert stat.size_bytes == len(DATA)
    assert stat.mtime_ns == 0


def test_a_list_of_one_endless_line_is_told_and_takes_little_memory(site: RawSite, tmp_path: Path) -> None:
    def line(connection: socket.socket) -> None:
        connection.sendall(WHOLE + b"\r\n")
        for _ in range(500):
            connection.sendall(b"x" * (1 << 20))

    site.pages["/list.txt"] = line
    settings = [f"--set=storage.{one}" for one in ("http_private=true", "http_max_gb=2", "retry_s=1")]
    words = ["ingest", "demo", "--in", site.url("/list.txt"), "--lake", str(tmp_path / "lake"), *settings]
    done = limited(*words, limit_gb=1.0)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "1 unreadable" in done.stdout


@pytest.mark.parametrize("path", FLOODS)
def test_a_flood_that_is_no_part_of_a_file_ends_by_its_size(site: RawSite, path: str) -> None:
    site.pages = FLOODS
    with pytest.raises(UnreachableAudioError, match=r"not part of a file|longer than 65536"):
        open_file(site.url(path), replace(CONFIG, http_max_s=30.0))


def test_a_failure_that_does_not_pass_is_not_tried_again(site: RawSite) -> None:
    site.pages = WRONG
    passing = ("/nothing", "/size/more", "/chunk/cut", "/chunk/no-end", "/retry/digits", "/retry/two", "/retry/day")
    began = time.monotonic()
    for path in WRONG.keys() - set(passing):
        with pytest.raises(UnreachableAudioError):
            open_file(site.url(path), replace(CONFIG, retry_s=60.0, http_max_s=60.0))
    assert time.monotonic() - began < 5.0


def test_every_hostile_answer_is_a_failed_row_and_the_good_ones_beside_are_ingested(
    site: RawSite, tmp_path: Path, conversation: Path
) -> None:
    sound = conversation.read_bytes()
    good = WHOLE + b"Last-Modified: Fri, 31 Dec 9999 23:59:59 GMT\r\nContent-Length: %d" % len(sound) + END + sound
    site.pages = HOSTILE | {"/0.wav": good, "/z.wav": good, "/list.txt": b""}
    names = ["/0.wav", *HOSTILE, "/z.wav"]
    listing = "\n".join(names).encode()
    site.pages["/list.txt"] = WHOLE + b"Content-Length: %d" % len(listing) + END + listing
    lake = Lake.at(str(tmp_path / "lake"), replace(CONFIG, http_max_s=0.4, retry_s=0.15))
    result = ingest(lake, [site.url("/list.txt")], IngestConfig())
    assert (result.names, result.failed) == (len(names), len(HOSTILE))
    found = [row for _, table in lake.recordings() for row in table.to_pylist()]
    rows = {uri.removeprefix(site.url("")): row for row in found for uri in row["uris"]}
    assert {path for path in names if rows[path]["status"] == "ok"} == {"/0.wav", "/z.wav"}
    assert {rows[path]["error_type"] for path in HOSTILE} == {"UnreachableAudioError"}


def test_answers_that_were_changed_at_random_are_read_or_fail_for_their_url_alone(site: RawSite) -> None:
    draw = random.Random(10)
    bases = [page for page in (WRONG | ODD).values() if isinstance(page, bytes) and page]
    config = replace(CONFIG, retry_s=0.01)
    for _ in range(300):
        page = bytearray(draw.choice(bases)[:1500])
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(page))
            page[at : at + draw.choice((0, 1, 1, 1, 20))] = draw.choice(
                (draw.randbytes(1), b"\r\n", b"\n", b":", b" ", b"\xb2", b"-1", b"0", DIGITS[:30], b"\x00", b"")
            )
        site.pages["/a"] = bytes(page)
        with contextlib.suppress(UnreachableAudioError):
            open_file(site.url("/a"), config).read()


def test_a_resolver_that_does_not_answer_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **named: time.sleep(5) or [])
    began = time.monotonic()
    with pytest.raises(UnreachableAudioError, match="too slow"):
        open_file("http://slow.example/a", replace(CONFIG, retry_s=30.0, timeout_s=30.0))
    assert time.monotonic() - began < 2.0


def test_a_port_that_takes_no_connection_is_waited_for_no_longer() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as held:
        for _ in range(4):  # connections that nobody accepts fill its queue
            made = held.enter_context(socket.socket())
            made.setblocking(False)
            made.connect_ex(full.getsockname())
        began = time.monotonic()
        with pytest.raises(UnreachableAudioError, match="too slow"):
            open_file(f"http://127.0.0.1:{full.getsockname()[1]}/a", replace(CONFIG, retry_s=30.0, timeout_s=30.0))
        assert time.monotonic() - began < 2.0


@pytest.fixture
def certified(site: RawSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RawSite]:
    """The site under TLS, with a certificate that is trusted."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    site.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    site.context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    wire.tls_context.cache_clear()
    yield site
    wire.tls_context.cache_clear()


def test_https_is_read_and_never_left_for_http(certified: RawSite) -> None:
    certified.pages = {
        "/a": WHOLE + LENGTH + b"\r\n" + DATA,
        "/b": redirect(b"/a"),
        "/c": redirect(certified.url("/a").encode()),
        "/d": redirect(b"HTTP://user:plantedsecret@" + certified.address.encode() + b"/a"),
        "/drip": endless(WHOLE, b"x", 0.1),
    }
    base = f"https://{certified.address}"
    assert open_file(f"{base}/a", CONFIG).read() == DATA
    assert open_file(f"{base}/b", CONFIG).read() == DATA
    with pytest.raises(UnreachableAudioError, match="from HTTPS to HTTP"):
        open_file(f"{base}/c", CONFIG)
    with pytest.raises(UnreachableAudioError) as caught:
        open_file(f"{base}/d", CONFIG)
    assert "plantedsecret" not in f"{caught.value}{caught.value.remedy}"
    with pytest.raises(UnreachableAudioError, match="too slow"):
        open_file(f"{base}/drip", CONFIG)


def test_a_certificate_that_nobody_vouches_for_is_told_at_once(
    certified: RawSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    wire.tls_context.cache_clear()
    began = time.monotonic()
    with pytest.raises(UnreachableAudioError, match="certificate"):
        open_file(f"https://{certified.address}/a", replace(CONFIG, retry_s=30.0, http_max_s=30.0))
    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize(
    ("greeting", "message"),
    [
        (endless(b"\x16\x03\x03\x40\x00", b"\x02", 0.1), "too slow"),
        (WHOLE + END, "secure connection"),
    ],
)
def test_a_handshake_that_does_not_end_or_is_none_is_told(greeting: Page, message: str) -> None:
    def greet(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client hangs up
            connection, _ = listening.accept()
            with connection:
                greeting(connection) if callable(greeting) else connection.sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=greet, args=(listening,), daemon=True).start()
        began = time.monotonic()
        config = replace(CONFIG, retry_s=30.0, timeout_s=30.0)
        with pytest.raises(UnreachableAudioError, match=message):
            open_file(f"https://127.0.0.1:{listening.getsockname()[1]}/a", config)
        assert time.monotonic() - began < 2.0
