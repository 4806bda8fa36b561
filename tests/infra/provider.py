"""A Terraform provider that knows its schema alone, so that real Terraform validates and tests with mocks offline.

Names, types, blocks, references and wiring are checked: not what the provider itself would (enums, ARNs, conflicts).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value) if value else b""


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _block(block: dict[str, Any]) -> bytes:
    """tfplugin5's Schema.Block."""
    out = b""
    for name, attribute in block["attributes"].items():
        flags = (
            _number(4, attribute["required"]) + _number(5, attribute["optional"]) + _number(6, attribute["computed"])
        )
        out += _bytes(2, _bytes(1, name) + _bytes(2, json.dumps(attribute["type"])) + flags)
    for name, nested in block["blocks"].items():
        shape = _number(3, NESTING[nested["nesting"]]) + _number(4, nested["min"]) + _number(5, nested["max"])
        out += _bytes(3, _bytes(1, name) + _bytes(2, _block(nested["block"])) + shape)
    return out


def _schema(block: dict[str, Any]) -> bytes:
    return _bytes(2, _block(block))


class Provider(grpc.GenericRpcHandler):
    """tfplugin5.Provider: GetSchema answers, PrepareProviderConfig gives back what it got, the rest finds no fault."""

    def __init__(self, schemas: dict[str, dict[str, Any]]) -> None:
        (provider,) = schemas["provider"].values()
        self.schema = _bytes(1, _schema(provider))
        for field, kind in ((2, "resource"), (3, "data")):
            for name, block in schemas[kind].items():
                self.schema += _bytes(field, _bytes(1, name) + _bytes(2, _schema(block)))

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        service, _, method = details.method.rpartition("/")
        if service != "/tfplugin5.Provider":
            return None  # the plugin protocol's streams would hold a thread each for ever
        answers: dict[str, Callable[[bytes, Any], bytes]] = {
            "GetSchema": lambda request, context: self.schema,
            "PrepareProviderConfig": lambda request, context: request,  # field 1 of both messages is the configuration
        }
        return grpc.unary_unary_rpc_method_handler(answers.get(method, lambda request, context: b""))


@contextmanager
def serving(schemas: dict[str, dict[str, Any]], source: str = "hashicorp/aws") -> Iterator[dict[str, str]]:
    """Serve on loopback; yields the environment that makes Terraform use this provider for `source`."""
    server = grpc.server(
        ThreadPoolExecutor(8), handlers=[Provider(schemas)], options=[("grpc.max_send_message_length", -1)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    address = {"Network": "tcp", "String": f"127.0.0.1:{port}"}
    attach = {source: {"Protocol": "grpc", "ProtocolVersion": 5, "Pid": os.getpid(), "Test": True, "Addr": address}}
    try:
        yield {"TF_REATTACH_PROVIDERS": json.dumps(attach), "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": os.devnull}
    finally:
        server.stop(0)
