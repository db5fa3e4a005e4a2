"""What a run of `scemae tables` or `scemae evaluate` measures: subjects, data and units, and the
numbers once measured.

Making a plan opens all runs and shards, so that what is wrong with them is reported before the
first unit begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scemae.config.schema.evaluation import TablesConfig
from scemae.distributed.process_group import Place, precision
from scemae.evaluation.landmarks.matching import MatchingErrors
from scemae.evaluation.landmarks.pairs import KINDS, Pairs
from scemae.evaluation.landmarks.position import PARTS
from scemae.evaluation.landmarks.regression import image_means
from scemae.evaluation.measuring.content import content_units
from scemae.evaluation.measuring.measure import Measure, NameRegressor
from scemae.evaluation.measuring.testsets import TestSet
from scemae.evaluation.measuring.units import Arrays, Unit, read_unit
from scemae.evaluation.subject import CONTENT, DETECTION, FEW_SHOT, MATCHING, PLACES, Line, Subject


def title_of_line(subject: Subject, line: Line, benchmark: str) -> str:
    """The file name of a regressor of `scemae tables`."""
    return "-".join([*f"{subject.title} {line.name}".split(), Path(benchmark).stem])


class MeasuringPlan:
    """The subjects, data and units of one run."""

    def __init__(
        self,
        config: TablesConfig,
        place: Place,
        subjects: list[Subject],
        data: dict[str, TestSet],
        *,
        pairs: Pairs | None,
        missing: dict[str, str],
        name_regressor: NameRegressor = title_of_line,
    ) -> None:
        """data: by benchmark; missing: why another benchmark cannot be measured; pairs: None, no
        matching.
        """
        self.config, self.place = config, place
        self.subjects, self.data, self.pairs, self.missing = subjects, data, pairs, missing
        self.device, self.dtype = place.device, precision(config.runtime.precision, place.device)
        self.measure = Measure(config, self.device, self.dtype, name_regressor)
        self.by_subject = [(subject, self._units_of(subject)) for subject in subjects]

    def _units_of(self, subject: Subject) -> list[Unit]:
        units = []
        if self.pairs is not None:
            units += self.measure.matching_units(subject, self.pairs)
            if (faces := self.data.get("mafl")) and faces.train is not None:
                units += content_units(self.measure, subject, self.pairs, faces)
        for name, data in self.data.items():
            units += self.measure.benchmark_units(subject, name, data)
        return units

    @property
    def units(self) -> list[Unit]:
        """All units, subject by subject."""
        return [unit for _, units in self.by_subject for unit in units]


@dataclass
class MeasuredLine:
    """The numbers of one table row (`line`) of one subject on one test."""

    subject: Subject
    line: Line
    values: Arrays  # by column: errors (n,), or of few shots (seeds, n)
    arrays: Arrays  # all that the line's units hold

    def matching_errors(self, pairs_hash: str) -> MatchingErrors:
        """The errors on the matching test, with the hash of the pairs they were measured on."""
        return MatchingErrors.of(pairs_hash, self.arrays)


def read_measured(plan: MeasuringPlan, test: str) -> Iterator[MeasuredLine]:
    """What was measured of every line of one test, in the order of subjects; its units must be
    done.

    Raises RunFolderError where a unit's file cannot be read.
    """
    for subject, units in plan.by_subject:
        mine = [unit for unit in units if unit.test == test]
        for line in subject.of(test) if mine else []:
            if test == MATCHING:
                values, arrays = _read_matching(mine, line, KINDS)
            elif test == CONTENT:
                values, arrays = _read_matching(mine, line, [f"{part}/different" for part in PARTS])
            elif test == PLACES:
                values, arrays = {}, _of_line(read_unit(mine[0]), line)
            else:
                values, arrays = _read_benchmarks(plan, mine, line)
            if arrays:
                yield MeasuredLine(subject, line, values, arrays)


def _read_matching(units: list[Unit], line: Line, names: Sequence[str]) -> tuple[Arrays, Arrays]:
    """The errors of each couple by the names of their arrays, and all arrays, of the chunks in
    their order.
    """
    parts = [_of_line(read_unit(unit), line) for unit in units]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: arrays[name].mean(axis=1) for name in names}, arrays


def _read_benchmarks(plan: MeasuringPlan, units: list[Unit], line: Line) -> tuple[Arrays, Arrays]:
    """Errors by benchmark, or of few shots by count, and all arrays."""
    values: Arrays = {}
    arrays: Arrays = {}
    for unit in units:
        found = _of_line(read_unit(unit), line)
        arrays |= found
        if unit.test == DETECTION:
            values[unit.benchmark] = image_means(found["errors"])
        elif unit.test == FEW_SHOT:
            counts = map(str, plan.config.few_shot.counts)
            values = dict(zip(counts, found["errors"], strict=True))
    return values, arrays


def _of_line(arrays: Arrays, line: Line) -> Arrays:
    prefix = f"{line.name}/"
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
