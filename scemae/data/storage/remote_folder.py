"""Files below a URL of an object store or a web server, read or written through obstore.

obstore repeats what failed for a while (5xx, connections, timeouts); here a read that came short is
repeated too, and one that was refused is tried once more with credentials read anew.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from scemae.config.locations import masked, scheme_of
from scemae.data.storage.store_errors import failure, is_no_bucket, is_refusal
from scemae.data.storage.url_store import WRITABLE, open_store
from scemae.errors import ShardError
from scemae.files import documents

RESUME = "start again: the run resumes"
KEPT = "run the same command again (finished shards are kept)"
ATTEMPTS, FIRST_PAUSE = 5, 0.5  # of a read that came short; seconds, doubled each time
PIECE = 2**18
# A file is put in pieces of so many bytes, so many at a time: that much memory.
PUT_PIECE, PUTS = 8 * 2**20, 4
T = TypeVar("T")


class RemoteFolder:
    """The files below `location`. Threads may read at once; not to be used across a fork.

    Every call raises ShardError in one sentence: not there, not permitted, changed, or not to be
    reached for so long.
    """

    def __init__(self, location: str, *, to_write: bool = False, again: str = RESUME) -> None:
        """to_write: a folder of this machine (file:) is made, a web server is refused.

        again: what to do once it can be reached, for messages.
        """
        self.location, self._to_write = location.rstrip("/"), to_write
        self._do_again = KEPT if to_write else again
        self._tags: dict[str, str | None] = {}  # the ETag that each file had when first read
        self._lock = threading.Lock()
        self._store = open_store(self.location, to_write=self._to_write)

    def __str__(self) -> str:
        return masked(self.location)

    def __reduce__(self) -> tuple:
        return _opened_again, (self.location, self._to_write, self._do_again)

    def read(
        self,
        name: str,
        start: int,
        stop: int,
        size: int,
        use: Callable[[Iterator[bytes]], T],
        note: Callable[[], None] = lambda: None,
    ) -> T:
        """Pass bytes start..stop-1 of a file to `use`, in pieces; returns its result.

        size: of the whole file, which must not change meanwhile. use: has to take all pieces; it is
        called again, from the first on, after a failure that obstore could not repair. note: called
        whenever bytes have come. Raises ShardError.
        """
        return self._attempt(name, lambda: use(self._pieces(name, start, stop, size, note)))

    def stream(self, name: str) -> Iterator[bytes]:
        """A whole file, in pieces."""
        return self._all_of(name, self._attempt(name, lambda: self._get(name, {})))

    def newer_pieces(self, name: str, tag: str | None) -> tuple[Iterator[bytes], str | None] | None:
        """A whole file, in pieces, and its ETag; None where that is `tag` still."""
        found = self._attempt(name, lambda: self._newer(name, tag))
        return found and (self._all_of(name, found), found.meta.get("e_tag"))

    def newer(self, name: str, tag: str | None, most: int) -> tuple[bytes, str | None] | None:
        """A whole file of at most `most` bytes and its ETag; None where that is `tag` still.

        Raises ShardError, also for a longer file.
        """

        def asked() -> tuple[bytes, str | None] | None:
            found = self._newer(name, tag)
            return found and (self._bytes(name, found, most), found.meta.get("e_tag"))

        return self._attempt(name, asked)

    def _newer(self, name: str, tag: str | None) -> Any:
        """The answer with a file; None where its ETag is `tag` still."""
        from obstore import exceptions as refused

        try:
            return self._get(name, {"if_none_match": tag} if tag else {})
        except refused.NotModifiedError:
            return None

    def _all_of(self, name: str, answer: Any) -> Iterator[bytes]:
        try:
            yield from map(bytes, answer.stream(min_chunk_size=PIECE))
        except Exception as error:
            raise self._failure(name, error) from error

    def names(self) -> list[str]:
        """The names of the files in the folder itself, sorted. Raises ShardError."""
        return sorted(self.sizes())

    def sizes(self, below: str | None = None) -> dict[str, int]:
        """Names and bytes of the files in the folder itself, or in one below it."""
        import obstore

        def listed() -> dict[str, int]:
            found = obstore.list_with_delimiter(self._store, below)["objects"]
            return {entry["path"].rpartition("/")[2]: entry["size"] for entry in found}

        return self._attempt("", listed)

    @property
    def is_listed(self) -> bool:
        """Whether its files can be listed, as those of a web server cannot."""
        return scheme_of(self.location) in WRITABLE

    def folders(self) -> list[str]:
        """The names of the folders in it, sorted. Raises ShardError."""
        import obstore

        def listed() -> list[str]:
            return sorted(obstore.list_with_delimiter(self._store)["common_prefixes"])

        return self._attempt("", listed)

    def load(self, name: str) -> tuple[bytes, str | None] | None:
        """A file of at most documents.MOST_JSON bytes, and its ETag; None if there is none."""

        def whole() -> tuple[bytes, str | None] | None:
            try:
                found = self._get(name, {})
            except FileNotFoundError as error:
                if is_no_bucket(error):
                    raise
                return None
            return self._bytes(name, found, documents.MOST_JSON), found.meta.get("e_tag")

        return self._attempt(name, whole)

    def _bytes(self, name: str, found: Any, most: int) -> bytes:
        """The content of an answer. Raises ShardError where it has more than `most` bytes."""
        if found.meta["size"] > most:
            raise ShardError(f"{self.url(name)}: found more than {most:,} bytes; check the address")
        return bytes(found.bytes())

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in place of one of that name. Raises ShardError."""
        self._put(name, data)

    def upload(self, name: str, path: Path) -> None:
        """Write a file of this disk, piece by piece; the name appears when all are there."""
        self._put(name, path, chunk_size=PUT_PIECE, max_concurrency=PUTS)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless there is one of that name; False if there was another."""
        try:
            if self._put(name, data, mode="create"):
                return True
        except NotImplementedError as error:  # a store without conditions, or set to use none
            raise self._failure(name, error, "written") from error
        # The answer to an earlier attempt of this call may have been lost.
        return (found := self.load(name)) is not None and found[0] == data

    def replace(self, name: str, data: bytes, tag: str | None) -> bool:
        """Write a small file if it still has this ETag; False otherwise.

        A folder of this machine (file:) cannot compare: there it is always written.
        """
        try:
            return self._put(name, data, mode={"e_tag": tag})
        except NotImplementedError:
            return self._put(name, data)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        import obstore

        def removed() -> None:
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError as error:
                if is_no_bucket(error):
                    raise

        self._attempt(name, removed, "written")

    def _put(self, name: str, data: bytes | Path, **options: Any) -> bool:
        """Write a file; False where a condition in `options` does not hold."""
        import obstore
        from obstore import exceptions as refused

        def put() -> bool:
            try:
                obstore.put(self._store, name, data, **options)
            except (refused.AlreadyExistsError, refused.PreconditionError):
                return False
            return True

        return self._attempt(name, put, "written")

    def _pieces(
        self, name: str, start: int, stop: int, size: int, note: Callable[[], None]
    ) -> Iterator[bytes]:
        options: dict[str, Any] = {"range": (start, stop)}
        if tag := self._tags.get(name):
            options["if_match"] = tag
        answer = self._get(name, options)
        if answer.meta["size"] != size:
            raise ShardError(
                f"{self.url(name)}: found {answer.meta['size']:,} bytes, the manifest says "
                f"{size:,}; copy the shards there again"
            )
        with self._lock:
            first = self._tags.setdefault(name, answer.meta.get("e_tag"))
        if first != answer.meta.get("e_tag"):
            raise self._changed(name)
        have = 0
        for piece in answer.stream(min_chunk_size=PIECE):
            have += len(piece)
            note()
            if have > stop - start:
                break
            yield piece
        if have != stop - start:
            more = "more than " if have > stop - start else f"{have:,} bytes of "
            raise OSError(f"{more}{stop - start:,} came")

    def _get(self, name: str, options: Any) -> Any:
        import obstore

        return obstore.get(self._store, name, options=options)

    def _attempt(self, name: str, read: Callable[[], T], done: str = "read") -> T:
        """What `read` returns. done: what it does to the file, for messages. Raises ShardError."""
        from obstore import exceptions as refused

        renewed = False
        for attempt in range(ATTEMPTS):
            try:
                return read()
            except (ShardError, NotImplementedError):
                raise
            except FileNotFoundError as error:
                raise self._failure(name, error, done) from error
            except refused.PreconditionError as error:
                raise self._changed(name) from error
            except Exception as error:
                if is_refusal(error) and not renewed:
                    self._store, renewed = open_store(self.location, to_write=self._to_write), True
                    continue
                if is_refusal(error) or attempt == ATTEMPTS - 1 or is_no_bucket(error):
                    raise self._failure(name, error, done) from error
                time.sleep(FIRST_PAUSE * 2**attempt)
        raise AssertionError("unreachable")

    def _failure(self, name: str, error: Exception, done: str = "read") -> ShardError:
        return failure(self.url(name), error, done, again=self._do_again, to_write=self._to_write)

    def _changed(self, name: str) -> ShardError:
        return ShardError(
            f"{self.url(name)}: was replaced while it is in use (its ETag is another); put the old "
            "file back, or start a new run on the new shards"
        )

    def url(self, name: str) -> str:
        """The URL of a file, for messages."""
        return masked(f"{self.location}/{name}")


def _opened_again(location: str, to_write: bool, again: str) -> RemoteFolder:
    """The folder in another process."""
    return RemoteFolder(location, to_write=to_write, again=again)
