"""A warm process that starts the ranks of trials: it has imported what they need, and forks, so that a trial starts at once.

    python -m scemae.sweep.nursery [--spawn]       (sweep/ranks.py starts it)

It reads one JSON line per rank, {"argv", "env", "log"}, and answers {"pid"}, later {"pid", "status"}. With --spawn it starts
fresh processes instead: CUDA cannot be used in a fork of a process that has touched it. A rank dies with its nursery, and
that with the process which started it: nothing is left behind when a worker is shot.
"""

import ctypes
import json
import os
import runpy
import selectors
import signal
import subprocess
import sys
from typing import Any

DEATH = 1  # PR_SET_PDEATHSIG of prctl


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(DEATH, signal.SIGKILL)


def main() -> None:
    """Serve until stdin is closed."""
    die_with_parent()
    spawns = "--spawn" in sys.argv
    if not spawns:
        import deepspeed  # noqa: F401: this and what follows is what every rank will need
        import hydra  # noqa: F401
        import torch.utils.tensorboard  # noqa: F401

        from scemae import correspond, pretrain  # noqa: F401
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watched = selectors.DefaultSelector()
    watched.register(sys.stdin, selectors.EVENT_READ)
    watched.register(reader, selectors.EVENT_READ)
    tell({"ready": True})
    while True:
        for key, _ in watched.select():
            if key.fileobj is reader:
                os.read(reader, 4096)
                bury()
            elif line := sys.stdin.readline():
                start(json.loads(line), spawns)
            else:
                return


def tell(word: dict) -> None:
    """One line to who started this."""
    print(json.dumps(word), flush=True)


def bury() -> None:
    """Tell of every rank that has ended: its exit status, or less than 0 for the signal that killed it."""
    while True:
        try:
            pid, found = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        tell({"pid": pid, "status": os.waitstatus_to_exitcode(found)})


def start(asked: dict[str, Any], spawns: bool) -> None:
    """Start one rank."""
    if spawns:
        with open(asked["log"], "ab") as log:
            child = subprocess.Popen([sys.executable, "-m", "scemae", *asked["argv"]], env={**os.environ, **asked["env"]},
                                     stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent,
                                     start_new_session=True)
        tell({"pid": child.pid})
        child.returncode = 0  # buried here, not by subprocess
        return
    pid = os.fork()
    if pid:
        tell({"pid": pid})
        return
    try:
        be_rank(asked)
    finally:
        os._exit(1)


def be_rank(asked: dict[str, Any]) -> None:
    """In the child: run the command as if it had been typed."""
    die_with_parent()
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(asked["env"])
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, nowhere), (1, log), (2, log)):
        os.dup2(source, descriptor)
    sys.argv = ["scemae", *asked["argv"]]
    runpy.run_module("scemae", run_name="__main__", alter_sys=True)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
