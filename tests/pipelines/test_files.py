"""Recordings named in S3 and in tar archives, on disk, in S3 and over HTTP: the same bytes, read by range."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from faulty_proxy import Proxy
from servers import S3Server

from manifests.lake import Lake
from manifests.storage import StorageConfig, StorageError, open_storage
from pipelines.audio.files import Member, open_file, stat_file
from pipelines.audio.sound import decode_sound
from pipelines.ingest import Ingested, ingest
from pipelines.recipes.recipe import IngestConfig
from pipelines.sources import InputError, entries
from runtime.credentials import redact_credentials
from runtime.errors import UnreadableAudioError


def sound(level: float) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, np.full(8000, level), 8000, format="FLAC")
    return data.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def rows(lake: Lake) -> list[dict]:
    return [row for _, table in lake.recordings() for row in table.to_pylist()]


def test_a_prefix_a_pattern_an_object_and_a_list_name_recordings(bucket: str, tmp_path: Path) -> None:
    storage = open_storage(f"s3://{bucket}")
    for number, key in enumerate(["calls/a.flac", "calls/b/c #1?.flac", "calls/notes.md", "other/d.flac"]):
        storage.put(key, sound(0.1 * (number + 1)))
    storage.put("lists/all.txt", b"../calls/a.flac\n/other/d.flac\n")
    storage.put("lists/nemo.jsonl", json.dumps({"audio_filepath": "../calls/a.flac", "lang": "de"}).encode())
    root = f"s3://{bucket}"

    def named(*inputs: str) -> list[str]:
        return [entry.uri.removeprefix(f"{root}/") for entry in entries(f"{root}/{name}" for name in inputs)]

    assert named("calls") == named("calls/") == ["calls/a.flac", "calls/b/c #1?.flac"]
    assert named("calls/notes.md", "*/d.flac") == ["calls/notes.md", "other/d.flac"]
    assert named("lists/all.txt", "lists/nemo.jsonl") == ["calls/a.flac", "other/d.flac", "calls/a.flac"]
    with pytest.raises(InputError, match="no sound"):
        named("nowhere")
    lake = Lake.at(str(tmp_path / "lake"))
    assert ingest(lake, [root], IngestConfig()) == Ingested(names=3, new=3, batches=1)
    for row in rows(lake):
        assert row["sha256"] == hashlib.sha256(storage.read(row["uris"][0].removeprefix(f"{root}/"))).hexdigest()
        with decode_sound(row["uris"][0], row["recording_id"], row["size_bytes"]) as decoded:
            assert decoded.signal["num_samples"] == 8000
    assert ingest(lake, [root], IngestConfig()) == Ingested(names=3, known=3)


def test_members_of_tar_archives_are_recordings_with_their_hints(bucket: str, tmp_path: Path) -> None:
    members = {"a/1.flac": sound(0.1), "a/1.json": b'{"lang": "fr"}', "a/1.txt": b"oui", "2.FLAC": sound(0.2)}
    data = archive(tmp_path / "in.tar", members)
    open_storage(f"s3://{bucket}").put("shards/in.tar", data)
    for home in (str(tmp_path / "in.tar"), f"s3://{bucket}/shards", f"s3://{bucket}/shards/*.tar"):
        lake = Lake.at(str(tmp_path / hashlib.sha256(home.encode()).hexdigest()[:8]))
        assert ingest(lake, [home], IngestConfig()) == Ingested(names=2, new=2, batches=1)
        by_name = {Member.parse(row["uris"][0]).name: row for row in rows(lake)}
        assert by_name["a/1.flac"]["language_hint"] == "fr"
        for name, row in by_name.items():
            assert row["sha256"] == hashlib.sha256(members[name]).hexdigest()
            assert open_file(row["uris"][0]).read() == members[name]
            with decode_sound(row["uris"][0], row["recording_id"], row["size_bytes"]) as decoded:
                assert decoded.signal["num_samples"] == 8000
        assert ingest(lake, [home], IngestConfig()) == Ingested(names=2, known=2)
        (uri,) = by_name["2.FLAC"]["uris"]
        assert [entry.uri for entry in entries([uri])] == [uri]


@pytest.mark.parametrize("data", [b"", b"no archive", b"\0" * 100])
def test_an_archive_that_is_none_is_a_failed_row(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.tar").write_bytes(data)
    lake = Lake.at(str(tmp_path / "lake"))
    assert ingest(lake, [str(tmp_path / "bad.tar")], IngestConfig()).failed == 1
    assert rows(lake)[0]["remedy"]


def test_what_is_wrong_with_one_object_is_told_of_it_and_what_is_wrong_with_the_storage_stops(bucket: str) -> None:
    for action in (open_file, stat_file):
        with pytest.raises(UnreadableAudioError, match="no such object"):
            action(f"s3://{bucket}/no.wav")
        with pytest.raises(StorageError, match="profile"):
            action(f"s3://{bucket}/no.wav", StorageConfig(profile="nobody"))
    with pytest.raises(StorageError, match="NoSuchBucket"):
        list(entries(["s3://no-such-bucket-at-all/calls/"]))


def test_a_storage_that_fails_while_a_recording_is_read_is_no_fault_of_the_recording(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (6_000_000, 1)), 8000)
    open_storage(f"s3://{bucket}").put_file("long.wav", tmp_path / "long.wav")
    uri = f"s3://{bucket}/long.wav"
    with Proxy(s3.endpoint_url) as proxy:
        config = StorageConfig(proxy.url, retry_s=0.5, timeout_s=1.0)
        with decode_sound(uri, "r", None, config) as decoded:
            assert decoded.signal["num_samples"] == 6_000_000
        proxy.down_at = proxy.requests + 3  # after the header
        with pytest.raises(StorageError, match="times in"):
            decode_sound(uri, "r", None, config)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@host/a?b=1", "https://host/a?b=1"),
        ("HTTPS://U:P@host/a", "HTTPS://host/a"),
        ("Http://host/a?SIG=1", "Http://host/a"),
        ("https://host/a?X-Amz-Credential=c&X-Amz-Signature=s", "https://host/a"),
        ("--in=http://host/a b?token=t", "--in=http://host/a b"),
        ("http://h/x,https://u:p@c/d?e=1", "http://h/x,https://c/d?e=1"),
        ("http://h/?next=https://x/y&jwt=s", "http://h/?next=https://x/y"),
        ("http://h/?url=https%3A%2F%2Fu%3Ap%40c%2F", "http://h/"),
        ("http://h/a#access_token=s", "http://h/a"),
        ("http://h/a;jsessionid=s?b=1", "http://h/a"),
        ("http://h/a?%73ig=s", "http://h/a"),
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
    ],
)
def test_urls_are_shown_without_their_secrets(text: str, shown: str) -> None:
    assert redact_credentials(text) == shown
    assert redact_credentials(shown) == shown


SECRETS = """
token key jwt api-key api_key apiKey APIKEY x-api-key auth client_secret authorization Authorization sas sig signature
Signature SiGnAtUrE X-Goog-Signature private_token auth_token session_token sas_token Key-Pair-Id password passwd pwd
bearer AWSAccessKeyId subscription-key hmac sign secret credential X-Amz-Security-Token
"""


@pytest.mark.parametrize("name", SECRETS.split())
def test_a_parameter_is_a_secret_by_its_name_in_any_spelling(name: str) -> None:
    for url in (f"https://h/a?{name}=s", f"https://h/a?b=1&{name}=s&c=2"):
        assert redact_credentials(url) == "https://h/a"


@pytest.mark.parametrize(
    "text",
    ["https://host/a?id=1&page=2&sort=asc&monkey=1", "s3://bucket/a?sig=1", "/a?token=1", "C:/a", "a://", "://", "",
     "https://h/a.tar#tokens/key.wav:512+1024", "https://h/a@2x.wav", "HTTP://[::1/x", "http://h/é?titel=ü"],
)  # fmt: skip
def test_what_is_no_secret_is_shown_as_it_is(text: str) -> None:
    assert redact_credentials(text) == text


def test_any_text_is_searched_for_secrets_in_little_time() -> None:
    begun = time.process_time()
    for text in ("a" * 1_000_000 + "://", "http://" * 100_000, "http://h/?" + "a=" * 300_000, "://" * 300_000):
        redact_credentials(text)
    assert time.process_time() - begun < 10
