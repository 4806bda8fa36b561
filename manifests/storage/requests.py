"""How many requests this process has sent to object stores, by kind: they are paid for by the thousand."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

KINDS = {"List": "list", "Put": "put", "Create": "put", "Upload": "put", "Complete": "put", "Copy": "put",
         "Delete": "delete", "Abort": "delete"}  # fmt: skip
"""Kinds of S3's operations by their first word; all others, GetObject and HeadObject, are of the kind 'get'."""

_sent: Counter[str] = Counter()
_lock = threading.Lock()


def kind_of(operation: str) -> str:
    """The kind of an operation of S3: 'put' and 'list', which are priced alike, 'get', or 'delete', which is free.

    >>> kind_of("ListObjectsV2"), kind_of("UploadPart"), kind_of("HeadObject"), kind_of("AbortMultipartUpload")
    ('list', 'put', 'get', 'delete')
    """
    return next((kind for word, kind in KINDS.items() if operation.startswith(word)), "get")


def sent() -> Counter[str]:
    """Requests of this process, and of those that decode for it, since it began; tries that failed count."""
    with _lock:
        return _sent.copy()


def count(requests: Mapping[str, int]) -> None:
    """Count requests, by kind, that a process sent on behalf of this one."""
    with _lock:
        _sent.update(requests)


def watch(client: Any) -> None:
    """Count all that a client of botocore sends from now on."""
    client.meta.events.register("before-send.s3", _before_send)


def _before_send(event_name: str, **_: Any) -> None:
    """botocore's event of one request over the network, named before-send.s3.GetObject or so. None: send it."""
    count({kind_of(event_name.rpartition(".")[2]): 1})
