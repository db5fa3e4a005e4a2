"""A warm process that starts the ranks of trials: it has imported what they need, and forks, so that a trial starts at once.

    python -m scemae.sweep.processes.fork_server [--spawn]       (rank_processes.py starts it)

It reads one JSON line per rank, {"argv", "env", "log"}, and answers {"pid"}, later {"pid", "status"}. With --spawn it starts
fresh processes instead: CUDA cannot be used in a fork of a process that has touched it. When whoever started it is gone, or
at SIGTERM (a scheduler sends it to every process of a job), its ranks save and it ends after them; where it is shot itself,
they die with it.
"""

import ctypes
import json
import os
import runpy
import selectors
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from scemae.process import streams
from scemae.process.streams import log_descriptor

DEATH = 1  # PR_SET_PDEATHSIG of prctl
OWN = (
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGUSR2,
)  # signals that mean something else to a nursery than to a rank


def signal_at_parent_death(number: int) -> None:
    """Have the kernel send signal `number` to this process when its parent dies (Linux)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(DEATH, number)


class ForkServer:
    """The ranks that live, and whether others may start."""

    def __init__(self, spawns: bool) -> None:
        self._spawns, self._live, self._closing = spawns, set(), False

    def serve(self) -> None:
        """Start ranks as asked, until stdin is closed or SIGTERM comes; then ask them to save, and leave after the last."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.signal(
            signal.SIGUSR2, signal.SIG_IGN
        )  # what a job's processes all get is meant for the ranks
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        watched = selectors.DefaultSelector()
        watched.register(sys.stdin, selectors.EVENT_READ)
        watched.register(reader, selectors.EVENT_READ)
        tell({"ready": True})
        while self._live or not self._closing:
            for key, _ in watched.select():
                if key.fileobj is reader:
                    told = os.read(reader, 4096)
                    self._bury()
                    if signal.SIGTERM in told:
                        self._close()
                elif line := sys.stdin.readline():
                    if not self._closing:
                        self._live.add(start(json.loads(line), self._spawns))
                else:
                    watched.unregister(sys.stdin)
                    self._close()

    def _close(self) -> None:
        self._closing = True
        for pid in self._live:
            os.kill(pid, signal.SIGTERM)

    def _bury(self) -> None:
        """Tell of every rank that has ended: its exit status, or less than 0 for the signal that killed it."""
        for pid in list(self._live):
            gone, found = os.waitpid(pid, os.WNOHANG)
            if gone:
                self._live.discard(pid)
                tell({"pid": pid, "status": os.waitstatus_to_exitcode(found)})


def main() -> None:
    """Serve until whoever started this is gone."""
    streams.guard()  # whoever started this may be gone, and the ranks are to save all the same
    signal_at_parent_death(signal.SIGTERM)
    spawns = "--spawn" in sys.argv
    if not spawns:
        # what every rank will need
        import deepspeed  # noqa: F401
        import hydra  # noqa: F401
        import torch.utils.tensorboard  # noqa: F401

        from scemae.training import correspond, pretrain  # noqa: F401
    ForkServer(spawns).serve()


def tell(word: dict) -> None:
    """One line to who started this."""
    print(json.dumps(word), flush=True)


def start(asked: dict[str, Any], spawns: bool) -> int:
    """Start one rank; its pid."""
    signal.pthread_sigmask(
        signal.SIG_BLOCK, OWN
    )  # until the rank is one: what comes to it at once is not for the nursery
    if spawns:
        with os.fdopen(log_descriptor(Path(asked["log"])), "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "scemae", *asked["argv"]],
                env={**os.environ, **asked["env"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=become_independent,
            )
        child.returncode = 0  # buried here, not by subprocess
        pid = child.pid
    elif not (pid := os.fork()):
        try:
            run_rank(asked)
        except Exception:
            traceback.print_exc()  # its log is stderr by now
        finally:
            os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OWN)
    tell({"pid": pid})
    return pid


def become_independent() -> None:
    """In the child: die with the nursery, and hear signals as a process of its own."""
    signal_at_parent_death(signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    for number in OWN:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OWN)


def run_rank(asked: dict[str, Any]) -> None:
    """In the child: run the command as if it had been typed."""
    become_independent()
    os.setsid()
    os.environ.update(asked["env"])
    log = log_descriptor(Path(asked["log"]))
    nowhere = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, nowhere), (1, log), (2, log)):
        os.dup2(source, descriptor)
    sys.argv = ["scemae", *asked["argv"]]
    runpy.run_module("scemae", run_name="__main__", alter_sys=True)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
