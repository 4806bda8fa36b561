"""What a bucket refuses is told with what to do, and what the configuration asks for reaches the bucket."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from faulty_proxy import CODES, Proxy
from servers import EVERYTHING, S3Server, plain_environment, s3_server

from manifests.storage import DeniedError, StorageConfig, StorageError, requests
from manifests.storage.ranged import BLOCK_BYTES
from manifests.storage.s3 import S3Storage
from manifests.storage.s3client import client

READER = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}],
}


@pytest.fixture
def profiles(s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that may read, one with a wrong secret, and one with a key that nobody has."""
    user = s3.add_user(f"reader-{bucket}", READER)
    key, secret = user["aws_access_key_id"], user["aws_secret_access_key"]
    written = {"reader": (key, secret), "wrong": (key, "x" * 40), "nobody": ("AKIA0000000000000000", "x" * 40)}
    lines = [
        f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
        for name, (key, secret) in written.items()
    ]
    (tmp_path / "credentials").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.usefixtures("profiles")
@pytest.mark.parametrize(("profile", "code"), [("wrong", "SignatureDoesNotMatch"), ("nobody", "InvalidAccessKeyId")])
def test_wrong_credentials_are_told(bucket: str, profile: str, code: str) -> None:
    storage = S3Storage(f"s3://{bucket}/lake", StorageConfig(profile=profile))
    for action in (
        lambda: storage.exists("k"),
        lambda: storage.read("k"),
        storage.sweep,
        lambda: storage.put("k", b""),
    ):
        with pytest.raises(StorageError, match=code) as caught:
            action()
        assert "AWS_PROFILE" in caught.value.remedy


@pytest.mark.usefixtures("profiles")
def test_what_a_role_may_not_do_is_named(bucket: str) -> None:
    S3Storage(f"s3://{bucket}/lake").put("k", b"v")
    reader = S3Storage(f"s3://{bucket}/lake", StorageConfig(profile="reader"))
    assert (reader.read("k"), list(reader.list())) == (b"v", ["k"])
    reader.sweep()  # may not, and need not
    for action in (lambda: reader.put("k", b""), lambda: reader.put("k", bytes(BLOCK_BYTES + 1))):
        with pytest.raises(DeniedError, match=r"s3:PutObject s3://.*/lake/k: AccessDenied"):
            action()


def test_credentials_that_change_in_the_environment_are_the_ones_in_use(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = S3Storage(f"s3://{bucket}/lake")
    storage.put("k", b"v")
    user = s3.add_user(f"later-{bucket}", READER)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", user["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user["aws_secret_access_key"])
    assert storage.read("k") == b"v"
    with pytest.raises(DeniedError, match="AccessDenied"):
        storage.put("k", b"")


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
    with Proxy(s3.endpoint_url) as proxy:
        config = StorageConfig(proxy.url, encryption="aws:kms", kms_key_id="alias/lake", bucket_key=True)
        put_and_read(S3Storage(f"s3://{bucket}", config))
    asked = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "alias/lake",
        "x-amz-server-side-encryption-bucket-key-enabled": "true",
    }
    begun = [headers for what, headers in proxy.heard if "partNumber" not in what and what.startswith("PUT")]
    begun += [headers for what, headers in proxy.heard if what.endswith("?uploads")]
    assert [headers.items() >= asked.items() for headers in begun] == [True] * 3
    for key in ("small", "large", "once"):
        held = s3.client().head_object(Bucket=bucket, Key=key)
        assert (held["ServerSideEncryption"], held["SSEKMSKeyId"]) == ("aws:kms", "alias/lake")


def test_who_pays_is_said_with_every_request(s3: S3Server, bucket: str) -> None:
    with Proxy(s3.endpoint_url) as proxy:
        storage = S3Storage(f"s3://{bucket}", StorageConfig(proxy.url, request_payer=True))
        put_and_read(storage)
        assert list(storage.list()) == ["large", "once", "small"]
        storage.delete("small")
    assert len(proxy.heard) > 12
    assert [what for what, headers in proxy.heard if headers.get("x-amz-request-payer") != "requester"] == []


def put_and_read(storage: S3Storage) -> None:
    storage.put("small", b"v")
    storage.put("large", bytes(BLOCK_BYTES + 1))
    assert storage.put_if_absent("once", b"v")
    assert storage.read("small") + storage.read("large") == b"v" + bytes(BLOCK_BYTES + 1)
    storage.sweep()


def test_what_is_put_carries_a_checksum_that_the_server_keeps(s3: S3Server, bucket: str) -> None:
    with Proxy(s3.endpoint_url) as proxy:
        put_and_read(S3Storage(f"s3://{bucket}", StorageConfig(proxy.url)))
    sums = {f"x-amz-checksum-{name}" for name in ("sha256", "crc32c")}
    assert [len(sums & headers.keys()) for what, headers in proxy.heard if what.startswith("PUT")] == [1] * 4
    held = [s3.client().head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED") for key in ("small", "large")]
    assert "ChecksumSHA256" in held[0]
    assert held[1]["ChecksumCRC32C"].endswith("-2")


def test_over_tls_a_body_is_held_to_its_checksum_and_not_hashed_again_for_the_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(tmp_path, tls=True) as server:
        for name, value in plain_environment(server, server.add_user("tls", EVERYTHING)).items():
            monkeypatch.setenv(name, value)
        server.client().create_bucket(Bucket="tls")
        config = StorageConfig()
        hashed = []
        client(config).meta.events.register(
            "before-send.s3", lambda request, **named: hashed.append(request.headers["X-Amz-Content-SHA256"])
        )
        put_and_read(S3Storage("s3://tls", config))
    assert set(hashed) == {b"UNSIGNED-PAYLOAD"}


def test_configurations_that_make_no_sense_are_refused() -> None:
    for settings in (
        {"encryption": "rot13"},
        {"kms_key_id": "k"},
        {"bucket_key": True},
        {"retry_s": 0.0},
        {"concurrency": 0},
        {"concurrency": 1001},
    ):
        with pytest.raises(ValueError, match=r"must be"):
            StorageConfig(**settings)


@pytest.mark.parametrize("settings", [{"region": "eu west"}, {"region": "\n"}, {"endpoint_url": "nowhere"}])
def test_a_region_or_an_endpoint_that_makes_no_address_is_told(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StorageError, match="make no address") as caught:
        S3Storage("s3://b/x", StorageConfig(**settings, retry_s=1.0)).exists("k")  # type: ignore[arg-type]
    assert "endpoint_url" in caught.value.remedy


def heard_by(proxy: Proxy) -> Counter[str]:
    """Requests that a server has heard, by the kinds that they are paid by."""
    kinds = {"GET": "get", "HEAD": "get", "PUT": "put", "POST": "put", "DELETE": "delete"}
    words = [what.split() for what, _ in proxy.heard]
    return Counter("list" if "list-type" in path else kinds[method] for method, path in words)


def test_requests_are_counted_by_kind_as_the_server_hears_them(s3: S3Server, bucket: str) -> None:
    with Proxy(s3.endpoint_url) as proxy:
        storage = S3Storage(f"s3://{bucket}/lake", StorageConfig(proxy.url))
        before = requests.sent()
        for number in range(3):
            storage.put(f"a/{number}", b"some")
        storage.put("b", bytes(BLOCK_BYTES + 1))
        assert not storage.exists("c")
        assert storage.read("b") == bytes(BLOCK_BYTES + 1)
        assert storage.replace("a/0", b"some", b"other")
        assert not storage.put_if_absent("a/0", b"third")
        assert len(list(storage.list())) == 4
        storage.delete("a/1")
        sent = requests.sent() - before
        assert sent == heard_by(proxy)
    assert sent["put"] >= 3 + 4 + 2
    assert (sent["list"], sent["delete"]) == (1, 1)
    assert sent["get"] >= 6
