"""One S3 client for each configuration, and the classification of its errors."""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from manifests.install import install, installed
from manifests.storage import DeniedError, StorageConfig, StorageError, requests
from manifests.storage.retry import TransientError, persist

Result = TypeVar("Result")

MAX_SKEWED = 8
"""Retries after 'RequestTimeTooSkewed': the time stamp of a proxy may be wrong once, but a wrong clock stays wrong."""

BUSY = frozenset(["SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"])
# fmt: off
TRANSIENT = frozenset([
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded",
    "ServiceUnavailable", "InternalError", "InternalServerError", "RequestTimeout", "BadDigest", "InvalidDigest",
    "XAmzContentSHA256Mismatch", "IncompleteBody", "OperationAborted", "ConditionalRequestConflict",
    "RequestTimeTooSkewed", "PriorRequestNotComplete",
])
# fmt: on
WRONG_KEY = frozenset(["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "UnrecognizedClientException"])
EXPIRED = frozenset(["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"])
WRONG_REGION = frozenset(
    ["PermanentRedirect", "AuthorizationHeaderMalformed", "301", "IllegalLocationConstraintException"]
)

PACKAGES = ("boto3", "fsspec", "google_crc32c")
"""The packages of the extra `s3`, without which S3 cannot be used."""
CREDENTIALS = "check AWS_PROFILE or [storage] profile, the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class MissingError(FileNotFoundError):
    """The object does not exist, or not any more in the version that was opened."""

    def __init__(self, uri: str, what: str = "there is no such object") -> None:
        super().__init__(errno.ENOENT, what, uri)

    def __reduce__(self) -> tuple[Any, ...]:
        return MissingError, (self.filename, self.strerror)


class MissingBucketError(StorageError):
    """The bucket does not exist. The run stops if it is that of the lake; an input in it fails alone."""


class UploadGoneError(Exception):
    """The server does not know this multipart upload, or not any more."""


_lock = threading.Lock()


def client(config: StorageConfig) -> Any:
    """The client of this process, which its threads share; it is made again when an AWS variable changes.

    A client renews credentials of a role, of SSO or of a credential process by itself. A changed key in
    ~/.aws/credentials takes effect in the next process: an expired one ends this run, and the same command resumes it.
    """
    variables = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _lock:
        return _client(config, variables)


def _forget_clients() -> None:
    """Make new clients after a fork: on shared connections, parent and child would read the responses of each other."""
    global _lock
    _lock = threading.Lock()
    _client.cache_clear()


os.register_at_fork(after_in_child=_forget_clients)


@functools.cache
def check_packages() -> None:
    """Raise StorageError if a package is missing that S3 needs."""
    missing = [name for name in PACKAGES if not installed(name)]
    if missing:
        raise StorageError(f"S3 needs {', '.join(missing)}", install(["s3"]))


@functools.lru_cache(maxsize=16)
def _client(config: StorageConfig, variables: tuple[tuple[str, str], ...]) -> Any:
    """Make a client. Raises StorageError for an unknown profile, and if region and endpoint make no address."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import ProfileNotFound

    settings = Config(
        # `persist` retries requests, including their bodies, which botocore does not.
        retries={"total_max_attempts": 1},
        connect_timeout=min(10.0, config.timeout_s),
        read_timeout=config.timeout_s,
        max_pool_connections=4 * config.concurrency,
        tcp_keepalive=True,
        **({"signature_version": UNSIGNED} if config.anonymous else {}),
    )
    try:
        session = boto3.Session(profile_name=config.profile)
    except ProfileNotFound as error:
        raise StorageError(str(error), "name a profile of ~/.aws/config in AWS_PROFILE or [storage] profile") from error
    region = config.region or session.region_name or "us-east-1"
    try:
        client = session.client("s3", endpoint_url=config.endpoint_url, region_name=region, config=settings)
    except ValueError as error:  # its message has the endpoint, which may hold a password
        what = f"the region {region!r:.100} and the endpoint of S3 make no address"
        remedy = "correct region and endpoint_url in [storage], or AWS_REGION and AWS_ENDPOINT_URL"
        raise StorageError(what, remedy) from error
    if client.meta.endpoint_url.startswith("https:"):
        # Every body has a checksum in a signed header. Over TLS that is enough, so the body need not be hashed again;
        # botocore does the same where it computes the checksum itself.
        settings = settings.merge(Config(s3={"payload_signing_enabled": False}))
        client = session.client("s3", endpoint_url=config.endpoint_url, region_name=region, config=settings)
    requests.watch(client)
    return client


def request(config: StorageConfig, what: str, uri: str, attempt: Callable[[Any, int], Result]) -> Result:
    """Call `attempt(client, number)`, with retries. All failures are raised as FileNotFoundError or StorageError."""

    check_packages()

    def once(number: int) -> Result:
        with translate_errors(what, uri, number):
            return attempt(client(config), number)

    return persist(once, f"{what} {uri}", config.retry_s)


@contextmanager
def translate_errors(what: str, uri: str, number: int) -> Iterator[None]:
    """Translate errors of botocore. Messages have codes and names, never a header, a secret or a signed URL."""
    import botocore.exceptions as botocore
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except botocore.ClientError as error:
        raise _translate_client_error(error, what, uri, number) from error
    except (botocore.NoCredentialsError, botocore.PartialCredentialsError) as error:
        raise StorageError(f"{what} {uri}: no credentials", f"{CREDENTIALS}; or [storage] anonymous = true") from error
    except (botocore.CredentialRetrievalError, botocore.TokenRetrievalError, botocore.SSOError) as error:
        raise StorageError(f"{what} {uri}: {error}", "log in again (aws sso login)") from error
    except (botocore.ParamValidationError, botocore.InvalidRegionError) as error:
        raise StorageError(f"{what} {uri}: {error}", "check the names of bucket, key and region") from error
    except botocore.FlexibleChecksumError as error:
        raise TransientError("wrong checksum") from error
    except (botocore.HTTPClientError, botocore.ConnectionError) as error:  # refused, reset, timed out, cut short
        raise TransientError(type(error).__name__) from error
    except (ResponseParserError, botocore.IncompleteReadError) as error:
        raise TransientError("broken answer") from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise TransientError(type(error).__name__) from error


def _translate_client_error(error: Any, what: str, uri: str, number: int) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    answer = error.response.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode", 0)
    message = f"{what} {uri}: {code or status}"
    if code in TRANSIENT or status in (429, 500, 502, 503, 504):
        if code == "RequestTimeTooSkewed" and number >= MAX_SKEWED:
            return StorageError(message, "set this machine's clock (timedatectl set-ntp true)")
        after_s = answer.get("HTTPHeaders", {}).get("retry-after", "")
        cause = f"status {status}" if code.isdigit() else code
        return TransientError(cause, float(after_s) if after_s.isdigit() else 0.0, code in BUSY)
    if code == "NoSuchBucket":
        return MissingBucketError(message, "check the bucket's name, or make it (infra/terraform)")
    if code == "NoSuchUpload":
        return UploadGoneError(message)
    if code in WRONG_REGION or status == 301:
        region = answer.get("HTTPHeaders", {}).get("x-amz-bucket-region", "that of the bucket")
        return StorageError(message, f"set [storage] region or AWS_REGION to {region}, and check endpoint_url")
    if code in WRONG_KEY:
        return StorageError(message, CREDENTIALS)
    if code in EXPIRED:
        return StorageError(message, "these credentials have expired: log in again (aws sso login) or renew them")
    if status == 403:
        return DeniedError(message, f"grant this to the role in use, or use another one: {what}")
    if status == 404:
        return MissingError(uri)
    if status == 412:
        return MissingError(uri, "it was replaced while it was being read")
    return StorageError(
        f"{message} {error.response.get('Error', {}).get('Message', '')}", "check the storage's settings"
    )
