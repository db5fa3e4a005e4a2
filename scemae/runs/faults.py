"""Faults that tests cause at named points of a run, by SCEMAE_FAULTS in the environment.

    SCEMAE_FAULTS="kill@rename:step=6,rank=0,once=/tmp/x hang@data:step=3 nan@loss:step=5,rank=1"

Kinds: kill (SIGKILL to this process), hang (sleep for ever), full (OSError: no space left), late
(sleep SCEMAE_LATE seconds, 8), nan (the caller makes its loss NaN). All conditions must hold.
`once` names a file that is created when the fault happens; while it exists, the fault does not.
"""

import errno
import os
import signal
import time


def at(point: str, **here: int) -> bool:
    """Cause the faults that SCEMAE_FAULTS sets for `point`; True where the loss must become NaN."""
    make_nan = False
    for fault in os.environ.get("SCEMAE_FAULTS", "").split():
        kind, _, rest = fault.partition("@")
        name, _, conditions = rest.partition(":")
        wanted = dict(part.split("=") for part in conditions.split(",") if part)
        once = wanted.pop("once", None)
        if name != point or any(str(here.get(key)) != value for key, value in wanted.items()):
            continue
        if once is None or _first_time(once):
            make_nan |= _cause(kind)
    return make_nan


def _first_time(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _cause(kind: str) -> bool:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if kind in ("hang", "late"):
        time.sleep(float(os.environ.get("SCEMAE_LATE", 8)) if kind == "late" else 1e6)
    return kind == "nan"
