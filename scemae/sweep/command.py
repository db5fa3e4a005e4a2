"""`scemae sweep`: the command; what it does on which node of a job, and the page on its own.

    scemae sweep run_dir=runs/sweep correspond.backbone=runs/mae correspond.data.shards=data/celeba/train \\
                 correspond.probe_shards=data/celeba/val
"""

import argparse
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


def main(options: argparse.Namespace) -> None:
    """Run a sweep, join one or write its page. Raises ConfigError, LaunchError, Preempted and what
    a stage raises."""
    words = options.settings
    if options.dry_run or options.out and not options.page:
        raise ConfigError("found --dry-run without --array, or --out without --page")
    if options.cfg:
        own = [word for word in words if not word.startswith(sweeps.STAGES)]
        print(compose_yaml("sweep", own))
    elif options.join:
        _join(_begun("--join", options.join, words))
    elif options.page:
        out = options.out and options.out.absolute()
        _page(_begun("--page", options.page, words), out)
    elif options.alone:
        _alone(words)
    else:
        _start(sweeps.load(words), words)


def _begun(option: str, folder: Path, words: list[str]) -> Path:
    """The absolute path of a sweep that has begun. Raises ConfigError."""
    if words or not (folder / sweeps.FILE).is_file():
        found = " ".join([str(folder), *words])
        raise ConfigError(f"{option}: found {found}; give the run_dir of a sweep that has begun")
    return folder.absolute()


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
