"""What a bucket refuses is told with what to do, and what the configuration asks for reaches the bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import CODES, Proxy
from servers import S3Server

from manifests.storage import DeniedError, StorageConfig, StorageError
from manifests.storage.ranged import BLOCK_BYTES
from manifests.storage.s3 import S3Storage

READER = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}],
}


@pytest.fixture
def profiles(s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A suffix of profiles: one that may read, one with a wrong secret, one with a key that nobody has."""
    user = s3.add_user(f"reader-{bucket}", READER)
    key, secret = user["aws_access_key_id"], user["aws_secret_access_key"]
    written = {"reader": (key, secret), "wrong": (key, "x" * 40), "nobody": ("AKIA0000000000000000", "x" * 40)}
    lines = [
        f"[{name}-{bucket}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
        for name, (key, secret) in written.items()
    ]
    (tmp_path / "credentials").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return bucket


@pytest.mark.parametrize(
    ("profile", "code", "remedy"),
    [("wrong", "SignatureDoesNotMatch", "AWS_PROFILE"), ("nobody", "InvalidAccessKeyId", "AWS_PROFILE")],
)
def test_wrong_credentials_are_told(profiles: str, profile: str, code: str, remedy: str) -> None:
    storage = S3Storage(f"s3://{profiles}/lake", StorageConfig(profile=f"{profile}-{profiles}"))
    for action in (
        lambda: storage.exists("k"),
        lambda: storage.read("k"),
        storage.sweep,
        lambda: storage.put("k", b""),
    ):
        with pytest.raises(StorageError, match=code) as caught:
            action()
        assert remedy in caught.value.remedy


def test_what_a_role_may_not_do_is_named(profiles: str) -> None:
    S3Storage(f"s3://{profiles}/lake").put("k", b"v")
    reader = S3Storage(f"s3://{profiles}/lake", StorageConfig(profile=f"reader-{profiles}"))
    assert (reader.read("k"), list(reader.list())) == (b"v", ["k"])
    reader.sweep()  # may not, and need not
    for action in (lambda: reader.put("k", b""), lambda: reader.put("k", bytes(BLOCK_BYTES + 1))):
        with pytest.raises(DeniedError, match=r"s3:PutObject s3://.*/lake/k: AccessDenied"):
            action()


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "ExpiredToken", "log in again"),
        (400, "AuthorizationHeaderMalformed", "region"),
        (404, "NoSuchBucket", "bucket's name"),
    ],
)
def test_an_expired_token_a_wrong_region_and_a_wrong_bucket_are_told(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, status: int, code: str, said: str
) -> None:
    monkeypatch.setitem(CODES, "500", (status, code))
    with Proxy(s3.endpoint_url, 1.0, ("500",)) as proxy:
        storage = S3Storage(f"s3://{bucket}/lake", StorageConfig(proxy.url, retry_s=5.0))
        with pytest.raises(StorageError, match=code) as caught:
            storage.read("k")
        assert said in caught.value.remedy


def test_encryption_is_asked_for_by_small_and_large_puts(s3: S3Server, bucket: str) -> None:
    storage = S3Storage(f"s3://{bucket}", StorageConfig(encryption="AES256"))
    storage.put("small", b"v")
    storage.put("large", bytes(BLOCK_BYTES + 1))
    assert storage.put_if_absent("once", b"v")
    for key in ("small", "large", "once"):
        assert s3.client().head_object(Bucket=bucket, Key=key)["ServerSideEncryption"] == "AES256"


def test_configurations_that_make_no_sense_are_refused() -> None:
    for settings in ({"encryption": "rot13"}, {"kms_key_id": "k"}, {"retry_s": 0.0}, {"concurrency": 0}):
        with pytest.raises(ValueError, match=r"must be|needs"):
            StorageConfig(**settings)
