"""A real Slurm of several virtual nodes on this machine: start it, submit, break nodes, stop it.

By hand, as root, in tests/rig: start-slurm.sh, in-login.sh sbatch ..., node.sh crash n2,
stop-slurm.sh; SLURM_TEST_ROOT names the cluster's folder. It needs neither systemd nor cgroups and
edits nothing in /etc. Every node has its own network, host name and processes; files are shared.
All nodes share this machine's cores, so it does not measure speed.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import REPO

HERE = Path(__file__).resolve().parent
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip")
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
)


class Clock:
    """Tells when so many seconds of an idle machine are over; they pass slower on a busy one."""

    def __init__(self, seconds: float) -> None:
        self._left, self._seen = seconds, time.monotonic()

    def is_over(self) -> bool:
        """Count the time since the last call, as a share of the cores that a process gets."""
        now = time.monotonic()
        self._left -= (now - self._seen) / max(1, os.getloadavg()[0] / (os.cpu_count() or 1))
        self._seen = now
        return self._left < 0


class Rig:
    """One cluster of four nodes; several can run side by side."""

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = [str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"]
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "SLURM_TEST_ROOT": str(root),
            "PATH": os.pathsep.join(paths),
        }

    def start(self) -> None:
        """Start it; skip the test where this machine cannot have one."""
        if reason := self._obstacle():
            pytest.skip(reason)
        installed = self._installed()
        with open("/tmp/scemae-rig.lock", "w") as lock:  # one installation at a time
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = subprocess.run(
                [HERE / "start-slurm.sh"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        if done.returncode and not installed and not self._installed():
            reason = done.stdout.strip().splitlines()[-1]
            pytest.skip(f"no Slurm here, and it could not be installed: {reason}")
        assert done.returncode == 0, done.stdout

    def stop(self) -> None:
        subprocess.run([HERE / "stop-slurm.sh"], env=self.environment, capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def _installed(self) -> bool:
        return all(shutil.which(name, path=self.environment["PATH"]) for name in PROGRAMS)

    def _obstacle(self) -> str | None:
        if os.geteuid() != 0:
            return "the rig needs root, for nodes with networks of their own"
        if not self._installed() and not shutil.which("apt-get"):
            return "found neither Slurm nor apt-get to install it with"
        spaces = ["unshare", "--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "true"]
        if not shutil.which("unshare") or subprocess.run(spaces, capture_output=True).returncode:
            return "this machine allows no namespaces (a container without privileges?)"
        return None

    def run(self, *command: object, check: bool = True, **environment: str) -> str:
        """What a command prints on the login machine, in the repository; as in-login.sh does it."""
        done = subprocess.run(
            self._on_login(command),
            capture_output=True,
            text=True,
            env={**self.environment, "SLURM_CONF": f"{self.root}/etc/slurm.conf", **environment},
        )
        assert not check or done.returncode == 0, (
            f"{command[0]}: status {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    @contextmanager
    def started(self, *command: object) -> Iterator[None]:
        """A command runs on the login machine while the block does."""
        process = subprocess.Popen(self._on_login(command), env=self.environment)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def _on_login(self, command: Iterable[object]) -> list[str]:
        login = (self.root / "run" / "init.ctl.pid").read_text().strip()
        inside = ["nsenter", "-t", login, "-n", "-u", "-m", f"--wdns={REPO}", "--"]
        return [*inside, *map(str, command)]

    def sbatch(self, *arguments: object, **environment: str) -> str:
        """Submit; returns the job id."""
        return self.run("sbatch", "--parsable", *arguments, **environment).strip()

    def node(self, operation: str, name: str) -> None:
        """crash, boot, cut or heal a node: see node.sh."""
        subprocess.run(
            [HERE / "node.sh", operation, name],
            env=self.environment,
            check=True,
            capture_output=True,
        )

    def exec(self, name: str, *command: str) -> None:
        """Run a command on a node."""
        subprocess.run(
            [HERE / "node.sh", "exec", name, *command],
            env=self.environment,
            check=True,
            capture_output=True,
        )

    def job(self, job_id: str) -> dict[str, str]:
        """The controller's record of a job: JobState, Restarts, ExitCode, NodeList and so on."""
        words = self.run("scontrol", "show", "job", "-o", job_id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def nodes(self, job_id: str) -> list[str]:
        """The nodes of a running job, the one of its script first."""
        return self.run("scontrol", "show", "hostnames", self.job(job_id)["NodeList"]).split()

    def wait(self, job_id: str, reached: Callable[[], object], seconds: float = 60) -> None:
        """Wait until `reached()`; fails where the job ends before."""
        looked, clock = 0.0, Clock(seconds)
        while not reached():
            if time.monotonic() - looked > 0.5:  # more often would take a core from the ranks
                state, looked = self.job(job_id)["JobState"], time.monotonic()
                if state in ENDED and not reached():
                    pytest.fail(f"job {job_id} ended as {state}:\n{self.log(job_id)[-5000:]}")
                if clock.is_over():
                    pytest.fail(
                        f"job {job_id} still {state} after {seconds} s:\n{self.log(job_id)[-5000:]}"
                    )
            time.sleep(0.1)

    def completed(self, job_id: str, seconds: float = 120) -> dict[str, str]:
        """Wait for the job to complete, and return its record."""
        record = self.ends(job_id, seconds)
        if record["JobState"] != "COMPLETED":
            pytest.fail(f"job {job_id} ended as {record['JobState']}:\n{self.log(job_id)[-5000:]}")
        return record

    def ends(self, job_id: str, seconds: float = 90) -> dict[str, str]:
        """Wait for the job to end, however it ends, and return its record."""
        clock = Clock(seconds)
        while (record := self.job(job_id))["JobState"] not in ENDED:
            if clock.is_over():
                pytest.fail(
                    f"job {job_id} has not ended after {seconds} s:\n{self.log(job_id)[-5000:]}"
                )
            time.sleep(0.3)
        return record

    def log(self, job_id: str) -> str:
        """What a job wrote."""
        path = Path(self.job(job_id).get("StdOut", ""))
        return path.read_text(errors="replace") if path.is_file() else f"no output in {path}"
