"""Least privilege: the rendered policies are loaded into a server, and each role may do exactly what is listed here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from servers import S3Server, s3_server

RAW, LAKE, LOGS = (f"speechmill-dev-{kind}-000000000000" for kind in ("raw", "lake", "logs"))
SOUND, LOG = "2026/call.wav", "raw/2026-01-01"
SHARD, BATCH = "lake/datasets/demo/train/latents.000000.tar", "lake/recordings/batch-000000.parquet"
SCRATCH, RUN, ELSEWHERE = "lake/runs/tmp/part", "lake/runs/ingest/000000.json", "other/lake.parquet"
ATTEMPT, PIECE = "lake/runs/attempts/batch-000000.json", "lake/runs/pieces/diarize-0/batch-000000/0.json"
WORKING = "lake/runs/20260101T000000Z-0000/working/batch-000000.json"
HELD = {RAW: [SOUND], LAKE: [SHARD, BATCH, SCRATCH, RUN, ELSEWHERE], LOGS: [LOG]}

Call = Callable[[Any], Any]


def get(bucket: str, key: str) -> Call:
    return lambda s3: (s3.head_object(Bucket=bucket, Key=key), s3.get_object(Bucket=bucket, Key=key, Range="bytes=0-1"))


def put(bucket: str, key: str, **options: str) -> Call:
    return lambda s3: s3.put_object(Bucket=bucket, Key=key, Body=b"new", ChecksumAlgorithm="SHA256", **options)


def multipart(bucket: str, key: str) -> Call:
    """One upload finished, one given up."""

    def call(s3: Any) -> None:
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        etag = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"new")["ETag"]
        parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload=parts)
        other = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=other)

    return call


def delete(bucket: str, key: str) -> Call:
    return lambda s3: s3.delete_object(Bucket=bucket, Key=key)


def delete_version(bucket: str, key: str) -> Call:
    def call(s3: Any) -> None:
        s3.delete_object(Bucket=bucket, Key=key, VersionId="null")

    return call


def absent(bucket: str, key: str) -> Call:
    """Asking for what is not there must say so: 'access denied' would stop a run that only looks."""

    def call(s3: Any) -> None:
        with pytest.raises(ClientError) as error:
            s3.head_object(Bucket=bucket, Key=key)
        if error.value.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise error.value

    return call


CALLS: dict[str, Call] = {
    "list raw": lambda s3: (s3.head_bucket(Bucket=RAW), s3.list_objects_v2(Bucket=RAW)),
    "read raw": get(RAW, SOUND),
    "ask for absent raw": absent(RAW, "2026/none.wav"),
    "add raw": put(RAW, "2026/new.wav"),
    "add raw in parts": multipart(RAW, "2026/long.wav"),
    "delete raw": delete(RAW, SOUND),
    "delete a version of raw": delete_version(RAW, SOUND),
    "list lake": lambda s3: (s3.head_bucket(Bucket=LAKE), s3.list_objects_v2(Bucket=LAKE, Prefix="lake/")),
    "ask for absent shard": absent(LAKE, "lake/datasets/demo/commits/train/000009.json"),
    "read recordings": get(LAKE, BATCH),
    "write recordings": put(LAKE, BATCH),
    "read shards": get(LAKE, SHARD),
    "write shards": put(LAKE, SHARD),
    "commit if absent": put(LAKE, "lake/datasets/demo/commits/train/000000.json", IfNoneMatch="*"),
    "write shards in parts": multipart(LAKE, "lake/datasets/demo/train/latents.000001.tar"),
    "write annotations": put(LAKE, "lake/annotations/vad-0/batch-000000.parquet"),
    "write selections": put(LAKE, "lake/selections/demo-0/funnel.json"),
    "delete shards": delete(LAKE, SHARD),
    "delete recordings": delete(LAKE, BATCH),
    "read runs": get(LAKE, RUN),
    "write runs": put(LAKE, "lake/runs/ingest/000001.json"),
    "sweep scratch": lambda s3: [delete(LAKE, key)(s3) for key in (SCRATCH, WORKING, ATTEMPT, PIECE)],
    "delete the log of a run": delete(LAKE, "lake/runs/20260101T000000Z-0000/log.txt"),
    "list unfinished uploads": lambda s3: s3.list_multipart_uploads(Bucket=LAKE),
    "read beside the lake": get(LAKE, ELSEWHERE),
    "write beside the lake": put(LAKE, "other/new"),
    "list versions": lambda s3: (s3.list_object_versions(Bucket=RAW), s3.list_object_versions(Bucket=LAKE)),
    "list logs": lambda s3: s3.list_objects_v2(Bucket=LOGS),
    "read logs": get(LOGS, LOG),
    "delete logs": delete(LOGS, LOG),
    "write logs": put(LOGS, "raw/forged"),
    "change a bucket policy": lambda s3: s3.delete_bucket_policy(Bucket=RAW),
    "open a bucket to the public": lambda s3: s3.delete_public_access_block(Bucket=RAW),
    "suspend versioning": lambda s3: s3.put_bucket_versioning(
        Bucket=RAW, VersioningConfiguration={"Status": "Suspended"}
    ),
    "change encryption": lambda s3: s3.delete_bucket_encryption(Bucket=LAKE),
    "change lifecycle": lambda s3: s3.delete_bucket_lifecycle(Bucket=LAKE),
    "delete a bucket": lambda s3: s3.delete_bucket(Bucket=LOGS),
    "list the account's buckets": lambda s3: s3.list_buckets(),
}

INGEST = {
    "list raw", "read raw", "ask for absent raw", "add raw", "add raw in parts", "list lake", "read recordings",
    "write recordings", "read runs", "write runs", "sweep scratch", "list unfinished uploads",
}  # fmt: skip
MAY = {
    "ingest": INGEST,
    "worker": INGEST - {"add raw", "add raw in parts"} | {
        "read shards", "ask for absent shard", "write shards", "commit if absent", "write shards in parts",
        "write annotations", "write selections",
    },
    "reader": {"list lake", "ask for absent shard", "read recordings", "read shards"},
    "administrator": CALLS.keys() - {
        "delete logs", "write logs", "change a bucket policy", "open a bucket to the public", "suspend versioning",
        "change encryption", "change lifecycle", "delete a bucket", "list the account's buckets",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def roles(cloud: S3Server, outputs: dict[str, Any]) -> dict[str, str]:
    return provision(cloud, outputs)


def provision(cloud: S3Server, outputs: dict[str, Any]) -> dict[str, str]:
    """Buckets and roles as Terraform would make them; ARNs of the roles."""
    s3, iam, policies = cloud.client("s3"), cloud.client("iam"), outputs["policies"]["value"]
    for kind, bucket in (("raw", RAW), ("lake", LAKE), ("logs", LOGS)):
        s3.create_bucket(Bucket=bucket)
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        # To aws:PrincipalArn this server answers with a session's own name, where AWS answers with its role's.
        role = "arn:aws:iam::000000000000:role/speechmill-dev-administrator"
        sessions = "arn:aws:sts::000000000000:assumed-role/speechmill-dev-administrator/*"
        policy = policies["buckets"][kind].replace(role, sessions)
        s3.put_bucket_policy(Bucket=bucket, Policy=policy)
    made = {}
    for role, policy in policies["roles"].items():
        name = f"speechmill-dev-{role}"
        made[role] = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policies["trust"][role])["Role"]["Arn"]
        iam.put_role_policy(RoleName=name, PolicyName="speechmill", PolicyDocument=policy)
    return made


@pytest.fixture(scope="module")
def sessions(cloud: S3Server, roles: dict[str, str], outputs: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Credentials by role. A test has no second factor: the administrator's trust is loosened here, and only here."""
    with pytest.raises(ClientError, match="AccessDenied"):
        cloud.session(roles["administrator"], "administrator-person")
    cloud.client("iam").delete_user_policy(UserName="administrator-person", PolicyName="only")
    trust = json.loads(outputs["policies"]["value"]["trust"]["administrator"])
    del trust["Statement"][0]["Condition"]
    trust["Statement"][0]["Principal"] = {"AWS": "arn:aws:iam::000000000000:user/with-mfa"}
    cloud.client("iam").update_assume_role_policy(
        RoleName="speechmill-dev-administrator", PolicyDocument=json.dumps(trust)
    )
    people = {role: f"{role}-person" for role in roles} | {"administrator": "with-mfa"}
    return {role: cloud.session(arn, people[role]) for role, arn in roles.items()}


def hold(cloud: S3Server) -> None:
    """Put everything in place that a call may ask for."""
    root = cloud.client("s3")
    for bucket, keys in HELD.items():
        for key in keys:
            root.put_object(Bucket=bucket, Key=key, Body=b"old")
    root.delete_object(Bucket=LAKE, Key="lake/datasets/demo/commits/train/000000.json")


def allowed(s3: Any, *calls: Call) -> list[bool]:
    """Whether each call passes. Errors other than a denial are raised."""
    passed = []
    for call in calls:
        try:
            call(s3)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("AccessDenied", "403"):
                raise
            passed.append(False)
        else:
            passed.append(True)
    return passed


@pytest.mark.parametrize("role", MAY)
def test_a_role_may_do_its_work_and_nothing_else(
    cloud: S3Server, sessions: dict[str, dict[str, str]], role: str
) -> None:
    hold(cloud)
    passed = allowed(cloud.client("s3", **sessions[role]), *CALLS.values())  # what deletes comes after what reads
    assert {name for name, may in zip(CALLS, passed, strict=True) if may} == MAY[role]


@pytest.mark.parametrize("role", ["ingest", "worker", "reader"])
def test_nobody_takes_the_role_of_another(cloud: S3Server, roles: dict[str, str], role: str) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        cloud.session(roles[role], f"not-{role}")


def test_without_tls_even_what_is_allowed_is_denied(tmp_path: Path, outputs: dict[str, Any]) -> None:
    with s3_server(tmp_path) as plain:
        session = plain.session(provision(plain, outputs)["worker"], "worker-person")
        hold(plain)
        assert not any(allowed(plain.client("s3", **session), *(CALLS[name] for name in MAY["worker"])))


def test_only_the_administrator_deletes_sound_whatever_else_the_account_grants(
    cloud: S3Server, sessions: dict[str, dict[str, str]]
) -> None:
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam = cloud.client("iam")
    iam.put_role_policy(RoleName="speechmill-dev-worker", PolicyName="careless", PolicyDocument=json.dumps(everything))
    hold(cloud)
    calls = put(RAW, "2026/new.wav"), delete(RAW, SOUND), delete_version(RAW, SOUND)
    try:
        assert allowed(cloud.client("s3", **sessions["worker"]), *calls) == [True, False, False]
    finally:
        iam.delete_role_policy(RoleName="speechmill-dev-worker", PolicyName="careless")


def test_a_writer_may_not_weaken_the_encryption(cloud: S3Server, sessions: dict[str, dict[str, str]]) -> None:
    """DenyOtherKey is not tried: the server has no s3:x-amz-server-side-encryption-aws-kms-key-id."""
    key = "arn:aws:kms:us-east-1:000000000000:key/22222222-2222-2222-2222-222222222222"
    named = put(LAKE, SHARD, ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
    weaker = put(LAKE, SHARD, ServerSideEncryption="AES256")
    assert allowed(cloud.client("s3", **sessions["worker"]), named, weaker) == [True, False]


def test_each_role_decrypts_only_what_it_reads(outputs: dict[str, Any]) -> None:
    """The server does not ask KMS on behalf of S3, so the statements themselves are read."""
    raw, lake = (f"arn:aws:kms:us-east-1:000000000000:key/{d * 8}-{d * 4}-{d * 4}-{d * 4}-{d * 12}" for d in "12")
    read, write = {"kms:Decrypt"}, {"kms:Decrypt", "kms:GenerateDataKey"}
    expected = {
        "ingest": {raw: write, lake: write},
        "worker": {raw: read, lake: write},
        "reader": {lake: read},
        "administrator": {raw: write, lake: write},
    }
    for role, document in outputs["policies"]["value"]["roles"].items():
        granted = {}
        for statement in json.loads(document)["Statement"]:
            actions = {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])
            if any(action.startswith("kms:") for action in actions):
                granted[statement["Resource"]] = actions
                assert statement["Condition"] == {"StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}}
        assert granted == expected[role], role
