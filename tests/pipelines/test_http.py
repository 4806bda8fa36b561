"""Recordings over HTTP as hostile input: ranges, redirects, limits, addresses that may not be reached."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from http_site import CONFIG, Site, redirect, redirect_raw

from manifests.lake import Lake
from manifests.storage import StorageConfig
from manifests.storage.ranged import BLOCK_BYTES
from pipelines.audio.files import open_file, stat_file
from pipelines.audio.http import is_public
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig
from runtime.errors import UnreachableAudioError, UnreadableAudioError


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
    for path, message in (("/loop", "in a circle"), ("/file", "only http"), ("/nowhere", "redirects to nowhere")):
        with pytest.raises(UnreachableAudioError) as caught:
            open_file(f"{site.url}{path}", CONFIG)
        assert message in f"{caught.value} {caught.value.remedy}"


def test_as_many_redirects_as_the_recipe_says_are_followed_and_20_without_a_word(site: Site) -> None:
    site.pages |= {f"/{number}": redirect(f"/{number - 1}") for number in range(1, 22)} | {"/0": b"sound"}
    assert open_file(f"{site.url}/20", CONFIG).read() == b"sound"
    with pytest.raises(UnreachableAudioError, match="more than 20 redirects") as caught:
        open_file(f"{site.url}/21", CONFIG)
    assert "http_redirects" in caught.value.remedy
    more = replace(CONFIG, http_redirects=21)
    assert open_file(f"{site.url}/21", more).read() == b"sound"
    with pytest.raises(ValueError, match="http_redirects"):
        replace(CONFIG, http_redirects=-1)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("/a.wav?title=café", "/a.wav?title=caf%C3%A9"),
        ("/café episode.wav", "/caf%C3%A9%20episode.wav"),
        ("/caf%C3%A9%20episode.wav", "/caf%C3%A9%20episode.wav"),
        ("/a.wav?title=a b#part", "/a.wav?title=a%20b"),
        ("/хор.wav", "/%D1%85%D0%BE%D1%80.wav"),
        ("/100%.wav?x=[1]|{2}", "/100%.wav?x=[1]|{2}"),
        ("?x=1", "/?x=1"),
    ],
)
def test_urls_are_asked_for_as_browsers_do_given_or_redirected_to(site: Site, given: str, asked: str) -> None:
    site.pages[asked] = b"sound"
    site.pages |= {"/utf-8": redirect_raw(f"{site.url}{given}".encode()), "/relative": redirect_raw(given.encode())}
    assert open_file(f"{site.url}{given}", CONFIG).read() == b"sound"
    assert open_file(f"{site.url}/utf-8", CONFIG).read() == b"sound"
    if given.startswith("/"):
        assert open_file(f"{site.url}/relative", CONFIG).read() == b"sound"


def test_a_redirect_whose_bytes_are_not_utf_8_is_followed_to_just_those_bytes(site: Site) -> None:
    site.pages |= {"/a": redirect_raw(b"\\caf\xe9 1.wav"), "/caf%E9%201.wav": b"sound"}
    assert open_file(f"{site.url}/a", CONFIG).read() == b"sound"


@pytest.mark.parametrize(
    "url",
    [
        *("http://[::1/x.wav", "http://h:99999/x.wav", "http://h:-1/", "http://h:abc/x.wav", "http://h:0/x.wav"),
        *(
            "http://a..b/x.wav",
            f"http://{'a' * 70}/x.wav",
            f"http://{'a.' * 200}b/x.wav",
            "http://℀.x/x.wav",
            "http://",
        ),
        *(
            "http:///x.wav",
            "http://a b/x.wav",
            "http://a\0b/x.wav",
            "http://h/\ud800.wav",
            "http://straße.example/x.wav",
        ),
        *("http://\ud800/x.wav", "http://a\x1b[31mb/x.wav", "http://[v1.x]/", "http://[1::2::3]/", "http://%zz/"),
        "http://no-such-host.invalid/x.wav",
    ],
)
def test_what_is_no_url_fails_at_once_given_or_redirected_to(site: Site, url: str) -> None:
    site.pages["/a"] = redirect_raw(url.encode("utf-8", "surrogatepass"))
    patient = replace(CONFIG, retry_s=60.0)
    began = time.monotonic()
    for name in (url, f"{site.url}/a"):
        with pytest.raises(UnreachableAudioError) as caught:
            open_file(name, patient)
        assert "\x1b" not in f"{caught.value}{caught.value.remedy}"
    assert time.monotonic() - began < 5


def test_a_password_in_a_redirect_is_neither_used_nor_shown(site: Site) -> None:
    port = site.server.server_port
    site.pages |= {"/a": redirect(f"http://user:plantedsecret@127.0.0.1:{port}/b"), "/b": b"sound"}
    site.pages["/c"] = redirect("http://user:plantedsecret@[::1/b")
    for path in ("/a", "/c"):
        with pytest.raises(UnreachableAudioError) as caught:
            open_file(f"{site.url}{path}", CONFIG)
        assert "plantedsecret" not in f"{caught.value}{caught.value.remedy}"
    assert [path for path, _ in site.seen] == ["/a", "/c"]


def versions(site: Site, *pages: bytes, header: str = "ETag") -> Callable[[BaseHTTPRequestHandler], None]:
    """Mirrors behind one name: each answer is of the next page and has another value of `header`."""
    count = itertools.count()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        number = next(count)
        page, wanted = pages[number % len(pages)], handler.headers["Range"]
        start, stop = (int(text) for text in wanted[6:].split("-")) if wanted else (0, len(page))
        handler.send_response(206 if wanted else 200)
        if wanted:
            stop = min(stop + 1, len(page))
            handler.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(page)}")
        handler.send_header("Content-Length", str(stop - start))
        handler.send_header(header, f"Fri, 27 Nov 2026 00:00:{number % 60:02d} GMT")
        handler.end_headers()
        handler.wfile.write(page[start:stop])

    return answer


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_mirrors_that_name_one_file_differently_give_its_bytes_from_one_answer(site: Site, header: str) -> None:
    data = bytes(range(251)) * 12_000
    site.pages["/a"] = versions(site, data, header=header)
    with open_file(f"{site.url}/a", CONFIG, 1 << 20) as file:
        assert file.read() == data
        file.seek(5)
        assert file.read(10) == data[5:15]
    assert [wanted for _, wanted in site.seen].count(None) == 1


@pytest.mark.parametrize("change", [0, -1])
def test_mirrors_whose_bytes_or_sizes_differ_are_told(site: Site, change: int) -> None:
    data = bytes(range(251)) * 12_000
    other = data[:change] if change else b"x" + data[1:]
    site.pages["/a"] = versions(site, data, other, other)
    with (
        open_file(f"{site.url}/a", CONFIG, 1 << 20) as file,
        pytest.raises(UnreachableAudioError, match="while"),
    ):
        file.read()


def test_parts_that_are_larger_or_smaller_than_asked_for_are_taken_and_other_parts_are_not(site: Site) -> None:
    data = bytes(range(251)) * 12_000

    def part(shift: Callable[[int, int], tuple[int, int]]) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            if not (wanted := handler.headers["Range"]):
                return site.send(handler, data)
            start, stop = shift(*(int(text) for text in wanted[6:].split("-")))
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{stop}/{len(data)}")
            handler.end_headers()
            with contextlib.suppress(OSError):  # the client hangs up
                handler.wfile.write(data[start : stop + 1])

        return answer

    def always(handler: BaseHTTPRequestHandler) -> None:
        """The whole file as a part of itself, also where no part was asked for."""
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        with contextlib.suppress(OSError):  # the client hangs up
            handler.wfile.write(data)

    site.pages["/to-the-end"] = part(lambda start, stop: (start, len(data) - 1))
    site.pages["/little"] = part(lambda start, stop: (start, min(start + 99_999, len(data) - 1)))
    site.pages["/elsewhere"] = part(lambda start, stop: (start + 1 if start else 0, min(stop, len(data) - 1)))
    site.pages["/whole"] = part(lambda start, stop: (0, len(data) - 1))
    site.pages["/always"] = always
    for path in ("/to-the-end", "/little", "/elsewhere", "/whole", "/always"):
        with open_file(f"{site.url}{path}", CONFIG, 1 << 20) as file:
            assert file.read() == data, path


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
        ("168.63.129.16", False), ("192.0.0.192", False), ("100.100.100.200", False), ("192.80.8.124", False),
        ("64:ff9b:1::a00:1", False), ("64:ff9b:1::808:808", False), ("fec0::1", False), ("::127.0.0.1", False),
        ("::10.0.0.1", False), ("::8.8.8.8", False), ("::ffff:8.8.8.8", False), ("::ffff:0:10.0.0.1", False),
        ("::", False), ("255.255.255.255", False), ("192.88.99.1", False), ("198.18.0.1", False), ("100::1", False),
        ("240.0.0.1", False), ("172.31.0.1", False), ("172.32.0.1", True), ("169.254.170.2", False), ("5f00::1", False),
        ("fd20:ce::254", False), ("fd00:42::42", False), ("2001::1", False), ("2001:db8::1", False), ("ff02::1", False),
        ("2002:808:808::1", False), ("3fff::1", False), ("4000::1", False), ("2001:4860:4860::8888", True),
        ("2600::5efe:10.0.0.1", False), ("2600::200:5efe:a9fe:a9fe", False), ("2600::5efe:8.8.8.8", True), ("h", False),
        ("fe80::1%25eth0", False), ("1.1.1.1", True), ("2400:cb00::1", True), ("2a00:1450::1", True), ("", False),
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
    small = StorageConfig(http_private=True, http_max_gb=0.001)
    quick = StorageConfig(http_private=True, http_max_s=1.5)
    cases = (("/endless", r"10\d{5} bytes", small), ("/drip", "too slow", quick), ("/large", "2000000 bytes", small))
    for path, message, config in cases:
        with pytest.raises(UnreadableAudioError, match=message):
            open_file(f"{site.url}{path}", config)


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
    assert (result.names, result.failed) == (4, 3)
    (table,) = (table for _, table in lake.recordings())
    rows = {row["uris"][0].rpartition("/")[2]: row for row in table.to_pylist()}
    assert rows["a%20b.wav"]["sha256"] == hashlib.sha256(conversation.read_bytes()).hexdigest()
    assert "404" in rows["missing.wav"]["error"]
    assert "signature" in rows["x.wav"]["error"]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "lake").rglob("*.parquet")) + str(rows).encode()
    assert b"plantedsecret" not in kept
    assert not any("x.wav" in path or "y.wav" in path for path, _ in site.seen)
