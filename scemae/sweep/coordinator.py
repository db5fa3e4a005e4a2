"""Who starts what on the nodes of a sweep: the first leads (a Ray head, and the driver), the others join (a Ray worker).

    SWEEP/generations/0003/ray.json    the address of the head of this start; written anew when it had to be started again
                           beat        goes on while the leader lives (runs/generations.py)
                           stopping    it has been asked to stop: trials save
                           over        no more trials: the others leave
    SWEEP/token                        the secret of this sweep's Ray, for its owner alone

Neither imports ray. What they start dies with them or is shot by pid; what is on disk is enough to go on.
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
from scemae.process.stop_signals import StopRequest
from scemae.runs import generations
from scemae.runs.generations import Generation
from scemae.runs.run_folder import own
from scemae.sweep.processes.ray_node import RayNode, leave_with_parent, own_address
from scemae.sweep.spec import Sweep

POLL_SECONDS = 0.5
SECRET = 32  # bytes of a sweep's
# Of the driver: Ray is gone or in disorder, and the sweep goes on with another one; or it has done its share of the trials.
BROKEN, MORE = 70, 71
FRUITLESS = 5  # starts of Ray in a row after which no trial had got any further
SAVE_SECONDS = 600.0  # that trials have to save once asked; what ends a job sooner ends it too
SILENT_SECONDS = 60.0  # without a beat of the leader: it is gone


def coordinate(sweep: Sweep, words: list[str]) -> None:
    """Run the sweep to its end on this node and those that join. Raises Preempted once asked to stop and saved, LaunchError."""
    stop = StopRequest()
    sweep.check()
    share, cpus = sweep.config.trial, processors()
    if share.ranks * share.cpus > cpus:
        raise ConfigError(
            f"trial: found ranks={share.ranks} with cpus={share.cpus} each, and {cpus} processors here; ask for fewer, or "
            "start on a larger node"
        )
    sweep.claim()
    with own(sweep.folder, "sweep") as generation:
        generation.record_base(_steps(sweep))
        try:
            _drive(sweep, words, generation, stop, own_address(os.environ.get("MASTER_ADDR")), cpus)
        finally:
            disk.touch(generation.folder / "over")


def _drive(
    sweep: Sweep,
    words: list[str],
    generation: Generation,
    stop: StopRequest,
    address: str,
    cpus: int,
) -> None:
    fruitless, before = 0, -1
    while True:
        steps = _steps(sweep)
        fruitless = fruitless + 1 if steps == before else 0
        if fruitless >= FRUITLESS:
            raise LaunchError(
                f"{sweep.folder}: Ray ended {FRUITLESS} times in a row and no trial got any further; see above for why, "
                "or run random and grid searches without Ray: --array"
            )
        before = steps
        (generation.folder / "ray.json").unlink(missing_ok=True)
        node = RayNode(_token(sweep.folder), cpus, sweep.config.trial.gpus > 0, address, None)
        try:
            driver = _start_driver(
                words, generation, node
            )  # it loads what it needs while Ray starts
            disk.write_json(generation.folder / "ray.json", {"address": node.wait_until_ready()})
            while (status := _watch(driver, generation, node, stop)) == MORE and _steps(
                sweep
            ) > steps:
                steps = _steps(sweep)
                driver = _start_driver(words, generation, node)
        except LaunchError as error:  # a port that was free a moment ago, say
            print(f"scemae sweep: {error}", file=sys.stderr, flush=True)
            status = BROKEN
        finally:
            node.stop(SAVE_SECONDS if stop.requested else 0.0)
        if status == 0:
            return
        if status == 75 or stop.requested:
            raise Preempted(
                f"{sweep.folder}: asked to stop; trials have saved, the same command goes on"
            )
        if status == 1:
            raise LaunchError(f"{sweep.folder}: the sweep ended, see above")
        print(
            f"scemae sweep: Ray or its driver is gone (status {status}); starting another one, trials go on where they stood",
            file=sys.stderr,
            flush=True,
        )


def _steps(sweep: Sweep) -> int:
    """How far all trials together have come."""
    return sum(record.step + record.has_ended for record in sweep.records())


def _start_driver(words: list[str], generation: Generation, node: RayNode) -> subprocess.Popen:
    start = {"generation": generation.number, "folder": str(generation.folder)}
    return subprocess.Popen(
        [sys.executable, "-m", "scemae.sweep.tune_driver", *words],
        start_new_session=True,
        preexec_fn=leave_with_parent,
        env={**node.environment, "SCEMAE_SWEEP_START": json.dumps(start)},
    )


def _watch(
    driver: subprocess.Popen, generation: Generation, node: RayNode, stop: StopRequest
) -> int:
    """The driver's exit status, once it has ended."""
    is_told = False
    while (status := driver.poll()) is None:
        if stop.requested and not is_told:
            is_told = True
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
    """Give this node to the sweep in `folder` until it is over. Raises Preempted where its leader is gone."""
    stop, node, joined, beats = StopRequest(), None, None, {}
    seen, is_asked = time.monotonic(), False
    try:
        while True:
            number = max(generations.numbers(folder), default=0)
            current = generations.path_of(folder, number)
            if _beats_on(current, beats):
                seen = time.monotonic()
            if (current / "over").exists() and beats.get("number") == number:
                return
            if time.monotonic() - seen > SILENT_SECONDS:
                raise Preempted(
                    f"{folder}: no sign of life of its leader for {SILENT_SECONDS:.0f} s; this node leaves, the same "
                    "command goes on"
                )
            address = address_of(current) if beats.get("number") == number else None
            if node is not None and (address != joined or not node.is_alive):
                node.stop()
                node = None
            if node is None and address is not None and not stop.requested:
                node, joined = _joined(folder, address, wants_gpus), address
            # Of the start that it works for: an earlier one's word is of no concern.
            is_asked = stop.requested or (address is not None and (current / "stopping").exists())
            if node is not None and is_asked:
                disk.touch(node.stop_file)
            time.sleep(POLL_SECONDS)
    finally:
        if node is not None:
            node.stop(SAVE_SECONDS if is_asked else 0.0)


def _joined(folder: Path, address: str, wants_gpus: bool) -> RayNode | None:
    refuse_known(folder / "token")
    node = RayNode(
        folder / "token", processors(), wants_gpus, own_address(address.rpartition(":")[0]), address
    )
    try:
        node.wait_until_ready()
    except LaunchError as error:
        print(f"scemae sweep: {error}; trying again", file=sys.stderr, flush=True)
        return None
    return node


def _beats_on(current: Path, beats: dict) -> bool:
    """True where the beat of a start has changed since the last look; one that never does is of a leader long gone."""
    try:
        beat = (current / "beat").read_text(encoding="utf8")
    except OSError:
        return False
    changed = beats.get("beat") not in (None, beat)
    beats["beat"] = beat
    if changed:
        beats["number"] = int(current.name)
    return changed


@dataclass
class RayAddress:
    """ray.json: host:port."""

    address: HostPort


def address_of(current: Path) -> str | None:
    """Where the Ray of a start is reached; None while it is not there yet."""
    try:
        return documents.read_json(current / "ray.json", RayAddress, error=RunFolderError).address
    except OSError:
        return None


def _token(folder: Path) -> Path:
    """The file with this sweep's secret, made at the first start. Raises FileError where another user could know it."""
    path = folder / "token"
    try:
        with disk.create(path, 0o600) as file:
            file.write(secrets.token_hex(SECRET).encode())
    except FileExistsError:
        refuse_known(path)
        if path.stat().st_size != 2 * SECRET:  # whoever made it was killed at that moment
            path.unlink()
            return _token(folder)
    return path


def processors() -> int:
    """Processors that this process may use; SCEMAE_CPUS where a job was given fewer than it sees."""
    given = os.environ.get("SCEMAE_CPUS", "")
    return int(given) if given.isdigit() and int(given) else len(os.sched_getaffinity(0))
