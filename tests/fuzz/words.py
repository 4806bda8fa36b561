"""Values at which readers of names, JSON, tar, HTTP and containers have gone wrong; plans are made of them."""

# fmt: off
NUMBERS = [
    0, 1, 2, 3, 7, 8, 15, 16, 64, 127, 128, 255, 256, 4095, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 44100, 0x7FFFFFFF,
    0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
]
"""Sizes, counts and rates in the headers of containers."""

PARTS_OF_NAMES = [
    b"\0", b"..", b"%", b"%00", b"%ZZ", b"#", b"?", b"\x1b[31m", b"\xff", b"\xef\xbb\xbf", b"*", b"[a", b" ", b"~",
        b"$HOME",
    b"-", b"a" * 300, "\u202e".encode(), "\u0085".encode(), "\u2028".encode(), "é".encode(),
]
HOSTS = [
    b"127.0.0.1:1", b"[::1", b"[::1]:1", b"[", b"]", b"127.0.0.1:99999", b"127.0.0.1:abc", b"127.0.0.1:-1", b"a..b",
        b".",
    b"a" * 70, "℀.x".encode(), b"", b":1", b"@", b"user:pw@127.0.0.1:1", b"[fe80::1%25x]:1", b"0x7f.1:1",
        b"2130706433:1",
    b"127.0.0.1:1:1", b"[v1.x]", b"127.0.0.1\\:1", b"\0", "127.0.0.1:١".encode(),
]
"""None is ever looked up: each is an address, or cannot be a name."""
SCHEMES = [b"http", b"HTTP", b"https", b"Https", b"ftp", b"file", b"data", b"concat", b"", b"gs", b"h t"]
QUERIES = [b"", b"?a=b c", "?title=café".encode(), b"?token=x", b"#x", b"?X-Amz-Signature=x", b"?%"]
BUCKETS = [b"", b"/", b"\0/", b"../", b"A B/", b"[/", b"%/"]
"""None that could be asked for."""
OFFSETS = [b"0", b"44", b"99999999999999999999", b"9" * 400, b"-1", "٣".encode(), "²".encode(), b"1e3", b""]
"""Of members of archives, as text."""

JSON = [
    b"null", b"true", b"5", b"-1", b"1e999", b"NaN", b"-Infinity", b"0.1", b"1" + b"0" * 30, b"1" * 400, b"9" * 5000,
    b"[]", b"{}", b'""', b'[""]', b"[null]", b"[5]", b'"en"', b'["en", "fr"]', b'{"en": 1}', b'{"language": 5}',
    b'[{"language": ["en"]}]', b'"\\ud800"', b'"\\ud800.wav"', b'"a\\u0000b"', b'"\xff"', b'"\\x"', b'"\xe2\x80\xae"',
    b'"\x1b[2J"', b"'x'", b"", b'"' + b"x" * 70_000 + b'"', b"[" * 20_000, b"[" * 900 + b"]" * 900, b'{"a":' * 3000,
]

TAR_NUMBERS = [
    b"", b"0", b"00000000001\0", b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1", b"99999999999", b"xyz",
    b"\x80" + b"\0" * 3 + b"\x7f" * 8, b"\x80\0\0\0\0\0\0\0\0\0\x10\0", b"           \0",
]
PAX_RECORDS = [
    b"30 mtime=1e400\n", b"18 size=99999999\n", b"25 path=../../<n>.wav\n", b"11 size=-1\n", b"999999 a=b\n",
        b"0 a=b\n", b"x",
    b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", b"19 path=a\xff\xfe.wav\n", b"12 path=\0\0\n",
        b"9" * 5000 + b" a=b\n",
    b"26 GNU.sparse.map=0,9,9,9\n", b"25 GNU.sparse.size=999999\n", b"20 hdrcharset=X-Y\n",
]

STATUSES = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 206 Partial Content", b"HTTP/1.1 302 Found", b"HTTP/1.1 308 x", b"HTTP/1.1 416 x",
    b"HTTP/1.1 503 Busy", b"HTTP/1.1 429 x", b"HTTP/1.1 404 \x1b[31mRED", b"HTTP/1.1 100 Continue", b"HTTP/1.0 200",
    b"HTTP/9.9 200 OK", b"HTTP/1.1 999999 x", b"HTTP/1.1 -1 x", b"HTTP/1.1", b"ICY 200 OK", b"", b"\xff\xfe",
    b"HTTP/1.1 204 x", b"HTTP/1.1 304 x", b"HTTP/1.1 101 x", b"HTTP/1.1 401 x", "HTTP/1.1 ² x".encode(),
]
HEADERS = [
    b"Content-Range", b"Content-Length", b"Transfer-Encoding", b"Location", b"Last-Modified", b"ETag", b"Retry-After",
    b"Content-Encoding", b"Content-Type", b"Connection", b"Trailer", b"X", b"", b"\xff", b"Content-Length ",
]
HEADER_VALUES = [
    b"", b"-1", b"0", b"1", b" 7 ", b"+7", b"7, 7", b"1_0", b"1e9", b"9" * 30, b"9" * 5000, "²".encode(), b"\xb2",
        b"x", b"\0",
    b"{size}", b"chunked", b"gzip", b"a" * 70_000, b"x\r\n folded", b"bytes 0-0/{size}", b"bytes */{size}",
    b"bytes 0-{last}/*", b"bytes 5-{last}/{size}", b"bytes 0-" + b"9" * 400 + b"/9", b"bytes 0-0/1, bytes 0-0/2",
    b"{url}/0.wav", b"http://[::1/x.wav", b"http://127.0.0.1:99999/", b"http://" + b"a" * 300 + b"/", b"http://a..b/",
    b"//", b"?a b", b"\xe9", "/café.wav".encode(), b"ftp://127.0.0.1/", b"file:///etc/passwd", b"https://127.0.0.1:1/",
    b"http://user:pw@127.0.0.1:1/", b"Fri, 27 Nov 99999999999 00:00:00 GMT", b"Fri, 31 Dec 9999 23:59:59 GMT",
    b"Fri, 01 Jan 0001 00:00:00 +2359", b"Thu, 01 Jan 1970 00:00:00 -9999",
]
BODIES = [
    b"", b"<html>log in</html>", b"5\r\nhello\r\n0\r\n\r\n", b"fffffffffffffffff\r\nx", b"-5\r\n",
        b"5;" + b"x" * 70_000,
    b"xyz\r\n", b"5\r\nhello\r\n0\r\n" + b"a: b\r\n" * 300, b"\x1f\x8b\x08\0",
]
