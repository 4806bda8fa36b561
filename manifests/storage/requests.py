"""Counts the requests of this process to object stores by kind, because they are billed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

KINDS = {"List": "list", "Put": "put", "Create": "put", "Upload": "put", "Complete": "put", "Copy": "put",
         "Delete": "delete", "Abort": "delete"}  # fmt: skip
"""Kinds of S3 operations by their first word; all others, GetObject and HeadObject, are of the kind 'get'."""

_sent: Counter[str] = Counter()
_lock = threading.Lock()


def kind_of(operation: str) -> str:
    """The kind of an S3 operation: 'put' and 'list', which have the same price, 'get', or 'delete', which is free.

    >>> kind_of("ListObjectsV2"), kind_of("UploadPart"), kind_of("HeadObject"), kind_of("AbortMultipartUpload")
    ('list', 'put', 'get', 'delete')
    """
    return next((kind for word, kind in KINDS.items() if operation.startswith(word)), "get")


def sent() -> Counter[str]:
    """Requests of this process and of its decoder processes since it started, including failed tries."""
    with _lock:
        return _sent.copy()


def count(requests: Mapping[str, int]) -> None:
    """Add requests by kind that another process sent for this one."""
    with _lock:
        _sent.update(requests)


def watch(client: Any) -> None:
    """Count all requests that a client of botocore sends from now on."""
    client.meta.events.register("before-send.s3", _before_send)


def _before_send(event_name: str, **_: Any) -> None:
    """Handle the event of one request, such as before-send.s3.GetObject; returning None lets botocore send it."""
    count({kind_of(event_name.rpartition(".")[2]): 1})
