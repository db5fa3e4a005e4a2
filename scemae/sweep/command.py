"""`scemae sweep`: the command; what it does on which node of a job, and the page on its own.

    scemae sweep run_dir=runs/sweep correspond.backbone=runs/mae correspond.data.shards=data/celeba/train \\
                 correspond.probe_shards=data/celeba/val
"""

import os
import sys
import time
from pathlib import Path

from scemae.config.load import compose_yaml
from scemae.distributed.launchers import number
from scemae.errors import ConfigError, LaunchError, RunFolderError
from scemae.files import ownership
from scemae.runs import generations
from scemae.runs.generations import Generation
from scemae.sweep import spec as sweeps
from scemae.sweep.spec import Sweep

HELP = """\
scemae sweep run_dir=SWEEP [KEY=VALUE ...]: search settings of a stage with Ray Tune
scemae sweep --join SWEEP                   lend this node too, until the sweep is over
scemae sweep --page SWEEP                   write its page and table as far as it has come, and remove checkpoints that `keep`
                                            does not keep (at its end both are done); with --out FOLDER the page goes there,
                                            and nothing is removed: for a sweep of another user
scemae sweep ... --array                    random and grid search as an array of jobs, without Ray

  scemae sweep run_dir=runs/sweep correspond.backbone=runs/mae correspond.data.shards=data/celeba/train \\
               correspond.probe_shards=data/celeba/val
  sbatch --nodes=4 cluster/sweep.sh run_dir=runs/sweep ...       the same on a cluster: first node leads, others join

A trial is `scemae correspond` (or pretrain) with a list of settings, in a run folder of its own. Trial 0 is the paper's
setting. What trials share (the tokens of the frozen backbone, the validation pairs) is computed once. The same command goes
on where the sweep stood, whatever ended it: trials that ended stay, those that ran go on from their checkpoints.
Ends with sweep.html (look at this one), results.csv, and best.yaml: scemae correspond experiment=SWEEP/best.yaml ...

  space                carb (eta, K_c, the three repellence weights), carb_ordered, carb_more, eta_clusters, mae (stage 1), or
                       FILE.yaml of your own; space.parameters.carb.eta.high=0.4 changes a range
  search               tpe (Optuna), random or grid; trials: how many, seed
  correspond.KEY=VALUE, pretrain.KEY=VALUE     a setting of every trial
  objectives           [different]: the error on pairs of different people of probe_shards, never of the test set;
                       [different,same]: two, and the Pareto front; cycle: a proxy that needs no landmarks
  halving.enabled      ASHA: of the trials that are looked at after halving.grace of their training, one of
                       halving.reduction goes on
  trial.ranks, trial.cpus, trial.gpus     what each trial gets: processes, processors per process, GPUs (0.25 shares one)
  concurrency          trials at once; auto: as many as fit. With 1, the same seed gives the same trials; random and grid
                       search give them with any
  --array              jobs: how many elements; cluster.time, cluster.partition and so on as for `scemae submit`; --dry-run prints
                       them; what each job gets follows from trial.*; the last job writes the page
  retries              of a trial whose processes or node are gone; keep: best trials that keep their checkpoints
"""


def main(words: list[str]) -> None:
    """Run `scemae sweep` with the words after it. Raises ConfigError, LaunchError, Preempted and what a stage raises."""
    if "-h" in words or "--help" in words or not words:
        print(HELP)
        return
    flags = [word for word in words if word.startswith("-")]
    rest = [word for word in words if not word.startswith("-")]
    if "--cfg" in flags:
        print(compose_yaml("sweep", [word for word in rest if not word.startswith(sweeps.STAGES)]))
    elif flags in (["--join"], ["--page"], ["--page", "--out"]):
        if len(rest) != len(flags) or not all(rest) or not (Path(rest[0]) / sweeps.FILE).is_file():
            raise ConfigError(
                f"{flags[0]}: found {' '.join(rest) or 'nothing'}; give the run_dir of a sweep that has begun"
            )
        folder = Path(rest[0]).absolute()
        _join(folder) if flags == ["--join"] else _page(
            folder, Path(rest[1]).absolute() if rest[1:] else None
        )
    elif flags == ["--alone"]:
        _alone(rest)
    elif flags:
        raise ConfigError(
            f"found {flags[0]}, which is no option; give key=value pairs, --join, --page, --array, --cfg or --help"
        )
    else:
        _start(sweeps.load(rest), rest)


def _start(sweep: Sweep, words: list[str]) -> None:
    _check_ray()
    from scemae.sweep import coordinator

    if number(os.environ, "RANK", 0, None, default=0):
        _wait_for(sweep.folder / sweeps.FILE)
        coordinator.join(sweep.folder, sweep.config.trial.gpus > 0)
        return
    coordinator.coordinate(sweep, words)
    from scemae.sweep.page.results import closing_lines, refuse_fruitless

    print(closing_lines(sweep))
    refuse_fruitless(sweep)


def _wait_for(path: Path, seconds: float = 600.0) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            raise LaunchError(
                f"{path}: not there after {seconds:.0f} s; the first node makes it, see what it says"
            )
        time.sleep(0.5)


def _check_ray() -> None:
    from importlib.util import find_spec

    if find_spec("ray") is None or find_spec("optuna") is None:
        raise LaunchError(
            "found no ray, or no optuna; install them with `pip install 'scemae[sweep]'`, or run random and grid "
            "searches without them: --array"
        )


def _join(folder: Path) -> None:
    _check_ray()
    from scemae.sweep import coordinator

    print(f"{folder}: this node joins", file=sys.stderr, flush=True)
    coordinator.join(folder, "CUDA_VISIBLE_DEVICES" in os.environ)


def _alone(words: list[str]) -> None:
    """SWEEP part=K of=N start=G: an element of an array (cluster/array.py), which is start G of this sweep, runs every N-th
    trial from K on."""
    from scemae.sweep.array_worker import run_array_element

    folder, options = (
        Path(words[0] if words else "").absolute(),
        dict(word.split("=", 1) for word in words[1:] if "=" in word),
    )
    part, of, start = (
        int(found) if (found := options.get(name, "")).isdigit() else -1
        for name in ("part", "of", "start")
    )
    if (
        not (folder / sweeps.FILE).is_file()
        or not 0 <= part < of
        or start not in generations.numbers(folder)
    ):
        raise ConfigError(
            f"--alone: found {' '.join(words) or 'nothing'}; SWEEP part=K of=N start=G was needed, as --array writes it"
        )
    run_array_element(
        sweeps.reopen(folder), part, of, Generation(start, generations.path_of(folder, start))
    )


def _page(folder: Path, out: Path | None) -> None:
    """Raises RunFolderError for a sweep of another user without `out`: nothing is written or removed there."""
    from scemae.sweep.page.results import refuse_fruitless, show
    from scemae.sweep.queue import remove_leftovers

    if out is None and not ownership.is_private_run(folder):
        raise RunFolderError(
            f"{folder}: found a sweep of another user, or one that others may write to; say where its page is to go: "
            "--page SWEEP --out FOLDER"
        )
    sweep = sweeps.reopen(folder)
    if out is None:
        remove_leftovers(sweep)
    else:
        out.mkdir(parents=True, exist_ok=True)
    print(show(sweep, out))
    refuse_fruitless(sweep)
