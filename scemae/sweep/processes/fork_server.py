"""The fork server: it has imported what ranks need, and forks, so that a trial starts at once.

    python -m scemae.sweep.processes.fork_server [--spawn]     (rank_processes.py starts it)

It reads one JSON line per rank, {"argv", "env", "log"}, and answers {"pid"}; when that rank ends it
writes {"pid", "status"}. With --spawn it starts fresh processes instead, because a fork of a
process that has used CUDA cannot use it. When its parent dies, or at SIGTERM (a scheduler sends it
to every process of a job), its ranks save and it ends after them. If it is killed, they are too.
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
from functools import partial
from pathlib import Path
from typing import Any

from scemae.process import collector, streams
from scemae.process.streams import log_descriptor

PR_SET_PDEATHSIG = 1  # of prctl
# Signals that the server handles in its own way; a rank gets the default handlers back.
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR2)


def signal_at_parent_death(number: int) -> None:
    """Have the kernel send signal `number` to this process when its parent dies (Linux)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, number)


class ForkServer:
    """Starts ranks on request and reports how they end."""

    def __init__(self, spawns: bool) -> None:
        """spawns: ranks are fresh processes, not forks."""
        self._spawns, self._closing = spawns, False
        self._live: set[int] = set()  # pids of the ranks

    def serve(self) -> None:
        """Start ranks until stdin is closed or SIGTERM comes; then have them save, and end."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # sent to all of a job, meant for the ranks
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        watched = selectors.DefaultSelector()
        watched.register(sys.stdin, selectors.EVENT_READ)
        watched.register(reader, selectors.EVENT_READ)
        answer({"ready": True})
        while self._live or not self._closing:
            for key, _ in watched.select():
                if key.fileobj is reader:
                    numbers = os.read(reader, 4096)
                    self._report_ended()
                    if signal.SIGTERM in numbers:
                        self._close()
                elif line := sys.stdin.readline():
                    if not self._closing:
                        self._live.add(start_rank(json.loads(line), self._spawns))
                else:
                    watched.unregister(sys.stdin)
                    self._close()

    def _close(self) -> None:
        self._closing = True
        for pid in self._live:
            os.kill(pid, signal.SIGTERM)

    def _report_ended(self) -> None:
        """Report each rank that has ended: its exit status, or minus the signal that killed it."""
        for pid in list(self._live):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._live.discard(pid)
                answer({"pid": pid, "status": os.waitstatus_to_exitcode(status)})


def main() -> None:
    """Serve until the parent is gone."""
    streams.guard()  # the parent may be gone, and the ranks are to save all the same
    signal_at_parent_death(signal.SIGTERM)
    spawns = "--spawn" in sys.argv
    if not spawns:  # import what every rank needs
        collector.stop()
        import deepspeed  # noqa: F401
        import hydra  # noqa: F401
        import torch.utils.tensorboard  # noqa: F401

        from scemae.training import correspond, pretrain  # noqa: F401

        collector.go_on()
    ForkServer(spawns).serve()


def answer(message: dict[str, Any]) -> None:
    """Write one JSON line to the parent."""
    print(json.dumps(message), flush=True)


def start_rank(request: dict[str, Any], spawns: bool) -> int:
    """Start one rank and return its pid."""
    # Blocked until the rank has its own handlers: a signal for it must not reach the server's.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    server = os.getpid()
    if spawns:
        pid = _spawn_rank(request)
    elif not (pid := os.fork()):
        try:
            run_rank(request, server)
        except Exception:
            traceback.print_exc()  # to the rank's log, which is stderr by now
        finally:
            os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    answer({"pid": pid})
    return pid


def _spawn_rank(request: dict[str, Any]) -> int:
    with os.fdopen(log_descriptor(Path(request["log"])), "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "scemae", *request["argv"]],
            env={**os.environ, **request["env"]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=partial(become_independent, os.getpid()),
        )
    child.returncode = 0  # the server waits for it, subprocess must not
    return child.pid


def become_independent(server: int) -> None:
    """In the child: be killed if the process `server` dies, and handle signals by the defaults."""
    signal_at_parent_death(signal.SIGKILL)
    if os.getppid() != server:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def run_rank(request: dict[str, Any], server: int) -> None:
    """In the child of `server`: run the command as if it had been typed."""
    become_independent(server)
    os.setsid()
    os.environ.update(request["env"])
    log = log_descriptor(Path(request["log"]))
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, descriptor)
    sys.argv = ["scemae", *request["argv"]]
    runpy.run_module("scemae", run_name="__main__", alter_sys=True)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
