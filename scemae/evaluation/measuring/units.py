"""Units of work that ranks share: each is measured once and its arrays are kept, so that a killed
run continues.

    RUN_DIR/measured/0123456789abcdef0123.npz    one unit's arrays, written aside and renamed

The name is a hash of all that the arrays depend on: weights, data and settings.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scemae.distributed.process_group import Place
from scemae.errors import RunFolderError
from scemae.files import arrays, disk
from scemae.process.progress import progress_bar
from scemae.runs.generations import Generation
from scemae.runs.run_folder import find_reason

Arrays = dict[str, np.ndarray]
Advance = Callable[
    [int], object
]  # called with the images, couples or epochs done since the last call


@dataclass
class Unit:
    """One piece of work: its file, its test and benchmark, and the function that measures it."""

    path: Path
    title: str
    work: Callable[[Advance], Arrays]
    size: int = 0  # what the calls of `Advance` add up to; 0: not known beforehand
    test: str = ""  # of evaluation/subjects.py
    benchmark: str = ""
    needs: Path | None = None  # the file of another unit that must be measured first

    @property
    def is_done(self) -> bool:
        return self.path.exists()


def measure_units(
    units: list[Unit], generation: Generation, place: Place, patience: float = 1.0
) -> None:
    """Measure every unit that has no file yet; ranks share them, and all return when the last is
    done.

    A rank claims a unit by creating a file in this generation's folder, so that claims of an
    earlier start, whose ranks may be dead, do not count. Raises LaunchError or LostRankError where
    another rank ends without measuring what it claimed.
    """
    claims = generation.folder / "claims"
    disk.make_folders(claims, generation.folder)
    left = [unit for unit in units if not unit.is_done]
    done = len(units) - len(left)
    bar = progress_bar(
        show=place.is_first, total=len(units), initial=done, unit="unit", desc="measured"
    )
    while left:
        for unit in _claim_units(left, claims):
            bar.set_postfix_str(unit.title)
            _measure(unit, is_shown=place.is_first)
        still_left = [unit for unit in left if not unit.is_done]
        bar.update(len(left) - len(still_left))
        if len(still_left) == len(left):
            _check_other_ranks(generation, place)
            time.sleep(patience)
        left = still_left
    bar.close()


def read_unit(unit: Unit) -> Arrays:
    """The arrays of a measured unit. Raises RunFolderError."""
    found = arrays.read(
        unit.path, error=RunFolderError, remedy="remove it, and it is measured again"
    )
    return {name: value for name, value in found.items() if name not in ("title", "chosen")}


def _claim_units(left: list[Unit], claims: Path) -> Iterator[Unit]:
    """Claim for this rank one unit after another whose needs are met, and yield it."""
    for unit in left:
        if unit.is_done or (unit.needs is not None and not unit.needs.exists()):
            continue
        try:
            disk.create(claims / unit.path.name).close()
        except FileExistsError:  # another rank's
            continue
        yield unit


def _measure(unit: Unit, *, is_shown: bool) -> None:
    with progress_bar(
        show=is_shown, total=unit.size or None, desc=unit.title, leave=False, position=1
    ) as bar:
        found = unit.work(bar.update)
    disk.make_folders(unit.path.parent, unit.path.parent.parent)  # measured/ of the run folder
    with disk.replacing(unit.path) as file:
        save: Callable = np.savez_compressed  # whose type takes no arrays by name
        save(file, title=json.dumps(unit.title), **found)


def _check_other_ranks(generation: Generation, place: Place) -> None:
    if any(generation.folder.glob("failed-*.txt")):
        raise find_reason(generation.folder, place.rank, RuntimeError("another rank failed"))
