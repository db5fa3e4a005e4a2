"""The one way to open, lock, replace, remove and hash files, some of which others may have written.

Reading opens only regular files (no device, no pipe) and checks the size before it allocates.
Writing never follows a link: a new file first gets a random name that nobody can have prepared, and
then its final name by one rename, so a name stands for the old content or the complete new one.
Removing never leaves the folder that the caller names.
"""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from scemae.errors import FileError

MOST_OPEN = 256  # files of one kind that stay open; a process may usually open 1,024
MIB = 2**20


def open_regular(path: Path | str, most: int | None = None) -> BufferedReader:
    """Open a regular file of at most `most` bytes for reading. Links are followed.

    Raises FileError where it is anything else (a device, a pipe, a folder) or larger, and OSError
    where it cannot be opened.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to must not wait
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise FileError(f"{path}: found no regular file; only regular files are read")
        if most is not None and found.st_size > most:
            raise FileError(
                f"{path}: found {found.st_size:,} bytes, at most {most:,} were expected of such a "
                "file; it is damaged or not what its name says"
            )
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path | str, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises FileError as `open_regular` does, and OSError where it cannot be read.
    """
    with open_regular(path, most) as file:
        return file.read(most + 1)[:most]  # cut where the file grows meanwhile


def plain_name(name: str) -> str:
    """`name`, where it names an entry of a folder, not of another. Raises ValueError otherwise."""
    is_odd = name in ("", ".", "..") or "/" in name or "\0" in name
    if is_odd or len(os.fsencode(name)) > 255:
        raise ValueError(f"{name[:80]!r} is no plain file name")
    return name


def create(path: Path | str, mode: int = 0o666, buffering: int = -1) -> BinaryIO:
    """A new file to write to, with `mode` less the umask.

    Raises FileExistsError where the name is taken, even by a link.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    return os.fdopen(descriptor, "wb", buffering)


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write to, renamed to `path` at the end of the block, or removed where it raises.

    The data are synced before the rename, so after a crash `path` is the old file or the complete
    new one.
    """
    aside = path.with_name(f"{path.name[:200]}.partial-{secrets.token_hex(4)}")
    try:
        with create(aside, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Replace the content of `path` by `data`, all or nothing (`replacing`)."""
    with replacing(path, mode) as file:
        file.write(data)


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Replace the content of `path` by `text` in UTF-8, all or nothing (`replacing`)."""
    write_bytes(path, text.encode("utf8", "surrogateescape"), mode)


def write_json(path: Path, value: object, mode: int = 0o666) -> None:
    """Replace the content of `path` by `value` as JSON, all or nothing (`replacing`)."""
    write_bytes(path, json_bytes(value), mode)


def json_bytes(value: object) -> bytes:
    """The text of a JSON file, as all of ours are written."""
    return json.dumps(value, indent=1).encode("utf8", "surrogateescape")


def open_to_append(path: Path, mode: int = 0o666) -> int:
    """A descriptor that appends to the regular file `path`, which is created if missing.

    Raises FileError where it is a link or no regular file.
    """
    return _open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)


def open_to_change(path: Path) -> BinaryIO:
    """An existing regular file, to be changed in place.

    Raises FileError where it is a link or no regular file.
    """
    return os.fdopen(_open_own(path, os.O_RDWR, 0), "r+b")


def overwrite(path: Path, text: str) -> None:
    """Replace the content of a file by `text`, not atomically and not synced.

    It is for what is written every few seconds. Raises FileError where `path` is a link or no
    regular file.
    """
    with os.fdopen(_open_own(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), "wb") as file:
        file.write(text.encode())


def touch(path: Path) -> None:
    """Create an empty file if there is none, and set its times to now.

    Raises FileError where `path` is a link or no regular file.
    """
    with os.fdopen(_open_own(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
        os.utime(file.fileno())


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the exclusive lock of the file `path`, which is created if missing and never changed.

    Raises BlockingIOError where another process holds it and wait is False, FileError where it is a
    link or no regular file.
    """
    descriptor = _open_own(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)  # releases the lock: close-on-exec kept it from child processes


def _open_own(path: Path, flags: int, mode: int) -> int:
    """Open a regular file and no link. Raises FileError."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise FileError(
                f"{path}: found a link or a pipe where a file of ours was needed; remove it"
            ) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"{path}: found no regular file where a file of ours was needed; remove it")
    return descriptor


def is_inside(path: Path, folder: Path) -> bool:
    """True where `path` is `folder` or below it and no component below `folder` is a link."""
    parts = path.relative_to(folder).parts if path.is_relative_to(folder) else None
    if parts is None or ".." in parts:
        return False
    here = folder
    for part in parts:
        here = here / part
        if here.is_symlink():
            return False
    return True


def refuse_links_between(path: Path, inside: Path) -> None:
    """Raise FileError where `path` is not below `inside`, or only through a link."""
    if path == inside or not is_inside(path, inside):
        raise FileError(
            f"{path}: found a link on the way from {inside}; it was not removed, because what it "
            "leads to may be another's"
        )


def make_folders(path: Path, inside: Path) -> Path:
    """Make the folder `path` below `inside`, with all folders between them; returns it.

    `inside` itself may be a link, because the user named it. Raises FileError where a folder below
    it is a link, which would lead what is written elsewhere, and NotADirectoryError for a file.
    """
    inside.mkdir(parents=True, exist_ok=True)
    here = inside
    for part in path.relative_to(inside).parts:
        here = here / part
        try:
            here.mkdir()
        except FileExistsError:
            refuse_link(here)
            if not here.is_dir():
                why = os.strerror(errno.ENOTDIR)
                raise NotADirectoryError(errno.ENOTDIR, why, str(here)) from None
    return path


def refuse_link(path: Path) -> None:
    """Raise FileError where `path` is a link."""
    if path.is_symlink():
        raise FileError(
            f"{path}: found a link where a folder or file of ours was needed, so what is written "
            "would land elsewhere; remove the link"
        )


@contextmanager
def building(path: Path) -> Iterator[Path]:
    """A new folder to fill, renamed to `path` at the end of the block, or removed if it raises.

    Raises OSError (FileExistsError, say) where `path` is taken by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name[:200]}.partial-{secrets.token_hex(4)}")
    aside.mkdir()
    try:
        yield aside
        refuse_link(path)
        rename_folder(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. The fsync of a file does not cover its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make what was written to a file so far durable. Does nothing where there is no such file."""
    if path.exists():
        with open_regular(path) as file:
            os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file; nothing where it is not there."""
    path.unlink(missing_ok=True)


def empty(path: Path) -> None:
    """Cut a file to no bytes, also for those who have it open; nothing where it is not there."""
    try:
        os.truncate(path, 0)
    except FileNotFoundError:
        pass


def rename(path: Path, target: Path) -> None:
    """Give a finished file its name."""
    os.rename(path, target)


def rename_folder(aside: Path, target: Path) -> None:
    """Give a folder that is complete its final name, durably. `target` may be an empty folder."""
    sync_folder(aside)
    os.rename(aside, target)
    sync_folder(target.parent)


def remove_tree(path: Path, inside: Path, *, best_effort: bool = False) -> None:
    """Remove the folder `path` below `inside` with all that is in it, if it exists.

    Links are removed, not followed. Raises FileError where a folder between `inside` and `path` is
    a link. best_effort: what cannot be removed stays, without an error.
    """
    refuse_links_between(path, inside)
    try:
        shutil.rmtree(path, ignore_errors=best_effort)
    except FileNotFoundError:
        pass


def digest(data: bytes | str) -> str:
    """SHA-256 of bytes, or of a text in UTF-8, in hexadecimal."""
    if isinstance(data, str):
        data = data.encode("utf8", "surrogateescape")
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal. Raises FileError for any other, or OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: object) -> str:
    """SHA-256 of a value as JSON. The order of a dict's keys does not matter."""
    return digest(json.dumps(value, sort_keys=True))
