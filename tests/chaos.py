"""Kill ranks of runs on this machine with kill -9, at random moments and in every phase of a save.

    python -m tests.chaos OUT [--kills 50] [--seed 0]       about half an hour on two cores

Every start resumes from a whole checkpoint. At the end the ledger and the final weights of each run
are compared with those of an uninterrupted run. Prints a Markdown table and writes OUT/chaos.json.
"""

import argparse
import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import torch

from scemae.runs.checkpoints.checkpoint import committed, damage, place_of, read_weights
from scemae.runs.generations import base_steps, numbers
from tests.support import TINY, Started, places, scemae, write_shards

POINTS = ("snapshot", "write", "fsync", "manifest", "rename", "prune")
RECIPE = [
    *TINY,
    "optim.global_batch_size=7",
    "optim.warmup_epochs=1",
    "runtime.device=cpu",
    "runtime.micro_batch_size=4",
    "runtime.workers=1",
    "runtime.hang_seconds=15",
    "loop.keep=2",
]


def start_ranks(
    command: list[str], ranks: int, *, folder: Path, **environment: str
) -> list[Started]:
    """Start `scemae COMMAND` as `ranks` processes; rank N writes to folder/rank-N.out."""
    folder.mkdir(parents=True, exist_ok=True)
    outs = (folder / f"rank-{rank}.out" for rank in range(ranks))
    return [
        Started(command, out, out, **place, **environment)
        for out, place in zip(outs, places(ranks))
    ]


def wait_all(processes: list[Started], seconds: float = 120) -> list[int]:
    """Exit statuses; None for a process that was killed because it ran longer than `seconds`."""
    until = time.monotonic() + seconds
    statuses = []
    for process in processes:
        try:
            statuses.append(process.wait(max(until - time.monotonic(), 0.1)))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            statuses.append(None)
    return statuses


def output(folder: Path) -> str:
    """All that the ranks have said."""
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("rank-*.out")))


def same_end(run: Path, whole: Path) -> bool:
    """True where two runs ended with bit-equal weights."""
    one, other = (read_weights(committed(folder)[-1]) for folder in (run, whole))
    return all(torch.equal(one[name], other[name]) for name in one)


def check_start(run: Path, out: Path, before: int) -> int:
    """Check after a kill that the newest checkpoint is whole and not older; return its step."""
    kept = committed(run)
    problems = [damage(folder) for folder in kept]
    assert kept and not any(problems), f"{run}: {problems}, {out}"
    step = place_of(kept[-1])[0]
    assert step >= before, f"{run}: went back from step {before} to {step}"
    return step


def break_at_random(
    command: list[str], run: Path, whole: Path, kills: int, ranks: int, chance: random.Random
) -> dict:
    """Kill a random rank at a random moment, `kills` times, then let the run end; its row."""
    out, done, step, early = run.parent / f"{run.name}-out", 0, 0, 0
    while done < kills:
        processes = start_ranks([*command, f"run_dir={run}"], ranks, folder=out)
        time.sleep(chance.uniform(0.5, 5.5))
        victim = chance.choice(processes)
        if victim.poll() is None:
            victim.kill()
            done += 1
        statuses = wait_all(processes)
        assert set(statuses) <= {0, 75, -9, -15}, (statuses, output(out)[-3000:])
        if committed(run):
            step = check_start(run, out, step)
        else:
            early += 1  # before the first save, at step 0
        if statuses == [0] * ranks:
            break
    statuses = wait_all(start_ranks([*command, f"run_dir={run}"], ranks, folder=out), 600)
    assert statuses == [0] * ranks, (statuses, output(out)[-3000:])
    return report(run, whole, kills=done, before_first_save=early)


def break_at(point: str, command: list[str], run: Path, whole: Path, ranks: int) -> dict:
    """Kill rank 0, then the last rank if it takes part, at a point of a save; let the run end."""
    out, kills = run.parent / f"{run.name}-out", 0
    for victim in range(ranks) if point in ("snapshot", "write", "fsync") else [0]:
        kill_at(point, victim, 20 + 20 * victim, command, run, ranks, newest=10)
        kills += 1
    statuses = wait_all(start_ranks([*command, f"run_dir={run}"], ranks, folder=out))
    assert statuses == [0] * ranks, (statuses, output(out)[-3000:])
    return report(run, whole, kills=kills)


def kill_at(
    point: str, victim: int, step: int, command: list[str], run: Path, ranks: int, *, newest: int
) -> int:
    """Start the run, kill one rank at a point of the save of a step, and check what is left.

    That must be whole and of step `newest` or later; its step is returned. Only rank 0 comes to the
    points after the files are written.
    """
    out = run.parent / f"{run.name}-out"
    where = f",rank={victim}" if point in ("snapshot", "write", "fsync") else ""
    processes = start_ranks(
        [*command, f"run_dir={run}"],
        ranks,
        folder=out,
        SCEMAE_FAULTS=f"kill@{point}:step={step}{where}",
    )
    statuses = wait_all(processes)
    assert -9 in statuses and set(statuses) <= {75, -9}, (point, statuses, output(out)[-3000:])
    return check_start(run, out, newest)


def report(run: Path, whole: Path, **facts: object) -> dict:
    """Compare a finished run with the uninterrupted one. Raises if the ledger does not hold."""
    shown = scemae("verify-resume", run, "--all", "--against", whole).stdout
    assert "step for step the samples of" in shown
    return {
        **facts,
        "starts": len(numbers(run)),
        "bases": list(base_steps(run).values()),
        "equal_weights": same_end(run, whole),
    }


def main() -> None:
    """The whole exercise."""
    parser = argparse.ArgumentParser(
        "python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out, chance, rows = options.out, random.Random(options.seed), []
    shutil.rmtree(out, ignore_errors=True)
    shards = write_shards(out / "shards", 35)
    columns = "what", "ZeRO", "ranks", "kills", "starts", "resumed at steps", "ledger", "weights"
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for stage, ranks, share in ((1, 2, 0.4), (2, 2, 0.3), (3, 2, 0.3)):
        base = ["pretrain", *RECIPE, f"data.shards={shards}", f"runtime.zero_stage={stage}"]
        long = [*base, "optim.epochs=400", "loop.log_every=5", "loop.save_every=20"]
        whole = out / f"whole-{stage}"
        scemae(*long, f"run_dir={whole}", ranks=ranks)
        rows.append(
            {
                "what": "random moments",
                "stage": stage,
                "ranks": ranks,
                **break_at_random(
                    long,
                    out / f"random-{stage}",
                    whole,
                    round(options.kills * share),
                    ranks,
                    chance,
                ),
            }
        )
        show(rows[-1])
        short = [*base, "optim.epochs=12", "loop.log_every=5", "loop.save_every=10"]
        whole = out / f"short-{stage}"
        scemae(*short, f"run_dir={whole}", ranks=ranks)
        for point in POINTS:
            rows.append(
                {
                    "what": f"in a save: {point}",
                    "stage": stage,
                    "ranks": ranks,
                    **break_at(point, short, out / f"{point}-{stage}", whole, ranks),
                }
            )
            show(rows[-1])
    (out / "chaos.json").write_text(json.dumps(rows, indent=1))


def show(row: dict) -> None:
    """One line of the table."""
    cells = [row[key] for key in ("what", "stage", "ranks", "kills", "starts")]
    weights = "bit-equal" if row["equal_weights"] else "DIFFERENT"
    cells += [" ".join(map(str, row["bases"])), "verified", weights]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
