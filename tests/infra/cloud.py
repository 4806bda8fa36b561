"""A server with S3, IAM and STS on loopback, for trying policies on."""

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

MINISTACK = Path(__file__).parents[2] / ".venv-servers" / "bin" / "ministack"


class Cloud:
    """A started server; with a certificate it speaks TLS."""

    def __init__(self, port: int, certificate: Path | None) -> None:
        self.port, self.certificate = port, certificate

    def client(self, service: str, **credentials: str) -> Any:
        import boto3
        from botocore.config import Config

        root = {"aws_access_key_id": "root", "aws_secret_access_key": "not-checked"}
        return boto3.client(
            service,
            endpoint_url=f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}",
            region_name="us-east-1",
            verify=self.certificate and str(self.certificate),
            config=Config(retries={"max_attempts": 1}),
            **root | credentials,
        )

    def session(self, role_arn: str, user: str) -> dict[str, str]:
        """Credentials of a role, taken by a user of this name who may take roles and nothing else."""
        iam = self.client("iam")
        iam.create_user(UserName=user)
        take = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}],
        }
        iam.put_user_policy(UserName=user, PolicyName="take-roles", PolicyDocument=json.dumps(take))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        taken = self.client("sts", **keys).assume_role(RoleArn=role_arn, RoleSessionName="test")["Credentials"]
        return {
            "aws_access_key_id": taken["AccessKeyId"],
            "aws_secret_access_key": taken["SecretAccessKey"],
            "aws_session_token": taken["SessionToken"],
        }


@contextmanager
def serving(folder: Path, tls: bool) -> Iterator[Cloud]:
    """MiniStack on loopback; it checks signatures, sessions, trust, policies of roles and of buckets."""
    if not MINISTACK.exists():
        pytest.fail(f"{MINISTACK} is not installed: run `make servers`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = {
        "AUTH": "true", "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "USE_SSL": str(int(tls)),
        "PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder),
        "AWS_ACCESS_KEY_ID": "root", "AWS_SECRET_ACCESS_KEY": "not-checked",
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([MINISTACK], env=settings, cwd=folder, stdout=log, stderr=log)
    try:
        limit = time.monotonic() + 30
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < limit, "the server does not listen"
            time.sleep(0.1)
        yield Cloud(port, folder / "ministack-tls" / "server.crt" if tls else None)
    finally:
        process.kill()  # asked to end, it waits for clients that keep their connections
        process.wait(10)
