"""The one way to open, lock, replace and remove files: what lies on a disk may come from somebody else.

Reading opens regular files alone (no device, no pipe) and checks the size before it allocates. Writing never follows a
link: a new file gets a name of its own that nobody else can have prepared, and takes its place in one rename, so that
a name holds either the old content or the whole new one. Removing never leaves the folder it was told to stay in.
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
from pathlib import Path
from typing import BinaryIO

from scemae.errors import FileError

MIB = 2**20


def open_regular(path: Path | str, most: int | None = None) -> BinaryIO:
    """Open a regular file of at most `most` bytes for reading. Links are followed.

    Raises FileError where it is anything else (a device, a pipe, a folder) or larger, and OSError where it cannot be opened.
    """
    descriptor = os.open(
        path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    )  # a pipe without a writer must not block
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise FileError(f"{path}: found no regular file; only regular files are read")
        if most is not None and found.st_size > most:
            raise FileError(
                f"{path}: found {found.st_size:,} bytes, at most {most:,} were expected of such a file; it is "
                "damaged or not what its name says"
            )
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path | str, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises FileError, or OSError where it cannot be read."""
    with open_regular(path, most) as file:
        return file.read(most + 1)[:most]  # a file that grows meanwhile is cut


def plain_name(name: str) -> str:
    """`name`, if it names an entry of a folder and nothing outside of it. Raises ValueError otherwise."""
    if (
        not name
        or name in (".", "..")
        or "/" in name
        or "\0" in name
        or len(os.fsencode(name)) > 255
    ):
        raise ValueError(f"{name[:80]!r} is no plain file name")
    return name


def create(path: Path | str, mode: int = 0o666, buffering: int = -1) -> BinaryIO:
    """A new file to write to, with `mode` less the umask. Raises FileExistsError where the name is taken, also by a link."""
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode
    )
    return os.fdopen(descriptor, "wb", buffering)


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write to that becomes `path` when the block ends, and vanishes where the block raises.

    The data are synced before the rename, so that after a crash `path` is the old file or the whole new one.
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
    """Make `path` hold `data`, whatever happens: the old content or the whole new one."""
    with replacing(path, mode) as file:
        file.write(data)


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Make `path` hold `text` in UTF-8, in one step (`write_bytes`)."""
    write_bytes(path, text.encode("utf8", "surrogateescape"), mode)


def write_json(path: Path, value: object, mode: int = 0o666) -> None:
    """Make `path` hold `value` as JSON, in one step (`write_bytes`)."""
    write_text(path, json.dumps(value, indent=1), mode)


def open_to_append(path: Path, mode: int = 0o666) -> int:
    """A descriptor that appends to the regular file `path`, which is made where there is none.

    Raises FileError where it is a link or no regular file.
    """
    return _open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)


def open_to_change(path: Path) -> BinaryIO:
    """A regular file that is there, to be changed in place. Raises FileError where it is a link or no regular file."""
    return os.fdopen(_open_own(path, os.O_RDWR, 0), "r+b")


def overwrite(path: Path, text: str) -> None:
    """Put `text` in the place of what is in the file: not in one step and not synced, for what is written every few seconds.
    Raises FileError where `path` is a link or no regular file."""
    with os.fdopen(_open_own(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), "wb") as file:
        file.write(text.encode())


def touch(path: Path) -> None:
    """Make an empty file where there is none, and let it be of now. Raises FileError where `path` is a link or no regular
    file."""
    with os.fdopen(_open_own(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
        os.utime(file.fileno())


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the exclusive lock of the file `path`, which is made where there is none and never changed.

    Raises BlockingIOError where another process holds it and wait is False, FileError where it is a link or no file.
    """
    descriptor = _open_own(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)  # a child that inherited it would keep the lock: it is close-on-exec


def _open_own(path: Path, flags: int, mode: int) -> int:
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


def make_folders(path: Path, inside: Path) -> Path:
    """Make the folder `path`, which lies below `inside`, with those on the way; returns it.

    `inside` itself may be a link: its user named it. Raises FileError where a folder below it is one, because what is then
    written would land elsewhere, and NotADirectoryError where it is a file.
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
                raise NotADirectoryError(
                    errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(here)
                ) from None
    return path


def refuse_link(path: Path) -> None:
    """Raise FileError where `path` is a link."""
    if path.is_symlink():
        raise FileError(
            f"{path}: found a link where a folder or file of ours was needed, so what is written would land "
            "elsewhere; remove the link"
        )


@contextmanager
def building(path: Path) -> Iterator[Path]:
    """A new folder to fill that becomes `path` when the block ends, and vanishes where the block raises.

    Raises FileExistsError, or what the disk says, where `path` is taken by then.
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
    """Make the names in a folder durable: a file's own fsync says nothing of its name."""
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


def rename_folder(aside: Path, target: Path) -> None:
    """Give a folder that is complete its final name, durably. `target` may be an empty folder."""
    sync_folder(aside)
    os.rename(aside, target)
    sync_folder(target.parent)


def remove_tree(path: Path, inside: Path, *, best_effort: bool = False) -> None:
    """Remove the folder `path`, which lies below `inside`, with all that is in it; nothing where there is none.

    No link is followed, on the way to it or in it. Raises FileError where a link leads out of `inside`. best_effort: what
    the disk refuses to remove stays, without an error.
    """
    if path == inside or not is_inside(path, inside):
        raise FileError(
            f"{path}: found a link on the way from {inside}; it was not removed, because what it leads to may be "
            "another's"
        )
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
    """SHA-256 of a regular file, in hexadecimal. Raises FileError for any other file, or OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: object) -> str:
    """SHA-256 of a value as JSON. The order of a dict's keys does not matter."""
    return digest(json.dumps(value, sort_keys=True))
