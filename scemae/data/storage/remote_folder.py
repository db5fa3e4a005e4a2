"""Files below a URL of an object store or a web server, read whole or by ranges, through obstore.

Credentials come from where the user of that store keeps them (environment variables, a machine's
role; for s3:// also ~/.aws where boto3 is installed), never from a setting. obstore repeats what
failed for a while (5xx, connections, timeouts); here a read that came short is repeated too, and
one that was refused is tried once more with credentials read anew.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, TypeVar

from scemae.config.locations import masked, scheme_of, without_secrets
from scemae.errors import ShardError

SCHEMES = ("s3", "gs", "az", "http", "https", "file")
ATTEMPTS, FIRST_PAUSE = 5, 0.5  # of a read that came short; seconds, doubled each time
PIECE = 2**20
T = TypeVar("T")


class RemoteFolder:
    """The files below `location`. Threads may read at once; not to be used across a fork.

    Every read raises ShardError in one sentence: not there, not permitted, changed, or not to be
    read for so long.
    """

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self._tags: dict[str, str | None] = {}  # the ETag that each file had when first read
        self._lock = threading.Lock()
        self._store = self._opened()

    def read(self, name: str, start: int, stop: int, size: int) -> bytes:
        """Bytes start..stop-1 of a file of `size` bytes, which must stay the same file."""
        return self._attempt(name, lambda: self._range(name, start, stop, size))

    def stream(self, name: str) -> Iterator[bytes]:
        """A whole file, in pieces."""
        found = self._attempt(name, lambda: self._get(name, {}))
        try:
            yield from map(bytes, found.stream(min_chunk_size=PIECE))
        except Exception as error:
            raise self._failure(name, error) from error

    def names(self) -> list[str]:
        """The names of the files in the folder itself, sorted. Raises ShardError."""
        import obstore

        def listed() -> list[str]:
            found = obstore.list_with_delimiter(self._store)["objects"]
            return sorted(entry["path"].rpartition("/")[2] for entry in found)

        return self._attempt("", listed)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in place of one of that name. Raises ShardError."""
        import obstore

        self._attempt(name, lambda: obstore.put(self._store, name, data))

    def _range(self, name: str, start: int, stop: int, size: int) -> bytes:
        options: dict[str, Any] = {"range": (start, stop)}
        if tag := self._tags.get(name):
            options["if_match"] = tag
        found = self._get(name, options)
        if found.meta["size"] != size:
            raise ShardError(
                f"{self.url(name)}: found {found.meta['size']:,} bytes, the manifest says "
                f"{size:,}; copy the shards there again"
            )
        data = bytes(found.bytes())
        if len(data) != stop - start:
            raise OSError(f"{len(data):,} bytes came of {stop - start:,}")
        with self._lock:
            first = self._tags.setdefault(name, found.meta.get("e_tag"))
        if first != found.meta.get("e_tag"):
            raise self._changed(name)
        return data

    def _get(self, name: str, options: Any) -> Any:
        import obstore

        return obstore.get(self._store, name, options=options)

    def _attempt(self, name: str, read: Callable[[], T]) -> T:
        """What `read` returns. Raises ShardError."""
        from obstore import exceptions as refused

        renewed = False
        for attempt in range(ATTEMPTS):
            try:
                return read()
            except ShardError:
                raise
            except FileNotFoundError as error:
                raise self._failure(name, error) from error
            except refused.PreconditionError as error:
                raise self._changed(name) from error
            except (refused.PermissionDeniedError, refused.UnauthenticatedError) as error:
                if renewed:
                    raise self._failure(name, error) from error
                self._store, renewed = self._opened(), True
            except Exception as error:
                if attempt == ATTEMPTS - 1:
                    raise self._failure(name, error) from error
                time.sleep(FIRST_PAUSE * 2**attempt)
        raise AssertionError("unreachable")

    def _failure(self, name: str, error: Exception) -> ShardError:
        from obstore import exceptions as refused

        if isinstance(error, FileNotFoundError):
            found, do = "not found", "check the address, or copy the shards there again"
        elif isinstance(error, refused.PermissionDeniedError | refused.UnauthenticatedError):
            found = "access was refused, also with credentials read anew"
            do = "renew the credentials and start again: the run resumes"
        else:
            why = without_secrets(" ".join(str(error).split()))[:200]
            found = f"cannot be read ({why})"
            do = "check the network and your access, and start again: the run resumes"
        return ShardError(f"{self.url(name)}: {found}; {do}")

    def _changed(self, name: str) -> ShardError:
        return ShardError(
            f"{self.url(name)}: was replaced while it is in use (its ETag is another); put the old "
            "file back, or start a new run on the new shards"
        )

    def url(self, name: str) -> str:
        """The URL of a file, for messages."""
        return masked(f"{self.location}/{name}")

    def _opened(self) -> Any:
        if find_spec("obstore") is None:
            raise ShardError(
                f"{masked(self.location)}: found no obstore, which reads it; run `pip install "
                "'scemae[remote]'`, or copy the shards to a folder"
            )
        from obstore.store import HTTPStore, LocalStore, from_url

        scheme = scheme_of(self.location)
        if scheme in ("http", "https") and ("?" in self.location or "@" in self.location):
            raise ShardError(
                f"{masked(self.location)}: a URL with a password or a query can only be copied "
                "whole; leave data.cache_gb out, or use s3://, gs:// or az://"
            )
        options: Any = {
            "client_options": {"allow_http": True, "connect_timeout": "10s", "timeout": "120s"},
            "retry_config": {"max_retries": 8, "retry_timeout": timedelta(minutes=3)},
        }
        try:
            if scheme == "file":
                return LocalStore.from_url(self.location)
            if scheme in ("http", "https"):
                return HTTPStore.from_url(self.location, **options)
            if scheme == "s3" and "AWS_ACCESS_KEY_ID" not in os.environ:
                options |= _boto3_credentials()
            return from_url(self.location, **options)
        except Exception as error:
            why = without_secrets(" ".join(str(error).split()))[:200]
            raise ShardError(
                f"{masked(self.location)}: cannot be opened ({why}); check the address"
            ) from error


def _boto3_credentials() -> dict[str, Any]:
    """Those of ~/.aws, of AWS_PROFILE or of a machine's role, where boto3 is installed."""
    if find_spec("boto3") is None:
        return {}
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    return {"credential_provider": Boto3CredentialProvider(session)} if _has_any(session) else {}


def _has_any(session: Any) -> bool:
    return session.get_credentials() is not None
