"""What looking into the run folder of 1,024 ranks costs, in system calls counted by strace.

`python -m bench scale --part folder`. The folder is made here, of empty files: STARTS starts with a
log of each rank, and as many checkpoints with a file of each rank.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from scemae.files import disk
from scemae.runs import generations
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.checkpoint import TrainState

RANKS, STARTS = 1024, 300
EMPTY = disk.digest("")
# What is counted: a name, the ranks that do it, and the code.
CASES = (
    ("claim: the last starts are read", 1, "generations.refuse_crash_loop(run, 'job-1')"),
    ("the checkpoints that count", 1, "checkpoint.committed(run)"),
    ("is a newer start there (each heartbeat)", 1, "generations.numbers(run)"),
    ("which checkpoints are old (each save)", 1, "checkpoint.tidy(run, start, STARTS, 1)"),
    ("half-written checkpoints are looked for", 1, "checkpoint.clear_partial(run, start)"),
    ("a checkpoint is checked", RANKS, "checkpoint.damage(last, 5, RANKS)"),
    ("a checkpoint becomes the start's own", 1, "checkpoint.copy_by_links(last, own, run)"),
    ("an old checkpoint is deleted", 1, "checkpoint.remove(own)"),
    ("the watchdog's check, every 8 s", RANKS, "dog._end_after_failure()"),
    ("all ranks hang: a rank reads the notes", 4, "find_stopped_rank(notes, RANKS, 20, 0)"),
    ("... the other ranks", RANKS - 4, "find_stopped_rank(notes, RANKS, 20, 5)"),
)
PREPARED = """
import os, sys, time
from pathlib import Path
from scemae.distributed.watchdog import Watchdog, find_stopped_rank
from scemae.files import folder_names
from scemae.runs import generations
from scemae.runs.checkpoints import checkpoint
from scemae.runs.generations import Generation, path_of
from bench.run_folder import RANKS, STARTS
run = Path(sys.argv[1])
start, notes = Generation(STARTS, path_of(run, STARTS)), path_of(run, 1)
last = checkpoint.path_of(run, STARTS, STARTS)
own = checkpoint.path_of(run, STARTS, STARTS + 1)
checkpoint.read_state(last)
if "dog" in sys.argv[2]:
    folder_names.COARSE = 0.1
    dog = Watchdog(start.folder, 5, RANKS, 60)
    for _ in range(3):
        dog._end_after_failure()
        time.sleep(0.2)
os.path.exists("/begin")
exec(sys.argv[2])
os.path.exists("/end")
os._exit(0)
"""


def measure() -> list[dict]:
    """The rows: calls of one rank by kind, and of all ranks that do it."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        make(run)
        for what, ranks, code in CASES:
            calls = counted(run, code, Path(scratch) / "calls")
            total = sum(calls.values())
            kinds = ", ".join(f"{count} {name}" for name, count in calls.most_common())
            rows.append({"what": what, "ranks": ranks, "value": total, "unit": kinds})
    return rows


def make(run: Path) -> None:
    """A run folder of STARTS starts and checkpoints of RANKS ranks; the notes of one hang."""
    names = [f"moments-{rank + 1:04d}-of-{RANKS:04d}.safetensors" for rank in range(RANKS)]
    names.append(checkpoint.WEIGHTS)
    listed = [{"file": name, "bytes": 0, "sha256": EMPTY} for name in names]
    for number in range(1, STARTS + 1):
        folder = disk.make_folders(generations.path_of(run, number), run)
        owner = {"host": "n", "pid": 1, "born": "1", "namespace": "n", "job": f"job-{number}"}
        disk.write_json(folder / "owner.json", owner)
        disk.write_json(folder / "base.json", {"step": number - 1})
        for name in ("beat", "ended", "ledger.jsonl", "metrics.jsonl"):
            disk.create(folder / name).close()
        for rank in range(RANKS):
            disk.create(folder / f"rank-{rank:04d}.log").close()
        place = disk.make_folders(checkpoint.path_of(run, number, number), run)
        for name in names:
            disk.create(place / name).close()
        state = TrainState(number, 0, RANKS, 1, "pretrain", {}, "", 1, number, files=listed)
        checkpoint.write_state(place, state)
    for rank in range(RANKS):
        note = {"rank": rank, "host": "n", "step": 1, "phase": "data"}
        disk.write_json(generations.path_of(run, 1) / f"hang-{rank:04d}.json", note)


def counted(run: Path, code: str, log: Path) -> Counter:
    """System calls on files that `code` makes, by name."""
    kinds = "trace=%file,getdents64,read,fsync,fstat,close"
    words = ["strace", "-f", "-o", str(log), "-e", kinds, sys.executable, "-c", PREPARED]
    subprocess.run([*words, str(run), code], check=True)
    between = log.read_text().split('"/begin"')[1].split('"/end"')[0]
    found = Counter(re.findall(r"^\d+ +(\w+)\(", between, re.MULTILINE))
    found["stat"] = found.pop("newfstatat", 1) - 1  # that of the mark "/end" is none of the code's
    return Counter({name: count for name, count in found.items() if count > 0})
