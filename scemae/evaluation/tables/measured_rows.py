"""From measured arrays to the rows of tables: cells with intervals, differences, departures."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scemae.config.dotted import flatten
from scemae.config.load import load_config
from scemae.distributed import tf32
from scemae.evaluation import protocol, scores
from scemae.evaluation.landmarks import matching, regression
from scemae.evaluation.landmarks.benchmarks import benchmark_names, find_benchmark
from scemae.evaluation.landmarks.pairs import KINDS
from scemae.evaluation.landmarks.position import PARTS
from scemae.evaluation.measuring.plan import MeasuredLine, MeasuringPlan, read_measured
from scemae.evaluation.subject import (
    CONTENT,
    DETECTION,
    EMBEDDING,
    FEW_SHOT,
    FLOOR,
    MATCHING,
    OURS,
    PLACES,
)
from scemae.evaluation.tables import figure_data
from scemae.evaluation.tables.cells import Cell, Difference, Row, Tables, label
from scemae.runs import run_folder

COUPLES = "matching.couples"


def make_tables(plan: MeasuringPlan) -> Tables:
    """Turn measured numbers into the rows of all tables, and draw the figures."""
    found = {
        test: list(read_measured(plan, test)) for test in (MATCHING, DETECTION, FEW_SHOT, EMBEDDING)
    }
    measured = [
        (_row(plan, one), one) for test in (MATCHING, DETECTION, FEW_SHOT) for one in found[test]
    ]
    measured += [(_row(plan, one, table=4), one) for one in _whole_method(found[MATCHING])]
    measured += _content_rows(plan, found[MATCHING])
    tables = Tables(
        [*_floor_rows(plan), *(row for row, _ in measured)],
        list(_differences(measured, plan.config.seed)),
        departures(plan),
        _benchmarks(plan),
        _facts(plan),
    )
    figure_data.add_figures(tables, plan, found)
    return tables


def _row(plan: MeasuringPlan, one: MeasuredLine, *, table: int | None = None) -> Row:
    subject, line = one.subject, one.line
    table = table or line.table
    cells = {column: _cell(values, plan.config.seed) for column, values in one.values.items()}
    for column in columns(plan, table):
        cells.setdefault(column, Cell(missing=_why(plan, table, column)))
    name = line.name if subject.role == FLOOR else subject.method
    if word := ", ".join(filter(None, (subject.run, line.variant))):
        name += f" ({word})"
    if table == 2 and line.name == "raw":
        name += ", stage 1 alone"
    if table == 5 and line.table == 4:  # else several rows would have one name
        name += f", {line.name}"
    return Row(
        table,
        name,
        subject.trunk.model if subject.role != FLOOR else "",
        subject.role,
        subject.trunk.parameters or None,
        line.dim,
        cells,
        line.hypercolumn,
        line.cluster,
        line.lcr,
        subject.images_seen,
        ", ".join(subject.runs) or None,
    )


def _content_rows(
    plan: MeasuringPlan, matched: list[MeasuredLine]
) -> Iterator[tuple[Row, MeasuredLine]]:
    """Table 5: each row that matches, with its errors by content and by position alone."""
    places = {(one.subject.digest, one.line.name): one for one in read_measured(plan, PLACES)}
    parts = {(one.subject.digest, one.line.name): one for one in read_measured(plan, CONTENT)}
    for one in matched:
        key = one.subject.digest, one.line.name
        if key in parts:
            values = {part: parts[key].values[f"{part}/different"] for part in PARTS}
            values = {"different": one.values["different"], **values}
            row = _row(plan, replace(one, values=values), table=5)
            found = places[key].arrays
            row.cells["share"] = Cell(100 * float(found["share"]), n=int(found["images"]))
            compared = {name: values[name] for name in ("different", "content")}
            yield row, replace(one, values=compared)


def _cell(values: np.ndarray, seed: int) -> Cell:
    if values.ndim == 2:  # seeds, images
        means = values.mean(axis=1)
        return Cell(
            float(means.mean()),
            sd=float(means.std(ddof=1)) if len(means) > 1 else None,
            n=len(means),
        )
    estimate = scores.bootstrap(values, seed=seed)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return Cell(estimate.mean, estimate.low, estimate.high, deviation, len(values))


def columns(plan: MeasuringPlan, table: int) -> list[str]:
    """The columns of one table."""
    return {
        1: list(KINDS),
        4: list(KINDS),
        5: ["different", *PARTS, "share"],
        2: _detected(plan),
        3: list(map(str, plan.config.few_shot.counts)),
    }[table]


def _detected(plan: MeasuringPlan) -> list[str]:
    """The paper's benchmarks, then those of own points."""
    known = benchmark_names()
    return [*known, *(name for name in {**plan.data, **plan.missing} if name not in known)]


def _why(plan: MeasuringPlan, table: int, column: str) -> str:
    """Why a cell is empty, and what would fill it."""
    name = {2: column, 3: plan.config.few_shot.benchmark}.get(table, "mafl")
    if name in plan.missing:
        return plan.missing[name]
    if plan.data[name].train is None:
        return (
            f"no training shards of {find_benchmark(name).title}; give their folder in shards, or "
            f"detection.train_on.{name}=ANOTHER"
        )
    if table == 2:
        return f"detection.benchmarks leaves {name} out"
    return "not measured for this kind of features"


def _floor_rows(plan: MeasuringPlan) -> Iterator[Row]:
    """No motion in Table 1 and the mean face in Table 2."""
    if not plan.config.floors:
        return
    seed = plan.config.seed
    if plan.pairs is not None:
        still = matching.no_motion(plan.pairs)
        cells = {kind: _cell(getattr(still, kind).mean(axis=1), seed) for kind in KINDS}
        yield Row(1, "no motion", "", FLOOR, None, None, cells)
    cells = {}
    for name in _detected(plan):
        data = plan.data.get(name)
        if data is None or data.train is None or not plan.measure.is_requested(name):
            cells[name] = Cell(missing=_why(plan, 2, name))
        else:
            train = data.frames("train", plan.config.detection.limit).landmarks
            test, eyes = data.frames("test").landmarks, data.benchmark.eyes
            cells[name] = _cell(regression.mean_face_errors(train, test, eyes), seed)
    yield Row(2, "mean face", "", FLOOR, None, None, cells)


def _whole_method(found: list[MeasuredLine]) -> list[MeasuredLine]:
    """Table 4's last row: of each of our trunks the projector with the highest dimension."""
    whole = [one for one in found if one.subject.role == OURS and one.line.lcr]
    whole.sort(key=lambda one: one.line.dim)
    return list({one.subject.digest: one for one in whole}.values())


def _differences(measured: list[tuple[Row, MeasuredLine]], seed: int) -> Iterator[Difference]:
    """Each row of ours minus each other row of its table, on the same pairs (PROTOCOL 8)."""
    for i, (mine, one) in enumerate(measured):
        if one.subject.role != OURS or mine.table == 3:
            continue
        for j, (theirs, other) in enumerate(measured):
            # Two rows of ours are compared once.
            is_new = other.subject.role != OURS or j < i
            if mine.table == theirs.table and is_new:
                yield from _compare(mine, one, theirs, other, seed)


def _compare(
    mine: Row, one: MeasuredLine, theirs: Row, other: MeasuredLine, seed: int
) -> Iterator[Difference]:
    for column in [name for name in one.values if name in other.values]:
        result = scores.compare(one.values[column], other.values[column], seed=seed)
        gap = result.difference
        yield Difference(
            mine.table,
            column,
            label(mine),
            label(theirs),
            gap.mean,
            gap.low,
            gap.high,
            gap.n,
            result.wins,
            result.is_decided,
        )


def departures(plan: MeasuringPlan) -> list[str]:
    """Settings other than the full protocol's (configs/tables.yaml), a phrase each."""
    full, here = (flatten(one) for one in (load_config("tables", ["run_dir=-"]), plan.config))
    found = [
        f"{key} {here[key]} instead of {full[key]}"
        for key in protocol.EVALUATION
        if key != COUPLES and protocol.is_reduced(key, here[key], full[key])
    ]
    if plan.pairs is not None and len(plan.pairs) < full[COUPLES]:  # of those measured
        found.insert(0, f"{len(plan.pairs)} of {full[COUPLES]} couples")
    return found


def _benchmarks(plan: MeasuringPlan) -> dict[str, dict]:
    found = {}
    for name in _detected(plan):
        benchmark, data = find_benchmark(name), plan.data.get(name)
        found[name] = {
            "title": benchmark.title,
            "train": data.count("train", plan.config.detection.limit) if data else None,
            "test": data.count("test") if data else None,
            "official_train": benchmark.official["train"],
            "official_test": benchmark.official["test"],
            "subset": "; ".join(data.notes) or None if data else None,
            "missing": plan.missing.get(name),
        }
    return found


def _facts(plan: MeasuringPlan) -> dict[str, Any]:
    known = run_folder.provenance(Path(plan.config.run_dir))
    score = scores.MatchingScore.__dataclass_fields__
    return {
        "seed": plan.config.seed,
        "pairs_hash": plan.pairs.hash if plan.pairs else None,
        "couples": len(plan.pairs) if plan.pairs else 0,
        "unit": score["unit"].default,
        "warping": score["warping"].default,
        "stride": plan.config.stride,
        "detection_stride": plan.config.detection.stride,
        "precision": str(plan.dtype).removeprefix("torch."),
        "tf32": tf32.state(),
        "exclusions": [
            f"{name}: {reason} ({count:,})"
            for name, data in plan.data.items()
            for reason, count in data.test.manifest.excluded.items()
        ],
        **{key: known[key] for key in ("commit", "command", "hardware", "time") if key in known},
    }
