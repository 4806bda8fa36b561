"""A small HTTP server for tests, whose pages are bytes or functions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from manifests.storage import StorageConfig

CONFIG = StorageConfig(http_private=True, retry_s=3.0, timeout_s=1.0)
LAST_MODIFIED = "Tue, 24 Nov 2026 10:00:00 GMT"


class Site:
    """A server on loopback. `pages` has, for each path, the bytes of a file or a function that answers the request."""

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
        self.server.handle_error = lambda *words: None  # tests make clients that hang up
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


def redirect_raw(target: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """A redirect whose `Location` consists of exactly these bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: " + target + b"\r\n\r\n")

    return answer


def redirect(target: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    return answer
