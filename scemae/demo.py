"""`scemae demo`: the whole system on generated faces, each stage by the command that a user would type.

    scemae demo runs/demo

A small, labelled configuration (configs/experiment/demo_*.yaml), not the paper's; it ends with a report. A demo
that was interrupted goes on where it stood.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path


def main(argv: list[str]) -> None:
    """Run faces, shards, pretrain, correspond, evaluate and report below one folder."""
    parser = argparse.ArgumentParser("scemae demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/demo"), help="folder of the demo (runs/demo)")
    parser.add_argument("--faces", type=int, default=6000, help="how many faces to generate (6000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that draw and write (all cores)")
    options = parser.parse_args(argv)
    for command in commands(options.out, options.faces, options.workers):
        print(f"\n$ scemae {shlex.join(command)}", flush=True)
        status = subprocess.run([sys.executable, "-m", "scemae", *command]).returncode
        if status:
            sys.exit(status)
        if command[0] == "faces":
            os.replace(options.out / "faces.partial", options.out / "faces")
    print(f"\nThe report: {(options.out / 'evaluate' / 'report.html').resolve()}")


def commands(out: Path, faces: int, workers: int) -> list[list[str]]:
    """The commands of one demo, in order; what is there already is not drawn again."""
    shards, mae, carb, evaluation = out / "shards", out / "pretrain", out / "correspond", out / "evaluate"
    draw = []
    if not (out / "faces").exists():
        shutil.rmtree(out / "faces.partial", ignore_errors=True)  # of a demo that was interrupted
        draw = [["faces", str(out / "faces.partial"), f"--count={faces}", f"--identities={faces // 10}",
                 f"--workers={workers}"]]
    return draw + [
        ["shards", "build", "celeba", str(out / "faces"), str(shards), f"--workers={workers}"],
        ["pretrain", "experiment=demo_pretrain", f"run_dir={mae}", f"data.shards={shards}/train",
         f"probe_shards={shards}/val"],
        ["correspond", "experiment=demo_correspond", f"run_dir={carb}", f"backbone={mae}",
         f"data.shards={shards}/train", f"probe_shards={shards}/val"],
        ["evaluate", "experiment=demo_evaluate", f"run_dir={evaluation}", f"backbone={mae}", f"projector={carb}",
         f"matching.shards={shards}/mafl-test", f"detection.train={shards}/mafl-train",
         f"detection.test={shards}/mafl-test"],
        ["report", str(evaluation)],
    ]
