"""Servers that tests talk to over real connections: MiniStack's S3 and IAM, started on loopback and stopped after."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

MINISTACK = Path(__file__).parents[1] / ".venv-servers" / "bin" / "ministack"
ROOT = {"aws_access_key_id": "root", "aws_secret_access_key": "not-checked", "region_name": "us-east-1"}
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


class S3Server:
    """A started server. The secrets of users that `add_user` makes are checked, root's is not."""

    def __init__(self, endpoint_url: str, process: subprocess.Popen[bytes]) -> None:
        self.endpoint_url, self.process = endpoint_url, process

    def client(self, service: str = "s3", **credentials: str) -> Any:
        import boto3

        return boto3.client(service, endpoint_url=self.endpoint_url, **ROOT | credentials)

    def add_user(self, name: str, policy: dict[str, Any]) -> dict[str, str]:
        """Credentials of a new user with this one policy."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def s3_server(folder: Path, port: int | None = None) -> Iterator[S3Server]:
    """MiniStack on loopback alone, with nothing of this process's AWS settings."""
    if not MINISTACK.exists():
        pytest.fail(f"{MINISTACK} is not installed: run `make servers`")
    port = port or free_port()
    settings = {"AUTH": "true", "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "HOME": str(folder)}
    settings |= {"AWS_ACCESS_KEY_ID": "root", "AWS_SECRET_ACCESS_KEY": "not-checked", "TMPDIR": str(folder)}
    with (folder / "ministack.log").open("wb") as log:
        process = subprocess.Popen([MINISTACK], env=settings, cwd=folder, stdout=log, stderr=log)
    try:
        await_port(port, process)
        yield S3Server(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait(10)


def await_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


def plain_environment(server: S3Server, credentials: dict[str, str]) -> dict[str, str]:
    """Variables by which a process reaches `server`, and none of this machine's own AWS settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AWS_ENDPOINT_URL": server.endpoint_url,
        "AWS_ACCESS_KEY_ID": credentials["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": credentials["aws_secret_access_key"],
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
