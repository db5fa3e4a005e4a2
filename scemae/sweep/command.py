"""`scemae sweep`: what the command does on each node of a job, and the page alone.

    scemae sweep run_dir=runs/sweep correspond.backbone=runs/mae \\
                 correspond.data.shards=data/celeba/train correspond.probe_shards=data/celeba/val
"""

import argparse
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from scemae.config.load import compose_yaml
from scemae.distributed.launchers import number
from scemae.errors import ConfigError, LaunchError, RunFolderError
from scemae.files import ownership
from scemae.runs import generations
from scemae.runs.generations import Generation
from scemae.sweep import spec as sweeps
from scemae.sweep.spec import Sweep
from scemae.sweep.sweep_folder import FILE, reopen


def main(options: argparse.Namespace) -> None:
    """Run a sweep, join one, write its page, or run an element of a job array.

    Raises ConfigError, LaunchError, Preempted and what a stage raises.
    """
    words = options.settings
    if options.dry_run:
        raise ConfigError("found --dry-run, which needs --array")
    if options.out and not options.page:
        raise ConfigError("found --out, which needs --page")
    if options.cfg:
        own = [word for word in words if not word.startswith(sweeps.STAGES)]
        print(compose_yaml("sweep", own))
    elif options.join:
        _join(_begun("--join", options.join, words))
    elif options.page:
        out = options.out and options.out.absolute()
        _page(_begun("--page", options.page, words), out)
    elif options.alone:
        _run_array_element(words)
    else:
        _start(sweeps.load(words), words)


def _begun(option: str, folder: Path, words: list[str]) -> Path:
    """The absolute path of a sweep that has begun. Raises ConfigError."""
    if words or not (folder / FILE).is_file():
        found = " ".join([str(folder), *words])
        raise ConfigError(f"{option}: found {found}; give the run_dir of a sweep that has begun")
    return folder.absolute()


def _start(sweep: Sweep, words: list[str]) -> None:
    """On the first node run the sweep; on the others of the job join it."""
    _check_ray()
    from scemae.sweep import coordinator

    if number(os.environ, "RANK", 0, None, default=0):
        _wait_for(sweep.folder / FILE)
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
                f"{path}: not there after {seconds:.0f} s; the first node makes it, see its log"
            )
        time.sleep(0.5)


def _check_ray() -> None:
    if find_spec("ray") is None or find_spec("optuna") is None:
        raise LaunchError(
            "found no ray, or no optuna; install them with `pip install 'scemae[sweep]'`, or run "
            "random and grid searches without them: --array"
        )


def _join(folder: Path) -> None:
    _check_ray()
    from scemae.sweep import coordinator

    print(f"{folder}: this node joins", file=sys.stderr, flush=True)
    coordinator.join(folder, "CUDA_VISIBLE_DEVICES" in os.environ)


def _run_array_element(words: list[str]) -> None:
    """Run an element of a job array (cluster/array.py). words: SWEEP part=K of=N start=G.

    It runs every N-th trial from K on, as part of start G of the sweep.
    """
    from scemae.sweep.array_worker import run_array_element

    folder = Path(words[0] if words else "").absolute()
    options = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    given = [options.get(name, "") for name in ("part", "of", "start")]
    part, of, start = (int(value) if value.isdigit() else -1 for value in given)
    is_known = (folder / FILE).is_file() and start in generations.numbers(folder)
    if not is_known or not 0 <= part < of:
        raise ConfigError(
            f"--alone: found {' '.join(words) or 'nothing'}; SWEEP part=K of=N start=G was needed, "
            "as --array writes it"
        )
    generation = Generation(start, generations.path_of(folder, start))
    run_array_element(reopen(folder), part, of, generation)


def _page(folder: Path, out: Path | None) -> None:
    """Write the results so far to the sweep's folder or `out`.

    Raises RunFolderError for a sweep of another user without `out`: nothing is written or removed
    there.
    """
    from scemae.sweep.page.results import refuse_fruitless, write_results
    from scemae.sweep.queue import remove_leftovers

    if out is None and not ownership.is_private_run(folder):
        raise RunFolderError(
            f"{folder}: found a sweep of another user, or one that others may write to; say where "
            "its page is to go: --page SWEEP --out FOLDER"
        )
    sweep = reopen(folder)
    if out is None:
        remove_leftovers(sweep)
    else:
        out.mkdir(parents=True, exist_ok=True)
    print(write_results(sweep, out))
    refuse_fruitless(sweep)
