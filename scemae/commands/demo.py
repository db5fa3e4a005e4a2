"""`scemae demo`: the whole system on generated faces, each stage by the command a user would type.

    scemae demo runs/demo
    scemae demo runs/demo --rivals       and CL, LEAD and DVE, the other benchmarks, every table
                                         and figure of the paper

A small, labelled configuration (configs/experiment/demo_*.yaml), not the paper's; it ends with a
report. The same command resumes a demo that was interrupted.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from scemae.commands.arguments.demo import FEWEST
from scemae.config.values import as_argument, as_list
from scemae.errors import ConfigError
from scemae.files import disk

PROBED = 32  # couples of the probe in the demo's settings
NEXT = """
And with pictures of yours (docs/guides/your-data.md):

  scemae shards build folder PICTURES data/own
  scemae pretrain run_dir=runs/mae data.shards=data/own/train model=deit_tiny"""
# From a layout of `scemae faces` to the source of `scemae shards build` that reads it.
LAYOUTS = {"aflw_m": "aflw_m", "aflw_r": "aflw_r", "300w": "w300"}


def main(options: argparse.Namespace) -> None:
    """Run all stages below one folder, from faces to report; with --rivals also tables. Raises
    ConfigError for too few faces.
    """
    if options.faces < FEWEST:
        raise ConfigError(
            f"--faces: found {options.faces}, at least {FEWEST} are needed, so that the validation "
            "split shows different people"
        )
    everything = commands(options.out, options.faces, options.workers)
    if options.rivals:
        # 150: 100 to learn from, and a test set.
        everything += rivals(options.out, max(options.faces // 10, 150), options.workers)
    for command in everything:
        print(f"\n$ scemae {shlex.join(command)}", flush=True)
        if command[0] == "faces":  # renamed when whole: a folder that is there is not drawn again
            with disk.building(Path(command[1])) as partial:
                run(["faces", as_argument(partial), *command[2:]])
        else:
            run(command)
    print(f"\nThe report: {(options.out / 'evaluate' / 'report.html').resolve()}")
    if options.rivals:
        print(f"The tables: {(options.out / 'tables' / 'tables.html').resolve()}")
    print("\nNext, with what this demo made:\n")
    for command in next_commands(options.out):
        print(f"  scemae {shlex.join(command)}")
    print(NEXT)


def next_commands(out: Path) -> list[list[str]]:
    """What one can do with the runs of a demo: match two faces, find landmarks, export, look up."""
    trained = f"--run={out}"
    faces = sorted((out / "faces" / "img_align_celeba").glob("*.jpg"))
    first, second = as_argument(faces[0]), as_argument(faces[-1])
    regressors = out / "evaluate" / "regressors"
    found = [["match", first, second, trained, f"--out={out / 'match'}"]]
    for regressor in sorted(regressors.glob("MAE_+_CARB.safetensors")):
        use = [f"--regressor={regressor}", f"--out={out / 'landmarks'}"]
        found.append(["detect", first, trained, *use])
    page = ["explore", as_argument(out / "evaluate"), f"--out={out / 'explore.html'}"]
    export = ["export", as_argument(out), as_argument(out / "export")]
    return [*found, page, export, ["goodput", as_argument(out / "pretrain")]]


def run(command: list[str]) -> None:
    """Run `scemae COMMAND`; where it fails, exit with its status."""
    if status := subprocess.run([sys.executable, "-m", "scemae", *command]).returncode:
        sys.exit(status)


def draw(folder: Path, *options: str) -> list[list[str]]:
    """The command that draws faces into `folder`, unless the folder is there."""
    return [] if folder.exists() else [["faces", as_argument(folder), *options]]


def build(source: str, faces: Path, shards: Path, workers: int, *options: str) -> list[str]:
    """The command that makes shards of a folder of faces."""
    places = [as_argument(faces), as_argument(shards)]
    return ["shards", "build", source, *places, f"--workers={workers}", *options]


def commands(out: Path, faces: int, workers: int) -> list[list[str]]:
    """The commands of one demo, in order."""
    shards, mae, evaluation = out / "shards", out / "pretrain", out / "evaluate"
    carb, lda = out / "correspond", out / "lda"
    people = f"--identities={faces // 10}"
    data = [f"data.shards={shards}/train", f"probe_shards={shards}/val"]
    if faces // 50 < PROBED:
        data.append(f"loop.probe_pairs={faces // 50}")
    tests = [
        f"matching.shards={shards}/mafl-test",
        f"detection.train={shards}/mafl-train",
        f"detection.test={shards}/mafl-test",
    ]
    own = [f"run={carb}", f"also={as_list([str(lda)])}"]
    return [
        *draw(out / "faces", f"--count={faces}", people, f"--workers={workers}"),
        build("celeba", out / "faces", shards, workers),
        ["pretrain", "experiment=demo_pretrain", f"run_dir={mae}", *data],
        ["correspond", "experiment=demo_correspond", f"run_dir={carb}", f"backbone={mae}", *data],
        ["correspond", "experiment=lda_correspond", f"run_dir={lda}", f"backbone={mae}", data[0]],
        ["evaluate", "experiment=demo_evaluate", f"run_dir={evaluation}", *own, *tests],
        ["report", as_argument(evaluation)],
    ]


def rivals(out: Path, faces: int, workers: int) -> list[list[str]]:
    """The commands of --rivals: other benchmarks of `faces` pictures, rivals' stages, tables."""
    found: list[list[str]] = []
    shards = [str(out / "shards")]
    people = f"--identities={max(faces // 5, 10)}"
    for layout, source in LAYOUTS.items():
        folder, made = out / f"faces-{layout}", out / "more" / layout
        size = (f"--layout={layout}", f"--count={faces}", people, f"--workers={workers}")
        corrected = [f"--corrected={folder / 'corrected.csv'}"] if layout == "aflw_r" else []
        found += [*draw(folder, *size), build(source, folder, made, workers, *corrected)]
        shards.append(str(made))
    data = f"data.shards={out / 'shards' / 'train'}"
    for name in ("moco", "byol", "dve"):
        experiment = f"experiment=demo_{name}_pretrain"
        found.append(["pretrain", experiment, f"run_dir={out / name}", data])
    for name, backbone in (("cl", "moco"), ("lead", "byol")):
        runs = [f"run_dir={out / name}", f"backbone={out / backbone}"]
        found.append(["correspond", f"experiment=demo_{name}_correspond", *runs, data])
    compared = [as_argument(out / name) for name in ("correspond", "lda", "cl", "lead", "dve")]
    settings = [f"run_dir={out / 'tables'}", f"shards={as_list(shards)}"]
    return [*found, ["tables", *compared, "experiment=demo_tables", *settings]]
