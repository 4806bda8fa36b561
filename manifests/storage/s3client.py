"""One S3 client a configuration, and what its errors mean: passing, missing, denied, or told with a remedy."""

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
from manifests.storage.retry import PassingError, persist

Result = TypeVar("Result")

MAX_SKEWED = 8
"""A clock that is wrong stays wrong; a proxy's stamp may be wrong once."""

BUSY = frozenset(["SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"])
# fmt: off
PASSING = frozenset([
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
"""What S3 needs beyond the core: the extra `s3`."""
CREDENTIALS = "check AWS_PROFILE or [storage] profile, the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class MissingError(FileNotFoundError):
    """No such object, or no longer in the version that was opened."""

    def __init__(self, uri: str, what: str = "there is no such object") -> None:
        super().__init__(errno.ENOENT, what, uri)

    def __reduce__(self) -> tuple[Any, ...]:
        return MissingError, (self.filename, self.strerror)


class MissingBucketError(StorageError):
    """No such bucket. Where it holds the lake, the run stops; where a list names it, that name alone fails."""


class UploadGoneError(Exception):
    """The server does not know this multipart upload (any more)."""


_lock = threading.Lock()


def client(config: StorageConfig) -> Any:
    """The client of this process, shared by its threads; another one once an AWS variable has changed.

    A client renews by itself what a role, SSO or a process gives. A key that was rewritten in ~/.aws/credentials counts
    from the next process on: an expired one ends this process, and the same command goes on.
    """
    variables = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _lock:
        return _client(config, variables)


def _forget_clients() -> None:
    """A forked process would share the connections of its parent, and each would read answers to the other."""
    global _lock
    _lock = threading.Lock()
    _client.cache_clear()


os.register_at_fork(after_in_child=_forget_clients)


@functools.cache
def check_packages() -> None:
    """StorageError where a package is missing without which S3 cannot be reached."""
    missing = [name for name in PACKAGES if not installed(name)]
    if missing:
        raise StorageError(f"S3 needs {', '.join(missing)}", install(["s3"]))


@functools.lru_cache(maxsize=16)
def _client(config: StorageConfig, variables: tuple[tuple[str, str], ...]) -> Any:
    """StorageError where the profile is missing, or where region and endpoint make no address."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import ProfileNotFound

    settings = Config(
        # `persist` repeats requests, bodies included, which botocore does not.
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
        made = session.client("s3", endpoint_url=config.endpoint_url, region_name=region, config=settings)
    except ValueError as error:  # its message holds the endpoint, and so perhaps a password
        what = f"the region {region!r:.100} and the endpoint of S3 make no address"
        remedy = "correct region and endpoint_url in [storage], or AWS_REGION and AWS_ENDPOINT_URL"
        raise StorageError(what, remedy) from error
    if made.meta.endpoint_url.startswith("https:"):
        # Every body has a checksum in a signed header. Over TLS that is enough, as botocore holds where it computes the
        # checksum itself, and the body is not hashed once more.
        settings = settings.merge(Config(s3={"payload_signing_enabled": False}))
        made = session.client("s3", endpoint_url=config.endpoint_url, region_name=region, config=settings)
    requests.watch(made)
    return made


def request(config: StorageConfig, what: str, uri: str, attempt: Callable[[Any, int], Result]) -> Result:
    """`attempt(client, number)` until it works; every failure leaves as FileNotFoundError or StorageError."""

    check_packages()

    def once(number: int) -> Result:
        with translated(what, uri, number):
            return attempt(client(config), number)

    return persist(once, f"{what} {uri}", config.retry_s)


@contextmanager
def translated(what: str, uri: str, number: int) -> Iterator[None]:
    """botocore's errors as ours. Messages carry codes and names, never a header, a key or a signed URL."""
    import botocore.exceptions as botocore
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except botocore.ClientError as error:
        raise _meaning(error, what, uri, number) from error
    except (botocore.NoCredentialsError, botocore.PartialCredentialsError) as error:
        raise StorageError(f"{what} {uri}: no credentials", f"{CREDENTIALS}; or [storage] anonymous = true") from error
    except (botocore.CredentialRetrievalError, botocore.TokenRetrievalError, botocore.SSOError) as error:
        raise StorageError(f"{what} {uri}: {error}", "log in again (aws sso login)") from error
    except (botocore.ParamValidationError, botocore.InvalidRegionError) as error:
        raise StorageError(f"{what} {uri}: {error}", "check the names of bucket, key and region") from error
    except botocore.FlexibleChecksumError as error:
        raise PassingError("wrong checksum") from error
    except (botocore.HTTPClientError, botocore.ConnectionError) as error:  # refused, reset, timed out, cut short
        raise PassingError(type(error).__name__) from error
    except (ResponseParserError, botocore.IncompleteReadError) as error:
        raise PassingError("broken answer") from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise PassingError(type(error).__name__) from error


def _meaning(error: Any, what: str, uri: str, number: int) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    answer = error.response.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode", 0)
    told = f"{what} {uri}: {code or status}"
    if code in PASSING or status in (429, 500, 502, 503, 504):
        if code == "RequestTimeTooSkewed" and number >= MAX_SKEWED:
            return StorageError(told, "set this machine's clock (timedatectl set-ntp true)")
        after_s = answer.get("HTTPHeaders", {}).get("retry-after", "")
        cause = f"status {status}" if code.isdigit() else code
        return PassingError(cause, float(after_s) if after_s.isdigit() else 0.0, code in BUSY)
    if code == "NoSuchBucket":
        return MissingBucketError(told, "check the bucket's name, or make it (infra/terraform)")
    if code == "NoSuchUpload":
        return UploadGoneError(told)
    if code in WRONG_REGION or status == 301:
        region = answer.get("HTTPHeaders", {}).get("x-amz-bucket-region", "that of the bucket")
        return StorageError(told, f"set [storage] region or AWS_REGION to {region}, and check endpoint_url")
    if code in WRONG_KEY:
        return StorageError(told, CREDENTIALS)
    if code in EXPIRED:
        return StorageError(told, "these credentials have expired: log in again (aws sso login) or renew them")
    if status == 403:
        return DeniedError(told, f"grant this to the role in use, or use another one: {what}")
    if status == 404:
        return MissingError(uri)
    if status == 412:
        return MissingError(uri, "it was replaced while it was read")
    return StorageError(f"{told} {error.response.get('Error', {}).get('Message', '')}", "check the storage's settings")
