"""Worker processes: each leaves Ctrl-C to its parent, and ends with it, even by kill -9."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading


def follow_parent() -> None:
    """For the start of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a worker
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
