"""What a run of `scemae tables` will measure: subjects, data, units; what is wrong shows here, before the first begins."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scemae.config.schema.evaluation import TablesConfig
from scemae.distributed.process_group import Place, precision
from scemae.errors import ConfigError, RunFolderError
from scemae.evaluation import subjects
from scemae.evaluation.landmarks.pairs import Pairs, build_pairs
from scemae.evaluation.landmarks.testsets import find_testsets
from scemae.evaluation.subjects import DETECTION, FEW_SHOT, MATCHING, Line, Subject
from scemae.evaluation.tables.measure import Measure, Unit
from scemae.files import arrays
from scemae.models.vit import Encoder

KINDS = ("same", "different")


class Plan:
    """Subjects, data and units of one run of `scemae tables`; whatever is wrong shows before the first unit begins."""

    def __init__(self, config: TablesConfig, place: Place) -> None:
        """Raises ConfigError, CheckpointError, ShardError."""
        self.config, self.place = config, place
        self.data, self.missing = find_testsets(
            config.shards,
            config.cache_dir,
            train_on=dict(config.detection.train_on),
            hold_out=dict(config.detection.hold_out),
        )
        if not self.data:
            raise ConfigError(
                f"shards: found no split of a benchmark in {', '.join(config.shards) or 'nothing'}; give the "
                "folders that `scemae shards build` wrote, as shards=[data/celeba,data/aflw]"
            )
        self.subjects = subjects.from_runs([Path(run) for run in config.runs])
        ours = next(
            (one.trunk.network for one in self.subjects if isinstance(one.trunk.network, Encoder)),
            None,
        )
        self.subjects += [subjects.of_timm(name, config.seed) for name in config.timm]
        self.floors = subjects.floors(ours, config.seed) if config.floors else []
        if not self.subjects and not self.floors:
            raise ConfigError(
                "found nothing to measure; give run folders of `scemae pretrain` or `scemae correspond`"
            )
        self.measure = Measure(
            config, place.device, precision(config.runtime.precision, place.device)
        )
        self.matched = {
            one.title + one.digest: self.measure.matching(one, self.pairs)
            for one in self.everyone
            if self.pairs is not None
        }
        self.seen = {
            (one.title + one.digest, name): self.measure.benchmark(one, name, data, name == "mafl")
            for one in self.everyone
            for name, data in self.data.items()
        }

    @property
    def everyone(self) -> list[Subject]:
        return [*self.floors, *self.subjects]

    @property
    def units(self) -> list[Unit]:
        return [
            unit
            for one in self.everyone
            for unit in [
                *self.matched.get(one.title + one.digest, []),
                *(unit for name in self.data for unit in self.seen[one.title + one.digest, name]),
            ]
        ]

    @cached_property
    def pairs(self) -> Pairs | None:
        """The matching test's pairs, or None where MAFL's test images are not at hand."""
        if "mafl" not in self.data:
            return None
        frames, asked = self.data["mafl"].frames("test"), self.config.matching
        return build_pairs(frames, seed=asked.seed, couples=min(asked.couples, len(frames) // 2))

    @property
    def facts(self) -> dict[str, Any]:
        """What provenance.json says beside the settings."""
        return {
            "seed": self.config.seed,
            "pairs_hash": self.pairs.hash if self.pairs else None,
            "subjects": [
                {"title": one.title, "digest": one.digest, "runs": one.runs}
                for one in self.everyone
            ],
        }


@dataclass
class Found:
    """The numbers of one line of one subject on one test."""

    subject: Subject
    line: Line
    values: dict[str, np.ndarray]  # column to errors (n,), or of few shots (seeds, n)
    arrays: dict[str, np.ndarray]


def find(plan: Plan, test: str) -> Iterator[Found]:
    """What was measured of every line of one test, in the order of subjects; all units must be done."""
    for one in plan.everyone:
        key, lines = one.title + one.digest, one.of(test)
        if test == MATCHING:
            parts = [_read(unit) for unit in plan.matched.get(key, [])]
            arrays = (
                {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                if parts
                else {}
            )
            for line in lines if parts else []:
                mine = _of(arrays, line)
                yield Found(one, line, {kind: mine[kind].mean(axis=1) for kind in KINDS}, mine)
            continue
        for line in lines:
            values, kept = {}, {}
            for name in plan.data:
                for unit in plan.seen[key, name]:
                    if not unit.title.startswith(f"{test},"):
                        continue
                    mine = _of(_read(unit), line)
                    kept |= mine
                    if test == DETECTION:
                        values[name] = mine["errors"].mean(axis=1)
                    elif test == FEW_SHOT:
                        values = dict(zip(map(str, plan.config.few_shot.counts), mine["errors"]))
            if kept:
                yield Found(one, line, values, kept)


def _read(unit: Unit) -> dict[str, np.ndarray]:
    found = arrays.read(
        unit.path, error=RunFolderError, remedy="remove it, and it is measured again"
    )
    return {name: value for name, value in found.items() if name not in ("title", "chosen")}


def _of(arrays: dict[str, np.ndarray], line: Line) -> dict[str, np.ndarray]:
    prefix = f"{line.name}/"
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
