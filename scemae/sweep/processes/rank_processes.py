"""The processes of trials on this machine: started through a nursery, watched, stopped."""

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

PATIENCE = 30.0  # seconds that the other ranks of a trial get to end by themselves once one has ended badly
LAUNCHED = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)  # not meant for trials


class ForkServerClient:
    """The warm process (fork_server.py) of a worker, and what it has told of its ranks."""

    def __init__(self, *, spawns: bool, threads: int) -> None:
        """`threads` of each rank's matrix products. Raises LaunchError where it does not start."""
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
        environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        environment.setdefault("DS_ACCELERATOR", "cuda" if spawns else "cpu")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "scemae.sweep.processes.fork_server",
                *(["--spawn"] if spawns else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )  # Ray shoots the group of a worker
        self.ended: dict[int, int] = {}
        self._born: queue.Queue = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._complaints: list[str] = []
        overhearing = threading.Thread(target=self._overhear, daemon=True)
        overhearing.start()
        if self._born.get() is None:
            overhearing.join(5)  # until its last words are here
            raise LaunchError(
                f"the process that starts trials ended with {self._process.wait()}: "
                f"{''.join(self._complaints)[-500:].strip()}"
            )

    @property
    def is_alive(self) -> bool:
        """False once it is gone, and its ranks with it."""
        return self._process.poll() is None

    def start(self, argv: list[str], environment: dict[str, str], log: Path) -> int:
        """Start `scemae ARGV` with its output appended to `log`; the pid. Raises LaunchError."""
        try:
            print(
                json.dumps({"argv": argv, "env": environment, "log": str(log)}),
                file=self._process.stdin,
                flush=True,
            )
            pid = self._born.get(timeout=60)
        except (OSError, queue.Empty):
            pid = None
        if pid is None:
            raise LaunchError("the process that starts trials is gone; they are started again")
        return pid

    def close(self) -> None:
        """End it; ranks that still live get some seconds to save."""
        try:
            self._process.stdin.close()
            self._process.wait(PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        for line in self._process.stdout:
            try:
                word = json.loads(line)
            except json.JSONDecodeError:
                continue  # what an import prints
            if "status" in word:
                self.ended[word["pid"]] = word["status"]
            else:
                self._born.put(word.get("pid", 0))
        self._born.put(None)

    def _overhear(self) -> None:
        for line in self._process.stderr:
            self._complaints = [*self._complaints[-20:], line]


class Ranks:
    """The ranks of one start of a trial."""

    def __init__(
        self,
        nursery: ForkServerClient,
        argv: list[str],
        count: int,
        log: Path,
        environment: dict[str, str],
    ) -> None:
        self._nursery, self._until = nursery, float("inf")
        places: list[dict[str, str]] = [{}]
        if count > 1:
            shared = {
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free_port("127.0.0.1")),
            }
            places = [
                {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)
            ]
        self._pids = [nursery.start(argv, {**environment, **place}, log) for place in places]

    def poll(self) -> int | None:
        """None while they run; then 0, or the status that says why they ended: 1 before 75 before a signal's."""
        found = {pid: self._nursery.ended[pid] for pid in self._pids if pid in self._nursery.ended}
        if len(found) < len(self._pids):
            if not self._nursery.is_alive:
                return -signal.SIGKILL
            if any(found.values()):
                self._until = min(self._until, time.monotonic() + PATIENCE)
            if time.monotonic() > self._until:
                self.signal(signal.SIGKILL)
            return None
        statuses = set(found.values())
        return next((status for status in (1, 75) if status in statuses), min(statuses))

    def signal(self, number: int) -> None:
        """Send a signal to those that live."""
        for pid in self._pids:
            if pid not in self._nursery.ended:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass

    def stop(self, patience: float) -> None:
        """Ask them to save and end, for `patience` seconds; then kill them."""
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
