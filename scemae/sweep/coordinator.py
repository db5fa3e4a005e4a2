"""What runs on the nodes of a sweep: the first has the Ray head and the driver, others Ray workers.

    SWEEP/generations/0003/ray.json    the address of this start's Ray head; new if Ray restarts
                           beat        rewritten while the first node lives (runs/generations.py)
                           stopping    the sweep is asked to stop: trials save
                           over        no more trials: the other nodes leave
    SWEEP/token                        the secret of this sweep's Ray, readable by its owner alone

This file does not import ray. The processes that it starts end with it or are killed by pid; the
files are enough to resume.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from scemae.errors import ConfigError, LaunchError, Preempted, RunFolderError
from scemae.files import disk, documents
from scemae.files.documents import HostPort
from scemae.files.ownership import refuse_known
from scemae.process.cores import cores
from scemae.process.stop_signals import StopRequest
from scemae.runs import generations
from scemae.runs.generations import Generation
from scemae.runs.run_folder import own
from scemae.sweep.processes.ray_node import RayNode, leave_with_parent, own_address
from scemae.sweep.spec import Sweep
from scemae.sweep.sweep_folder import claim

POLL_SECONDS = 0.5
SECRET_BYTES = 32
# Exit statuses of the driver: Ray failed, so restart both; its share of the trials has ended.
BROKEN, MORE = 70, 71
FRUITLESS = 5  # starts of Ray in a row without progress of any trial, after which the sweep fails
SAVE_SECONDS = 600.0  # that trials get to save; what ends a job sooner ends it too
SILENT_SECONDS = 60.0  # without a beat of the first node: it is gone


def coordinate(sweep: Sweep, words: list[str]) -> None:
    """Run the sweep to its end on this node and those that join.

    words: its command line, for the driver. Raises Preempted once asked to stop and saved,
    LaunchError.
    """
    from scemae.sweep.sweep_checks import check  # here: the checks alone need torch

    stop = StopRequest()
    check(sweep)
    share, cpus = sweep.config.trial, processors()
    if share.ranks * share.cpus > cpus:
        raise ConfigError(
            f"trial: found ranks={share.ranks} with cpus={share.cpus} each, and {cpus} processors "
            "here; ask for fewer, or start on a larger node"
        )
    claim(sweep)
    with own(sweep.folder, "sweep") as generation:
        generation.record_base(_steps(sweep))
        try:
            _run_drivers(sweep, words, generation, stop, cpus)
        finally:
            disk.touch(generation.folder / "over")


def _run_drivers(
    sweep: Sweep, words: list[str], generation: Generation, stop: StopRequest, cpus: int
) -> None:
    """Run drivers, with a new Ray whenever it fails, until all trials have ended."""
    address = own_address(os.environ.get("MASTER_ADDR"))
    fruitless, before = 0, -1
    while True:
        steps = _steps(sweep)
        fruitless = fruitless + 1 if steps == before else 0
        if fruitless >= FRUITLESS:
            raise LaunchError(
                f"{sweep.folder}: Ray ended {FRUITLESS} times in a row and no trial got any "
                "further; see above for why, or run random and grid searches without Ray: --array"
            )
        before = steps
        status = _run_ray(sweep, words, generation, stop, cpus=cpus, address=address)
        if status == 0:
            return
        if status == 75 or stop.requested:
            raise Preempted(
                f"{sweep.folder}: asked to stop; trials have saved, the same command resumes it"
            )
        if status == 1:
            raise LaunchError(f"{sweep.folder}: the sweep ended, see above")
        print(
            f"scemae sweep: Ray or its driver is gone (status {status}); starting another one, "
            "trials resume from their checkpoints",
            file=sys.stderr,
            flush=True,
        )


def _run_ray(
    sweep: Sweep,
    words: list[str],
    generation: Generation,
    stop: StopRequest,
    *,
    cpus: int,
    address: str,
) -> int:
    """Run one Ray head, and drivers while trials get further; the last driver's exit status."""
    (generation.folder / "ray.json").unlink(missing_ok=True)
    steps = _steps(sweep)
    node = RayNode(_token(sweep.folder), cpus, sweep.config.trial.gpus > 0, address, None)
    try:
        driver = _start_driver(words, generation, node)  # now: its imports take as long as Ray
        disk.write_json(generation.folder / "ray.json", {"address": node.wait_until_ready()})
        while (status := _wait_for(driver, generation, node, stop)) == MORE:
            before, steps = steps, _steps(sweep)
            if steps <= before:
                break
            driver = _start_driver(words, generation, node)
    except LaunchError as error:  # a port that was free a moment ago, say
        print(f"scemae sweep: {error}", file=sys.stderr, flush=True)
        status = BROKEN
    finally:
        node.stop(SAVE_SECONDS if stop.requested else 0.0)
    return status


def _steps(sweep: Sweep) -> int:
    """The progress of all trials: steps trained, plus one for each trial that has ended."""
    return sum(record.step + record.has_ended for record in sweep.records())


def _start_driver(words: list[str], generation: Generation, node: RayNode) -> subprocess.Popen:
    start = {"generation": generation.number, "folder": str(generation.folder)}
    return subprocess.Popen(
        [sys.executable, "-m", "scemae.sweep.tune_driver", *words],
        start_new_session=True,
        preexec_fn=leave_with_parent,
        env={**node.environment, "SCEMAE_SWEEP_START": json.dumps(start)},
    )


def _wait_for(
    driver: subprocess.Popen, generation: Generation, node: RayNode, stop: StopRequest
) -> int:
    """The driver's exit status once it has ended; passes on a request to stop."""
    passed_on = False
    while (status := driver.poll()) is None:
        if stop.requested and not passed_on:
            passed_on = True
            disk.touch(generation.folder / "stopping")
            disk.touch(node.stop_file)
            driver.send_signal(signal.SIGUSR2)
        if not node.is_alive:
            driver.kill()
            driver.wait()
            return BROKEN
        time.sleep(POLL_SECONDS)
    return status


def join(folder: Path, wants_gpus: bool) -> None:
    """Give this node to the sweep in `folder` until it is over.

    Raises Preempted if its first node is gone.
    """
    stop, beat = StopRequest(), _Beat()
    node: RayNode | None = None
    joined: str | None = None
    seen, is_asked = time.monotonic(), False
    try:
        while True:
            number = max(generations.numbers(folder), default=0)
            current = generations.path_of(folder, number)
            if beat.has_changed(current):
                seen = time.monotonic()
            is_live = beat.generation == number
            if is_live and (current / "over").exists():
                return
            if time.monotonic() - seen > SILENT_SECONDS:
                raise Preempted(
                    f"{folder}: no sign of life of its first node for {SILENT_SECONDS:.0f} s; this "
                    "node leaves, the same command joins it again"
                )
            address = address_of(current) if is_live else None
            if node is not None and (address != joined or not node.is_alive):
                node.stop()
                node = None
            if node is None and address is not None and not stop.requested:
                node, joined = _join_ray(folder, address, wants_gpus), address
            # The file of this start alone: an earlier start may have been asked to stop as well.
            is_asked = stop.requested or (address is not None and (current / "stopping").exists())
            if node is not None and is_asked:
                disk.touch(node.stop_file)
            time.sleep(POLL_SECONDS)
    finally:
        if node is not None:
            node.stop(SAVE_SECONDS if is_asked else 0.0)


def _join_ray(folder: Path, address: str, wants_gpus: bool) -> RayNode | None:
    token, own_ip = folder / "token", own_address(address.rpartition(":")[0])
    refuse_known(token)
    node = RayNode(token, processors(), wants_gpus, own_ip, address)
    try:
        node.wait_until_ready()
    except LaunchError as error:
        print(f"scemae sweep: {error}; trying again", file=sys.stderr, flush=True)
        return None
    return node


class _Beat:
    """Finds the start of a sweep whose first node is alive: its `beat` file changes."""

    def __init__(self) -> None:
        self._text: str | None = None
        self.generation = -1  # the start whose beat has changed last; -1: none yet

    def has_changed(self, current: Path) -> bool:
        """True if the beat of this start differs from the one read before."""
        try:
            text = (current / "beat").read_text(encoding="utf8")
        except OSError:
            return False
        changed = self._text not in (None, text)
        self._text = text
        if changed:
            self.generation = int(current.name)
        return changed


@dataclass
class RayAddress:
    """ray.json."""

    address: HostPort


def address_of(current: Path) -> str | None:
    """host:port of a start's Ray head; None while it is not there yet."""
    path = current / "ray.json"
    try:
        return documents.read_json(path, RayAddress, error=RunFolderError).address
    except OSError:
        return None


def _token(folder: Path) -> Path:
    """The file with this sweep's secret, made at the first start.

    Raises FileError if another user could know it.
    """
    path = folder / "token"
    try:
        with disk.create(path, 0o600) as file:
            file.write(secrets.token_hex(SECRET_BYTES).encode())
    except FileExistsError:
        refuse_known(path)
        if path.stat().st_size != 2 * SECRET_BYTES:  # its writer was killed half way
            path.unlink()
            return _token(folder)
    return path


def processors() -> int:
    """Processors that this process may use: SCEMAE_CPUS, else those that the system allows."""
    given = os.environ.get("SCEMAE_CPUS", "")
    return int(given) if given.isdigit() and int(given) else cores()
