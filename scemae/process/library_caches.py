"""A place for the caches of the libraries, where the user has no home folder (in a container, as a service)."""

import os
import pwd
import stat
import tempfile
from pathlib import Path

CACHES = (
    "XDG_CACHE_HOME",
    "MPLCONFIGDIR",
    "TRITON_HOME",
)  # of torch, matplotlib and Triton, unless the user has set them


def settle() -> None:
    """Give this process, and all that it starts, a name for its user and folders for caches, where the system has none.

    A home that is there and cannot be written to stays HOME, for what is to be read in it. Changes the environment.
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
    except OSError:  # nothing can be written at all: each command says so where it has to write
        return
    for name in CACHES if os.path.isdir(home) else ("HOME", *CACHES):
        if name == "HOME" or name not in os.environ:
            os.environ[name] = folder


def _private_folder(path: Path) -> Path:
    """`path`, a folder that this user alone can enter; a new one of another name where `path` is somebody else's."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        if (
            not stat.S_ISDIR(found.st_mode)
            or found.st_uid != os.getuid()
            or stat.S_IMODE(found.st_mode) != 0o700
        ):
            return Path(tempfile.mkdtemp(prefix="scemae-home-"))
    return path
