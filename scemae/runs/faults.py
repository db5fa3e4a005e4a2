"""Faults on purpose, so that tests can break a run at a named point; without SCEMAE_FAULTS in the environment, nothing.

    SCEMAE_FAULTS="kill@rename:step=6,rank=0,once=/tmp/x hang@data:step=3,rank=1 nan@loss:step=5,rank=1"

Kinds: kill (SIGKILL to this process), hang (sleep for ever), full (OSError: no space left), late (sleep SCEMAE_LATE
seconds, 8), nan (the caller spoils its loss). Conditions must all hold; `once` names a file that remembers that the fault
has happened.
"""

import errno
import os
import signal
import time


def at(point: str, **here: int) -> bool:
    """Do what SCEMAE_FAULTS asks for at `point`; True where the caller has to spoil its loss."""
    spoil = False
    for fault in os.environ.get("SCEMAE_FAULTS", "").split():
        kind, _, rest = fault.partition("@")
        name, _, conditions = rest.partition(":")
        wanted = dict(part.split("=") for part in conditions.split(",") if part)
        once = wanted.pop("once", None)
        if name != point or any(str(here.get(key)) != value for key, value in wanted.items()):
            continue
        if once is None or _first_time(once):
            spoil |= _happen(kind)
    return spoil


def _first_time(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _happen(kind: str) -> bool:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if kind in ("hang", "late"):
        time.sleep(float(os.environ.get("SCEMAE_LATE", 8)) if kind == "late" else 1e6)
    return kind == "nan"
