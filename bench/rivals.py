"""python -m bench rivals: SCE-MAE, CL, LEAD and DVE, each trained for the same wall time.

  python -m bench rivals SHARDS OUT --minutes 15        alone on the machine, method after method

SHARDS is what `scemae shards build celeba` wrote. Reduced for a CPU (experiment=demo_* and
faces_cpu_*): DeiT-T, ResNet-18 trunks, a small hourglass, no JPEG noise, 64 dimensions.

A method has --minutes for both stages, from the start of a process to its end: --second of it for
stage 2; DVE, of one stage, all of it. How many epochs fit is measured first: the same command runs
until it has logged a few steps. So every schedule reaches its end. SCE-MAE's LDA (ours) takes the
stage 1 of CARB and, instead of a loss, some seconds.

A run that is there with its JSON beside it is kept; one without is made again, since a run that was
cut off has had another budget. Then `scemae tables` measures all of it with paired differences.
Writes OUT/budget.json and OUT/budget.md (minutes, CPU minutes, images seen) and OUT/tables.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from omegaconf import OmegaConf

from bench import runs
from scemae.data.storage.shard_set import open_shards
from scemae.files import disk
from scemae.runs.metrics_log import read_metrics

STAGE_1 = {
    "mae": ("experiment=faces_cpu_pretrain",),
    "moco": ("experiment=demo_moco_pretrain",),
    "byol": ("experiment=demo_byol_pretrain",),
    "dve": ("experiment=demo_dve_pretrain",),
}
STAGE_2 = {
    "carb": ("mae", "experiment=faces_cpu_correspond", "carb.dim=64", "views=1"),
    "cl": ("moco", "experiment=demo_cl_correspond"),
    "lead": ("byol", "experiment=demo_lead_correspond"),
}
QUIET = ("loop.probe_every=0", "loop.save_every=1000000", "runtime.precision=fp32")
ROWS = 6  # heartbeats that the speed is measured by, after one that warms up
ENDING = 3.0  # seconds from the last step to the end of the process


def main(argv: list[str]) -> int:
    """Train what is not trained yet, then measure all."""
    given = _parse(argv)
    budget = 60 * given.minutes
    rows = []
    for name, words in STAGE_1.items():
        seconds = budget if name == "dve" else budget * (1 - given.second)
        rows.append(train(name, ["pretrain", *words], seconds, given))
    for name, (backbone, *words) in STAGE_2.items():
        command = ["correspond", *words, f"backbone={given.out / backbone}"]
        rows.append(train(name, command, budget * given.second, given))
    lda = ["correspond", "experiment=lda_correspond", f"backbone={given.out / 'mae'}"]
    rows.append(train("lda", lda, None, given))
    disk.write_json(
        given.out / "budget.json", {"command": ["bench", "rivals", *argv], "rows": rows}
    )
    disk.write_text(given.out / "budget.md", as_markdown(rows))
    print(as_markdown(rows), flush=True)
    methods = [str(given.out / name) for name in ("carb", "lda", "cl", "lead", "dve")]
    return subprocess.run(
        [sys.executable, "-m", "scemae", "tables", *methods, "experiment=faces_cpu_tables"]
        + [f"run_dir={given.out / 'tables'}", f"shards=[{given.shards}]", "pictures=false"]
        + given.tables
    ).returncode


def train(name: str, command: list[str], seconds: float | None, given: argparse.Namespace) -> dict:
    """The row of one run that ends after about `seconds`; None: as long as it takes."""
    folder, record = given.out / name, given.out / f"{name}.json"
    if record.exists():
        return json.loads(record.read_text())
    words = [*command, f"data.shards={given.shards / 'train'}", "loop.log_every=1"]
    faces = len(open_shards(str(given.shards / "train")))
    if seconds is not None:
        started, speed = calibrate(given.out / f"{name}-speed", [*words, *QUIET])
        epochs = max((seconds - started - ENDING) * speed / faces, 0.01)
        words += [*QUIET, f"optim.epochs={epochs:.4f}"]
        if "experiment=faces_cpu_pretrain" in words:
            words.append(f"optim.warmup_epochs={epochs / 12:.4f}")  # as the experiment: 1 of 12
        elif command[0] == "pretrain":
            words.append("optim.warmup_epochs=0")
    shutil.rmtree(folder, ignore_errors=True)
    before, begun = _cpu_seconds(), time.monotonic()
    with runs.started([*words, f"run_dir={folder}"], given.out / f"{name}.log") as process:
        status = process.wait()
    if status:
        raise RuntimeError((given.out / f"{name}.log").read_text()[-2000:])
    steps = max((row["step"] for row in read_metrics(folder)), default=0)
    batch = OmegaConf.load(folder / "config.yaml").optim.global_batch_size
    row = {
        "name": name,
        "minutes": (time.monotonic() - begun) / 60,
        "CPU minutes": (_cpu_seconds() - before) / 60,
        "images seen": steps * batch,
        "command": words,
    }
    disk.write_json(record, row)
    print(f"{name}: {row['minutes']:.1f} minutes, {row['images seen']:,} images", flush=True)
    return row


def calibrate(folder: Path, words: list[str]) -> tuple[float, float]:
    """Seconds from the start of a process to its second step, and images per second after it."""
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.time()
    long = [*words, f"run_dir={folder}", "optim.epochs=100", "optim.warmup_epochs=0"]
    if words[0] == "correspond":  # not the tokens of the run that is measured later
        long.append(f"store.dir={folder / 'tokens'}")
    log = folder.parent / f"{folder.name}.log"
    with runs.started(long, log) as process:
        while len(found := _beats(folder)) < ROWS + 1:
            if process.poll() is not None:
                raise RuntimeError(log.read_text()[-2000:])
            time.sleep(1)
    speed = statistics.median(row["images_per_second"] for row in found[1:])
    started = found[0]["time"] - begun
    shutil.rmtree(folder)
    return started, speed


def as_markdown(rows: list[dict]) -> str:
    """The runs: what each cost and how many images it saw."""
    lines = ["| run | minutes | CPU minutes | images seen |", "|---|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row['name']} | {row['minutes']:.1f} | {row['CPU minutes']:.1f} "
            f"| {row['images seen']:,} |"
        )
    return "\n".join(lines) + "\n"


def _beats(folder: Path) -> list[dict]:
    if not (folder / "generations").exists():
        return []
    return [row for row in read_metrics(folder) if "images_per_second" in row]


def _cpu_seconds() -> float:
    """Of all ended children and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench rivals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", metavar="SHARDS", type=Path, help="train, mafl-train, mafl-test")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the runs and results")
    parser.add_argument("--minutes", type=float, default=15.0, help="of each method (15)")
    parser.add_argument("--second", type=float, default=0.15, help="share of stage 2 (0.15)")
    parser.add_argument("--tables", nargs="*", default=[], help="settings of `scemae tables`")
    return parser.parse_args(argv)
