"""Whose a file or a folder is: this user's alone, and made here by this program, or possibly another's."""

import grp
import json
import os
import pwd
import stat
from pathlib import Path

from scemae.errors import FileError
from scemae.files import disk

RUN_FILES = ("config.yaml", "provenance.json", "sweep.json", "sweep.yaml")
MARK = ".made-by-scemae"  # in a folder that this program made: its inode


def is_private(path: Path) -> bool:
    """True where `path` is this user's and no other user can write to it: a group counts as others, but for the user's own
    group, which has no other member."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    is_shared = found.st_mode & stat.S_IWOTH or (
        found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid)
    )
    return found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode) and not is_shared


def is_private_run(folder: Path) -> bool:
    """True where `is_private` holds for the folder of a run or a sweep and the files that describe it."""
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
    """Make a new folder that `is_marked` knows as made here, in one step. Raises OSError or FileError where the name is taken."""
    with disk.building(folder) as aside:
        disk.write_json(aside / MARK, {"inode": os.stat(aside).st_ino})  # a rename keeps it


def is_marked(folder: Path) -> bool:
    """True where `make_marked` made the folder on this disk: one that was copied or unpacked here has another inode, and
    one made by somebody else is not this user's."""
    try:
        found = json.loads(disk.read_bytes(folder / MARK, 1000))
    except (OSError, ValueError, FileError):
        return False
    return (
        is_private(folder)
        and is_private(folder / MARK)
        and found == {"inode": os.lstat(folder).st_ino}
    )


def refuse_known(path: Path) -> None:
    """Raise FileError for the file of a secret that another user may have written, or can read."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise FileError(
            f"{path}: found a secret that another user may know (owner {found.st_uid}, mode {found.st_mode & 0o7777:o}); "
            "needed a file of yours with mode 600; remove it, and another one is made"
        )
