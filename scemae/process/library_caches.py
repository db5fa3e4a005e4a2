"""Folders for the caches of libraries, where the user has no home (a container, a service)."""

import os
import pwd
import stat
import tempfile
from pathlib import Path

# Of torch, matplotlib and Triton; what the user has set stays.
CACHES = ("XDG_CACHE_HOME", "MPLCONFIGDIR", "TRITON_HOME")


def settle() -> None:
    """Set a user name and cache folders in the environment, where the system has none.

    Processes that this one starts inherit them. A home that exists but cannot be written to stays
    HOME, because programs read files in it.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # getpass.getuser, which torch.compile calls, raises then
        os.environ.setdefault("LOGNAME", f"uid{os.getuid()}")
    home = os.path.expanduser("~")
    if os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        return
    try:
        folder = str(_private_folder(Path(tempfile.gettempdir()) / f"scemae-home-{os.getuid()}"))
    except OSError:  # nothing can be written: each command reports that where it has to write
        return
    for name in CACHES if os.path.isdir(home) else ("HOME", *CACHES):
        if name == "HOME" or name not in os.environ:
            os.environ[name] = folder


def _private_folder(path: Path) -> Path:
    """`path`, as a folder that this user alone can enter.

    Where somebody else made `path`, a new folder of another name.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        is_private = found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700
        if not stat.S_ISDIR(found.st_mode) or not is_private:
            return Path(tempfile.mkdtemp(prefix="scemae-home-"))
    return path
