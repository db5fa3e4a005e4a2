"""python -m bench job: long work on a borrowed machine, whose commands may last minutes only.

  python3 -m bench job start OUT COMMAND...    COMMAND in the background; it outlives this session
  python3 -m bench job poll OUT [--wait 500]   what is done, what runs, the last messages; waits
                                               for its end, at most so many seconds
  python3 -m bench job stop OUT                ask it to end: stages save first
  python3 -m bench job case [--needs PACKAGE] [--after NAME] OUT NAME COMMAND...      (see below)

poll ends with 0 where COMMAND ended well, 1 where it failed or was cut off, 75 while it runs. The
same start again continues with the first case that is not done; it does nothing while the job
runs.

A script names each of its steps as a case, which runs unless it is done (the same command ended
with 0). --needs names a Python package, --after an earlier case: where one is absent, the case is
left out with that reason. After each case all results lie in one small file, so that what is done
is kept whenever the machine goes back:

  OUT/results.tar.gz      every small text file below OUT (metrics, tables, reports, logs), at most
                          15 MiB; no weights, no pictures
  OUT/log.txt             messages of all cases
  OUT/cases/NAME.json     command, status, seconds
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from scemae.files import disk

ENDED_WELL, FAILED, RUNS = 0, 1, 75
KEPT = {
    ".json",
    ".jsonl",
    ".md",
    ".txt",
    ".yaml",
    ".csv",
    ".tex",
    ".html",
    ".log",
}  # suffixes of results
ARCHIVE, MOST = "results.tar.gz", 15 * disk.MIB  # one file of a borrowed machine may have 16 MiB


def main(argv: list[str]) -> int:
    """Do what was asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m bench job",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("start", "run", "poll", "stop", "case"):
        part = verbs.add_parser(verb)
        part.add_argument("out", type=Path)
        if verb == "poll":
            part.add_argument("--wait", type=float, default=0.0)
        if verb == "case":
            part.add_argument("name", type=disk.plain_name)
            part.add_argument("--needs", action="append", default=[])
            part.add_argument("--after", action="append", default=[])
        if verb in ("start", "run", "case"):
            part.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(argv)
    if given.verb == "case":
        return case(given.out, given.name, given.command, needs=given.needs, after=given.after)
    if given.verb in ("start", "run"):
        return {"start": start, "run": run}[given.verb](given.out, given.command)
    return poll(given.out, given.wait) if given.verb == "poll" else stop(given.out)


def start(out: Path, command: list[str]) -> int:
    """Start `command` in a session of its own, its messages in OUT/log.txt."""
    out.mkdir(parents=True, exist_ok=True)
    if is_running(out):
        print(f"{out}: runs already; poll it")
        return ENDED_WELL
    (out / "job.json").unlink(missing_ok=True)
    log = disk.open_to_append(out / "log.txt")
    job = subprocess.Popen(
        [sys.executable, "-m", "bench", "job", "run", str(out), *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    os.close(log)
    while not (out / "job.json").exists():
        if job.poll() is not None:
            print(f"{out}: could not be started; {out / 'log.txt'} says why")
            return FAILED
        time.sleep(0.05)
    print(f"{out}: started; python3 -m bench job poll {out} says how far it is")
    return ENDED_WELL


def run(out: Path, command: list[str]) -> int:
    """In the background: run the command, record its end. The holder of OUT/lock is the job."""
    out.mkdir(parents=True, exist_ok=True)
    with disk.locked(out / "lock", wait=False):
        child = subprocess.Popen(command, start_new_session=True)
        record = {"command": command, "group": child.pid, "started": time.time()}
        disk.write_json(out / "job.json", record)
        status = child.wait()
        # a stage that was asked to stop still saves after its script has ended
        while _lives(child.pid):
            time.sleep(0.2)
        disk.write_json(
            out / "job.json",
            {**record, "status": status, "seconds": time.time() - record["started"]},
        )
        pack(out)
    return status


def _lives(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
        return True
    except ProcessLookupError:
        return False


def is_running(out: Path) -> bool:
    """Whether a process holds the job's lock; the kernel frees it however that process ends."""
    try:
        with disk.locked(out / "lock", wait=False):
            return False
    except BlockingIOError:
        return True


def poll(out: Path, wait: float) -> int:
    """Print how far the job is, once it has ended or after `wait` seconds."""
    until = time.monotonic() + wait
    while (runs := is_running(out)) and time.monotonic() < until:
        time.sleep(min(1.0, max(until - time.monotonic(), 0)))
    record = (
        json.loads((out / "job.json").read_text(encoding="utf8"))
        if (out / "job.json").exists()
        else {}
    )
    words = (
        "runs"
        if runs
        else f"ended with {record['status']}"
        if "status" in record
        else "was cut off; the same start continues it"
    )
    print(f"{out}: {words}: {' '.join(record.get('command', []))}")
    for found in cases(out):
        seconds = found.get(
            "seconds", (datetime.now(UTC) - datetime.fromisoformat(found["time"])).total_seconds()
        )
        print(
            f"  {state_of(found, runs):44} {found['name']:24}"
            + ("" if "left_out" in found else f" {seconds:8,.0f} s")
        )
    if (out / "log.txt").exists():
        print("".join(f"  | {line}\n" for line in _tail(out / "log.txt")), end="")
    return RUNS if runs else ENDED_WELL if record.get("status") == 0 else FAILED


def stop(out: Path) -> int:
    """Ask a running job to end."""
    if is_running(out):
        os.killpg(
            json.loads((out / "job.json").read_text(encoding="utf8"))["group"], signal.SIGTERM
        )
    return ENDED_WELL


def case(
    out: Path, name: str, command: list[str], *, needs: list[str] = (), after: list[str] = ()
) -> int:
    """Run one case unless it is done; return its status, 0 where it is left out for a reason."""
    place = out / "cases" / f"{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    done = {found["name"]: found for found in cases(out)}
    if is_done(done.get(name)) and done[name]["command"] == command:
        print(f"{name}: done before", flush=True)
        return 0
    lacking = [f"needs the package {package}" for package in needs if not find_spec(package)]
    lacking += [
        f"needs {earlier}, which is not done" for earlier in after if not is_done(done.get(earlier))
    ]
    record = {
        "name": name,
        "command": command,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    if lacking:
        disk.write_json(place, {**record, "left_out": "; ".join(lacking)})
        print(f"{name}: left out, {'; '.join(lacking)}", flush=True)
        return 0
    print(f"{name}: {' '.join(command)}", flush=True)
    began = time.monotonic()
    # signals received: the command has received them too, and ends once it has saved
    asked: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: asked.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    place.unlink(missing_ok=True)
    try:
        running = subprocess.Popen(command)
        if asked:  # before there was a command that could receive it
            running.send_signal(asked[0])
        # written once the command runs: whoever reads it may stop it, which reaches the command
        disk.write_json(place, record)
        status = running.wait()
    except OSError as error:
        print(f"{name}: cannot be started ({error.strerror})", flush=True)
        status = 127
    for number, handler in before.items():
        signal.signal(number, handler)
    disk.write_json(
        place, {**record, "status": status, "seconds": round(time.monotonic() - began, 1)}
    )
    pack(out)
    if asked:
        sys.exit(128 + asked[0])  # no further case
    return status if status >= 0 else 128 - status


def cases(out: Path) -> list[dict]:
    """What is known of each case, oldest first."""
    found = [json.loads(path.read_text(encoding="utf8")) for path in (out / "cases").glob("*.json")]
    return sorted(found, key=lambda one: one["time"])


def is_done(found: dict | None) -> bool:
    """Whether a case ended well."""
    return found is not None and found.get("status") == 0


def state_of(found: dict, runs: bool) -> str:
    """The state of a case, as text."""
    if "left_out" in found:
        return f"left out: {found['left_out']}"
    if "status" not in found:
        return "runs" if runs else "cut off"
    return {0: "done", 75: "stopped and saved"}.get(
        found["status"], f"failed with {found['status']}"
    )


def pack(out: Path) -> None:
    """Archive the small text files below OUT, smallest first, MOST bytes; print what is more."""
    found = [
        path
        for path in out.rglob("*")
        if path.suffix in KEPT and path.is_file() and not path.is_symlink()
    ]
    omitted = []
    with disk.replacing(out / ARCHIVE) as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
        for size, path in sorted((path.stat().st_size, path) for path in found):
            if file.tell() + size > MOST:  # as if nothing could be compressed
                omitted.append(str(path.relative_to(out)))
            else:
                tar.add(path, str(path.relative_to(out)))
    if omitted:
        print(f"{out / ARCHIVE}: left out for their size: {', '.join(omitted)}")


def _tail(path: Path, lines: int = 12, width: int = 160) -> list[str]:
    with disk.open_regular(path) as file:
        file.seek(max(os.fstat(file.fileno()).st_size - 8192, 0))
        return [
            line[:width] for line in file.read().decode("utf8", "replace").splitlines()[-lines:]
        ]
