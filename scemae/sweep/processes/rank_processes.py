"""The ranks of trials on this machine: started through a fork server, watched, stopped."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from scemae.errors import LaunchError

PATIENCE = 30.0  # seconds that the other ranks of a trial get to end once one has failed
# What a launcher sets for this process, and trials must not inherit.
LAUNCHER_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


class ForkServerClient:
    """A fork server of this process (fork_server.py), and how its ranks have ended."""

    def __init__(self, *, spawns: bool, threads: int) -> None:
        """Start it. threads: OMP_NUM_THREADS of each rank.

        Raises LaunchError if it does not start.
        """
        kept = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
        environment = kept | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        environment.setdefault("DS_ACCELERATOR", "cuda" if spawns else "cpu")
        command = [sys.executable, "-m", "scemae.sweep.processes.fork_server"]
        self._process = subprocess.Popen(
            command + ["--spawn"] * spawns,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ray kills the process group of a worker
        )
        self.ended: dict[int, int] = {}  # status by pid
        self._pids: queue.Queue[int | None] = queue.Queue()  # None: the server has ended
        self._errors: list[str] = []  # its last lines on stderr
        threading.Thread(target=self._read_answers, daemon=True).start()
        error_reader = threading.Thread(target=self._read_errors, daemon=True)
        error_reader.start()
        if self._pids.get() is None:
            error_reader.join(5)
            raise LaunchError(
                f"the process that starts trials ended with {self._process.wait()}: "
                f"{''.join(self._errors)[-500:].strip()}"
            )

    @property
    def is_alive(self) -> bool:
        """False once it is gone, and its ranks with it."""
        return self._process.poll() is None

    def start(self, argv: list[str], environment: dict[str, str], log: Path) -> int:
        """Start `scemae ARGV`, output appended to `log`; returns the pid. Raises LaunchError."""
        request = {"argv": argv, "env": environment, "log": str(log)}
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            pid = self._pids.get(timeout=60)
        except (OSError, queue.Empty):
            pid = None
        if pid is None:
            raise LaunchError("the process that starts trials is gone; they are started again")
        return pid

    def close(self) -> None:
        """End it; ranks that still live get `PATIENCE` seconds to save."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def _read_answers(self) -> None:
        for line in self._process.stdout or ():
            try:
                answer = json.loads(line)
            except json.JSONDecodeError:
                continue  # printed by some import
            if "status" in answer:
                self.ended[answer["pid"]] = answer["status"]
            else:
                self._pids.put(answer.get("pid", 0))
        self._pids.put(None)

    def _read_errors(self) -> None:
        for line in self._process.stderr or ():
            self._errors = [*self._errors[-20:], line]


class Ranks:
    """The ranks of one start of a trial."""

    def __init__(
        self,
        server: ForkServerClient,
        argv: list[str],
        count: int,
        log: Path,
        environment: dict[str, str],
    ) -> None:
        self._server, self._deadline = server, float("inf")
        places: list[dict[str, str]] = [{}]
        if count > 1:
            shared = {
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free_port("127.0.0.1")),
            }
            places = [{**shared, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]
        self._pids = [server.start(argv, {**environment, **place}, log) for place in places]

    def poll(self) -> int | None:
        """None while they run; then 0, or the status of the cause: 1, else 75, else a signal's."""
        ended = {pid: self._server.ended[pid] for pid in self._pids if pid in self._server.ended}
        if len(ended) < len(self._pids):
            if not self._server.is_alive:
                return -signal.SIGKILL
            if any(ended.values()):
                self._deadline = min(self._deadline, time.monotonic() + PATIENCE)
            if time.monotonic() > self._deadline:
                self.signal(signal.SIGKILL)
            return None
        statuses = set(ended.values())
        return next((status for status in (1, 75) if status in statuses), min(statuses))

    def signal(self, number: int) -> None:
        """Send a signal to those that live."""
        for pid in self._pids:
            if pid not in self._server.ended:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass

    def stop(self, patience: float) -> None:
        """Give them `patience` seconds to save and end, then kill them."""
        if patience:
            self.signal(signal.SIGTERM)
        until = time.monotonic() + patience
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        if self.poll() is None:
            self.signal(signal.SIGKILL)
            while self.poll() is None:
                time.sleep(0.02)


def free_port(address: str) -> int:
    """A port that nothing listens on at `address` now."""
    with socket.socket() as server:
        server.bind((address, 0))
        return server.getsockname()[1]
