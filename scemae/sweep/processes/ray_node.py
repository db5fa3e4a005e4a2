"""The Ray processes of one sweep on one node: own ports, folder and token, stopped by their pids.

Other Rays of the node, also of the same user, are left alone: every port is one that was free; the
temporary folder is private, removed at the end, and its name short (a socket's path has at most 107
bytes); every process of this Ray asks for its token; no dashboard listens; RAY_* variables of the
environment are left out; and `ray stop`, which ends every Ray of a user, is never called. Only the
driver imports ray: a head or worker is `ray start --block` in a session of its own.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from scemae.errors import LaunchError
from scemae.files import disk
from scemae.sweep.processes.fork_server import signal_at_parent_death
from scemae.sweep.processes.rank_processes import LAUNCHER_VARIABLES, free_port
from scemae.sweep.processes.trial_process import STOP_FILE

MARK = "SCEMAE_SWEEP_NODE"  # in the environment of every process of this node's Ray
TEMP = "SCEMAE_SWEEP_TEMP"
START_SECONDS = 120.0
STORE_BYTES = 100_000_000  # of Ray's object store: trials exchange only numbers
# 0: any free port; Ray's usual ones may be taken by another Ray on this node.
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
    "RAY_memory_monitor_refresh_ms": "0",  # else Ray kills trials by its own view of their memory
    # Ranks save first, and end by themselves (fork_server.py).
    "RAY_kill_child_processes_on_worker_exit": "false",
    "RAY_process_group_cleanup_enabled": "false",
}


class RayNode:
    """A Ray head, or a worker that joins one."""

    def __init__(
        self, token: Path, cpus: int, wants_gpus: bool, address: str, head: str | None
    ) -> None:
        """Start it.

        token: a file with the secret of this Ray. address: the IP of this node. head: "IP:PORT" of
        the head to join, or None to be the head.
        """
        base = os.environ.get("TMPDIR", "/tmp")
        base = base if len(base) <= 24 else "/tmp"
        self.temp = Path(tempfile.mkdtemp(prefix="scemae-", dir=base))  # mode 0700
        self.mark = self.temp.name
        self.stop_file = self.temp / "stop"
        self._log = self.temp / "start.log"
        (self.temp / "ray").mkdir()
        self.environment = self._environment(token)
        is_local = address.startswith("127.")
        if is_local:
            # Ray would replace a loopback address by another one, but for this, meant for desktops.
            self.environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            f"--temp-dir={self.temp / 'ray'}",
            *([] if is_local else [f"--node-ip-address={address}"]),
            f"--num-cpus={cpus}",
            f"--object-store-memory={STORE_BYTES}",
            "--disable-usage-stats",
            "--include-log-monitor=false",
            *PORTS,
            *([] if wants_gpus else ["--num-gpus=0"]),
        ]
        if head is None:
            command += ["--head", "--port=0", "--include-dashboard=false"]
            command.append(f"--ray-client-server-port={free_port(address)}")
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
        """False once it has ended: with --block, Ray ends with any one of its processes."""
        return self._process.poll() is None

    def wait_until_ready(self) -> str:
        """Wait until it runs; the address of the Ray that it is or joined. Raises LaunchError."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.is_alive:
            if "Ray runtime started" in self.log():
                found = self.temp / "ray" / "ray_current_cluster"
                return found.read_text(encoding="utf8").strip() if found.exists() else ""
            time.sleep(0.1)
        last = " ".join(self.log().split())[-600:]
        self.stop()
        raise LaunchError(
            f"Ray did not start on {socket.gethostname()}: {last or 'it left no message'}"
        )

    def log(self) -> str:
        """The output of `ray start`."""
        try:
            return self._log.read_text(encoding="utf8", errors="replace")
        except OSError:
            return ""

    def stop(self, patience: float = 0.0) -> None:
        """End its processes and no others, and remove its folder.

        patience: seconds that ranks which were asked to save get first.
        """
        until = time.monotonic() + patience
        for pid in filter(_is_fork_server, self.pids() if patience else []):
            _kill(pid, signal.SIGTERM)  # those without ranks end at once
        while time.monotonic() < until and any(map(_is_fork_server, self.pids())):
            time.sleep(0.2)
        self._signal(signal.SIGTERM)
        until = time.monotonic() + 1  # they have nothing to save
        while self.pids() and time.monotonic() < until:
            self._process.poll()
            time.sleep(0.1)
        for _ in range(20):  # a process may have started another just before it was killed
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
        found = []
        for process in psutil.process_iter(["environ", "status"]):
            environment = process.info["environ"] or {}  # None for processes of other users
            is_zombie = process.info["status"] == psutil.STATUS_ZOMBIE
            if environment.get(MARK) == self.mark and not is_zombie and process.pid != os.getpid():
                found.append(process.pid)
        return found

    def _environment(self, token: Path) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RAY_") and name not in LAUNCHER_VARIABLES
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
    """In a child, before it runs another program: get SIGTERM when the parent dies."""
    signal_at_parent_death(signal.SIGTERM)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _is_fork_server(pid: int) -> bool:
    try:
        return "scemae.sweep.processes.fork_server" in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def own_address(towards: str | None) -> str:
    """The IP of this node from which it reaches the host `towards`; loopback if that is None.

    SCEMAE_NODE_IP overrides it, for nodes with several networks.
    """
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
    found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    addresses = sorted({str(entry[4][0]) for entry in found})
    return next((one for one in addresses if not one.startswith("127.")), "127.0.0.1")
