"""Servers for tests: MiniStack's S3 and IAM, which are started on loopback and stopped after the tests."""

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

PYTHON = Path(__file__).parents[1] / ".venv-servers" / "bin" / "python"
MINISTACK = Path(__file__).with_name("ministack_server.py")
ROOT = {"aws_access_key_id": "root", "aws_secret_access_key": "not-checked", "region_name": "us-east-1"}
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
TAKE_ROLES = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}]}


class S3Server:
    """A running server, with TLS if it has a certificate. It checks the secrets of users and roles, but not root's."""

    def __init__(self, endpoint_url: str, process: subprocess.Popen[bytes], certificate: Path | None = None) -> None:
        self.endpoint_url, self.process, self.certificate = endpoint_url, process, certificate

    def client(self, service: str = "s3", **credentials: str) -> Any:
        import boto3
        from botocore.config import Config

        verify = self.certificate and str(self.certificate)
        once = Config(retries={"max_attempts": 1})
        return boto3.client(service, endpoint_url=self.endpoint_url, verify=verify, config=once, **ROOT | credentials)

    def add_user(self, name: str, policy: dict[str, Any]) -> dict[str, str]:
        """Create a user with a single policy. Returns its credentials."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}

    def session(self, role_arn: str, user: str) -> dict[str, str]:
        """Create a user who may only assume roles, and assume a role. Returns the credentials of the session."""
        keys = self.add_user(user, TAKE_ROLES)
        taken = self.client("sts", **keys).assume_role(RoleArn=role_arn, RoleSessionName="test")["Credentials"]
        return {
            "aws_access_key_id": taken["AccessKeyId"],
            "aws_secret_access_key": taken["SecretAccessKey"],
            "aws_session_token": taken["SessionToken"],
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def s3_server(folder: Path, tls: bool = False) -> Iterator[S3Server]:
    """Run MiniStack on loopback, without the AWS settings of this process."""
    if not PYTHON.exists():
        pytest.fail(f"{PYTHON} is not installed: run `make servers`")
    port = free_port()
    settings = {
        "AUTH": "true", "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "USE_SSL": str(int(tls)),
        "PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder),
        "AWS_ACCESS_KEY_ID": "root", "AWS_SECRET_ACCESS_KEY": "not-checked",
    }  # fmt: skip
    with (folder / "ministack.log").open("wb") as log:
        process = subprocess.Popen([PYTHON, MINISTACK], env=settings, cwd=folder, stdout=log, stderr=log)
    try:
        await_port(port, process)
        certificate = folder / "ministack-tls" / "server.crt" if tls else None
        yield S3Server(f"{'https' if tls else 'http'}://127.0.0.1:{port}", process, certificate)
    finally:
        process.kill()  # SIGTERM would wait for clients with open connections
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
    """Return an environment with the variables for `server`, and without the AWS settings of this machine."""
    trusted = {"AWS_CA_BUNDLE": str(server.certificate)} if server.certificate else {}
    return (
        {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        | trusted
        | {
            "AWS_ENDPOINT_URL": server.endpoint_url,
            "AWS_ACCESS_KEY_ID": credentials["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": credentials["aws_secret_access_key"],
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
    )
