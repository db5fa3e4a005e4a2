"""Copying shards from a URL into a cache, once for each node; no file is used before its check.

    CACHE_DIR/NAME OF THE URL/0123456789abcdef/     manifest, indexes and tars

The last folder is named after the digests in the manifest, so that copies of other shards are never
taken for these.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock

from scemae.config import locations
from scemae.config.locations import masked
from scemae.data.storage import url_program
from scemae.data.storage.download import download, scheme_of
from scemae.data.storage.gzipped_tars import whole_of
from scemae.data.storage.manifest import (
    GZIP,
    MANIFEST,
    Manifest,
    Shard,
    parse_manifest,
    url_of_tars,
    write_manifest,
)
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.data.storage.remote_manifest import newer_manifest
from scemae.data.storage.url_program import OBJECT_STORES
from scemae.errors import FileError, ShardError
from scemae.files import disk, documents
from scemae.files.ownership import is_private
from scemae.process.progress import progress_bar

COPIES = 8  # files that are copied at a time


def fetch(
    location: str,
    cache_dir: Path,
    *,
    may_copy: bool = True,
    note: Callable[[], None] = lambda: None,
) -> Path:
    """Copy manifest, indexes and tars below `location` into `cache_dir`; return the folder.

    The manifest may name another place of its tars; a `location` of such may be a folder.
    A file that an earlier call copied is kept; a new one gets its name only when it is whole and
    its SHA-256 is the manifest's. Where copying is not allowed (may_copy False), or a file names a
    location that only the user may type (url_program.py), an earlier copy is used if there is one.
    Raises ShardError.
    """
    place = cache_dir / locations.cache_name(location)
    if not may_copy or not locations.may_open(location) or locations.is_masked(location):
        if kept := sorted(place.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime):
            return kept[-1].parent
        url_program.refuse(location)
        raise ShardError(
            f"{masked(location)}: found no copy of it in {cache_dir}, and none is made where "
            "a file names both; copy the shards yourself (verify-resume takes --shards and "
            "--cache-dir)"
        )
    disk.make_folders(place, cache_dir)
    with _turn(place / ".lock", note):  # one rank of a node copies while the others wait
        if scheme_of(location) in OBJECT_STORES:
            text, _ = newer_manifest(RemoteFolder(location)) or (b"", None)
        else:
            text = b"".join(download(locations.below(location, MANIFEST), documents.MOST_JSON))
        manifest = parse_manifest(text, masked(locations.below(location, MANIFEST)))
        tars = url_of_tars(location, manifest)
        folder = place / _digest(manifest)[:16]
        disk.make_folders(folder, cache_dir)
        missing = _missing(folder, manifest)
        _check_room(folder, sum(one.size or 0 for one in missing))
        _copy_all(location, tars, missing, note)
        if manifest.tars is None and not manifest.is_compressed:
            disk.write_bytes(folder / MANIFEST, text)
        else:  # they are beside it now, and as they are inside
            options = {k: value for k, value in manifest.options.items() if k not in ("tars", GZIP)}
            shards = [shard.plain() for shard in manifest.shards]
            write_manifest(folder, replace(manifest, shards=shards, options=options))
    return folder


@contextmanager
def _turn(lock: Path, note: Callable[[], None]) -> Iterator[None]:
    """Hold a lock; `note` is called while another process holds it."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(disk.locked(lock, wait=False))
                break
            except BlockingIOError:
                note()
                time.sleep(0.2)
        yield


def _copy_all(location: str, tars: str, missing: "list[Wanted]", note: Callable[[], None]) -> None:
    """Copy files, COPIES at a time. `note` is called while bytes arrive; it may end the copying."""
    arrived, stop = Arrived(), Event()
    total = sum(one.bytes for one in missing)
    bar = progress_bar(total=total, unit="B", unit_scale=True, desc="copying shards")
    with bar, ThreadPoolExecutor(COPIES, "copy") as threads:
        waiting = {
            threads.submit(_copy_one, location if one.is_index else tars, one, arrived, stop)
            for one in missing
        }
        try:
            while waiting:
                done, waiting = wait(waiting, 1.0, FIRST_COMPLETED)
                for future in done:
                    future.result()
                if new := arrived.new():
                    bar.update(new)
                    note()
        except BaseException:
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


class Arrived:
    """How many bytes have come in all threads."""

    def __init__(self) -> None:
        self._lock, self._count, self._reported = Lock(), 0, 0

    def add(self, count: int) -> None:
        """Called by the threads."""
        with self._lock:
            self._count += count

    def new(self) -> int:
        """How many since the last call."""
        with self._lock:
            new, self._reported = self._count - self._reported, self._count
        return new


def _copy_one(location: str, wanted: "Wanted", arrived: Arrived, stop: Event) -> None:
    if not _link_copy(wanted.path, wanted.size, wanted.digest):
        _copy(locations.below(location, wanted.source), wanted, arrived, stop)


@dataclass(frozen=True)
class Wanted:
    """A file of the cache: its size where the manifest has it, its SHA-256; the tar's shard."""

    path: Path
    size: int | None
    digest: str
    shard: Shard | None = None

    @property
    def is_index(self) -> bool:
        """Whether it is no tar."""
        return self.shard is None

    @property
    def source(self) -> str:
        """The name of the file to copy, which may be compressed."""
        return self.shard.file if self.shard else self.path.name

    @property
    def bytes(self) -> int:
        """That come, as far as is known."""
        return self.shard.bytes if self.shard else 0


def _missing(folder: Path, manifest: Manifest) -> list[Wanted]:
    """The indexes and tars of the manifest that are not in `folder`, or not as it says."""
    wanted: list[Wanted] = []
    for shard in manifest.shards:
        wanted.append(Wanted(folder / shard.index_file, None, shard.index_sha256))
        plain = shard.plain()
        wanted.append(Wanted(folder / plain.file, plain.bytes, plain.sha256, shard))
    trusted = is_private(folder)  # where others can write, name and size prove nothing
    return [
        one
        for one in wanted
        if not (
            _is_there(one.path, one.size) and (trusted or disk.file_digest(one.path) == one.digest)
        )
    ]


def _digest(manifest: Manifest) -> str:
    parts = [f"{shard.file} {shard.sha256} {shard.index_sha256}" for shard in manifest.shards]
    return disk.digest("\n".join(parts))


def _is_there(path: Path, size: int | None) -> bool:
    return path.exists() and size in (None, path.stat().st_size)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ShardError(
            f"{folder}: found room for {free:,} bytes, the shards to copy have {needed:,}; make "
            "room, or set another data.cache_dir"
        )


def _link_copy(path: Path, size: int | None, digest: str) -> bool:
    """Link an equal file that was copied of this URL under another manifest; False if none is."""
    for other in (path.parent.parent / path.name, *path.parent.parent.glob(f"*/{path.name}")):
        try:
            if other != path and _is_there(other, size) and disk.file_digest(other) == digest:
                path.unlink(missing_ok=True)
                os.link(other, path)
                return True
        except (OSError, FileError):
            continue
    return False


def _copy(url: str, wanted: Wanted, arrived: Arrived, stop: Event) -> None:
    """Write a file of the cache; a compressed tar as it is inside. Raises ShardError."""
    shard, came, name = wanted.shard, Came(), masked(url)

    def blocks() -> Iterator[bytes]:
        for block in download(url, shard.bytes if shard else documents.MOST_JSON):
            if stop.is_set():
                raise ShardError(f"{name}: stopped while it was copied; start again")
            came.add(block)
            arrived.add(len(block))
            yield block

    with disk.replacing(wanted.path) as target:
        if shard and shard.is_compressed:
            for piece in whole_of(blocks(), shard, name):
                target.write(piece)
            came.check(name, shard.bytes, shard.sha256)
        else:
            for block in blocks():
                target.write(block)
            came.check(name, wanted.size, wanted.digest)


class Came:
    """Length and SHA-256 of bytes that came."""

    def __init__(self) -> None:
        self._hash, self._count = hashlib.sha256(), 0

    def add(self, block: bytes) -> None:
        """More bytes."""
        self._hash.update(block)
        self._count += len(block)

    def check(self, name: str, size: int | None, digest: str) -> None:
        """Raise ShardError unless these are all, and the right ones."""
        if size not in (None, self._count):
            raise ShardError(
                f"{name}: found {self._count:,} bytes, the manifest says {size:,}; copy the "
                "shards there again"
            )
        if self._hash.hexdigest() != digest:
            raise ShardError(
                f"{name}: its SHA-256 is not the manifest's, so it was altered or belongs "
                "to another manifest; copy the shards there again"
            )
