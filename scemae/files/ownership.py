"""Whether a file or a folder can be trusted: this user's alone, or made here by this program."""

import grp
import os
import pwd
import stat
from pathlib import Path

from scemae.errors import DataError, FileError
from scemae.files import disk, documents

# they say what a run or a sweep is
RUN_FILES = ("config.yaml", "provenance.json", "sweep.json", "sweep.yaml")
MARK = ".made-by-scemae"  # a file in a folder that this program made; it holds the folder's inode


def is_private(path: Path) -> bool:
    """True where `path` is no link, this user owns it, and no other user can write to it.

    A group counts as other users, except the user's own group without another member.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return False
    is_shared = found.st_mode & stat.S_IWOTH or (
        found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid)
    )
    return found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode) and not is_shared


def is_private_run(folder: Path) -> bool:
    """True where `is_private` holds for a folder of a run or a sweep, and for its RUN_FILES."""
    folder = folder.resolve()
    present = [folder / name for name in RUN_FILES if os.path.lexists(folder / name)]
    return all(is_private(path) for path in (folder, *present))


def _is_own_group(number: int) -> bool:
    try:
        mine, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return (
        mine.pw_gid == number
        and mine.pw_name == group.gr_name
        and not set(group.gr_mem) - {mine.pw_name}
    )


def make_marked(folder: Path) -> None:
    """Make a new folder that `is_marked` accepts, in one step.

    Raises OSError or FileError where the name is taken.
    """
    with disk.building(folder) as aside:
        disk.write_json(aside / MARK, {"inode": os.stat(aside).st_ino})  # a rename keeps it


def is_marked(folder: Path) -> bool:
    """True where `make_marked` made the folder on this disk for this user.

    A folder that was copied or unpacked has another inode, and another user's is not private.
    """
    try:
        found = documents.read_json(folder / MARK, dict[str, int], most=1000)
    except (OSError, DataError):
        return False
    is_ours = is_private(folder) and is_private(folder / MARK)
    return is_ours and found == {"inode": os.lstat(folder).st_ino}


def refuse_known(path: Path) -> None:
    """Raise FileError for a file with a secret that another user may have written or can read."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise FileError(
            f"{path}: found a secret that another user may know (owner {found.st_uid}, mode "
            f"{found.st_mode & 0o7777:o}), needed a file of yours with mode 600; remove it, and "
            "another one is made"
        )
