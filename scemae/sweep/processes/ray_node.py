"""The Ray processes of one sweep on one node: started with ports, folder and token of their own, stopped by their own pids.

A good neighbour on a shared node: every port is one that was free, the temporary folder is short (the sockets in it may
have names of 107 bytes at most), private and removed, a token is asked for by every process of this Ray and of no other, no
dashboard listens, RAY_* of the environment are left out, and `ray stop`, which ends every Ray of a user, is never called.
Importing ray is left to the driver: a head and its workers are `ray start --block` in a session of its own.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scemae.errors import LaunchError
from scemae.files import disk
from scemae.sweep.processes.fork_server import signal_at_parent_death
from scemae.sweep.processes.rank_processes import LAUNCHED, free_port
from scemae.sweep.processes.trial_process import STOP_FILE

MARK = "SCEMAE_SWEEP_NODE"  # in the environment of every process of this node: who they are
TEMP = "SCEMAE_SWEEP_TEMP"
START_SECONDS = 120.0
STORE_BYTES = 100_000_000  # of Ray's object store: trials exchange numbers
# 0: one that is free, not one of Ray's usual ones, which another Ray on this node may have.
PORTS = [
    f"--{name}=0"
    for name in (
        "min-worker-port",
        "max-worker-port",
        "node-manager-port",
        "object-manager-port",
        "metrics-export-port",
        "runtime-env-agent-port",
        "dashboard-agent-grpc-port",
        "dashboard-agent-listen-port",
    )
]
OPTIONS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_maximum_gcs_destroyed_actor_cached_count": "200",
    "RAY_task_events_max_num_task_in_gcs": "1000",
    "RAY_memory_monitor_refresh_ms": "0",  # the trials' memory is not Ray's to judge
    # They save first, and end by themselves (fork_server.py).
    "RAY_kill_child_processes_on_worker_exit": "false",
    "RAY_process_group_cleanup_enabled": "false",
}


class RayNode:
    """A head, or a worker that joins one."""

    def __init__(
        self, token: Path, cpus: int, wants_gpus: bool, address: str, head: str | None
    ) -> None:
        """token: a file with the secret of this Ray. address: of this node, an IP. head: "IP:PORT" to join; None: be it."""
        base = os.environ.get("TMPDIR", "/tmp")
        self.temp = Path(
            tempfile.mkdtemp(prefix="scemae-", dir=base if len(base) <= 24 else "/tmp")
        )  # mode 0700
        self.mark = self.temp.name
        self.stop_file = self.temp / "stop"
        self._log = self.temp / "start.log"
        (self.temp / "ray").mkdir()
        self.environment = self._environment(token)
        is_alone = address.startswith("127.")
        if is_alone:  # Ray takes a loopback address that it is given for another one; by this, meant for desktops, it keeps to it
            self.environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            f"--temp-dir={self.temp / 'ray'}",
            *([] if is_alone else [f"--node-ip-address={address}"]),
            f"--num-cpus={cpus}",
            f"--object-store-memory={STORE_BYTES}",
            "--disable-usage-stats",
            "--include-log-monitor=false",
            *PORTS,
            *([] if wants_gpus else ["--num-gpus=0"]),
        ]
        if head is None:
            command += [
                "--head",
                "--port=0",
                "--include-dashboard=false",
                f"--ray-client-server-port={free_port(address)}",
            ]
        else:
            command.append(f"--address={head}")
        with os.fdopen(disk.open_to_append(self._log), "ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=leave_with_parent,
            )

    @property
    def is_alive(self) -> bool:
        """False once it has ended: with --block, Ray ends all of a node when one of its processes is gone."""
        return self._process.poll() is None

    def wait_until_ready(self) -> str:
        """The address of the Ray that it is, or has joined, once it runs. Raises LaunchError."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.is_alive:
            if "Ray runtime started" in self.log():
                found = self.temp / "ray" / "ray_current_cluster"
                return found.read_text(encoding="utf8").strip() if found.exists() else ""
            time.sleep(0.1)
        last = " ".join(self.log().split())[-600:]
        self.stop()
        raise LaunchError(
            f"Ray did not start on {socket.gethostname()}: {last or 'it left no word'}"
        )

    def log(self) -> str:
        """What `ray start` has said."""
        try:
            return self._log.read_text(encoding="utf8", errors="replace")
        except OSError:
            return ""

    def stop(self, patience: float = 0.0) -> None:
        """End its processes, and no other's, and remove its folder. Ranks that have been asked to save get `patience` seconds
        first."""
        until = time.monotonic() + patience
        for pid in filter(_is_nursery, self.pids() if patience else []):
            _kill(pid, signal.SIGTERM)  # those that are idle leave at once
        while time.monotonic() < until and any(map(_is_nursery, self.pids())):
            time.sleep(0.2)
        self._signal(signal.SIGTERM)
        until = time.monotonic() + 1  # they have nothing to save
        while self.pids() and time.monotonic() < until:
            self._process.poll()
            time.sleep(0.1)
        for _ in range(20):  # what is shot may just have started another
            if not (left := self.pids()):
                break
            for pid in left:
                _kill(pid, signal.SIGKILL)
            self._process.poll()
            time.sleep(0.1)
        self._process.wait()
        disk.remove_tree(self.temp, self.temp.parent, best_effort=True)

    def pids(self) -> list[int]:
        """All processes of this node's Ray, trials included, by the mark in their environment."""
        wanted, found = f"{MARK}={self.mark}\0".encode(), []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                try:
                    if wanted in Path(f"/proc/{entry}/environ").read_bytes() and not _is_zombie(
                        entry
                    ):
                        found.append(int(entry))
                except OSError:
                    continue
        return found

    def _environment(self, token: Path) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RAY_") and name not in LAUNCHED
        }
        return {
            **kept,
            **OPTIONS,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            MARK: self.mark,
            TEMP: str(self.temp),
            STOP_FILE: str(self.stop_file),
        }

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass


def leave_with_parent() -> None:
    """In a child, before it becomes another program: be asked to end when whoever started it is shot."""
    signal_at_parent_death(signal.SIGTERM)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _is_nursery(pid: int) -> bool:
    try:
        return b"scemae.sweep.processes.fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _is_zombie(pid: str) -> bool:
    return (
        Path(f"/proc/{pid}/stat")
        .read_text(encoding="utf8", errors="replace")
        .rpartition(")")[2]
        .split()[0]
        == "Z"
    )


def own_address(towards: str | None) -> str:
    """The IP of this node by which others reach it: the one that it would reach `towards` by, a host name; none: loopback.
    SCEMAE_NODE_IP says it where that is wrong (several networks)."""
    if given := os.environ.get("SCEMAE_NODE_IP"):
        return given
    if towards is None:
        return "127.0.0.1"
    try:
        target = socket.gethostbyname(towards)
        if not target.startswith("127."):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))  # sends nothing
                return probe.getsockname()[0]
    except OSError:
        pass
    found = {
        entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    }
    return next(
        (address for address in sorted(found) if not address.startswith("127.")), "127.0.0.1"
    )
