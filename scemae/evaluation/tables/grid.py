"""The paper's tables laid out from measured rows: columns, groups, best and second best, notes; no
format yet.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from scemae.evaluation.tables.cells import SPECS, Cell, Difference, Row, Spec, Tables, label
from scemae.evaluation.tables.paper import find_paper

NO_NUMBER = "not measured"


@dataclass
class Entry:
    """A cell in its place."""

    cell: Cell
    rank: int = 0  # 1 best, 2 second best of its group, else 0
    mark: str = ""  # of the note that says why there is no number
    paper: Cell | None = None  # the paper's number for the same method, model and dimension


@dataclass
class Line:
    """A row in its place."""

    row: Row
    entries: list[Entry]


@dataclass
class Column:
    """A column's head, what is less than official in it, and the size of its largest number."""

    name: str
    head: str
    subset: str | None
    top: float


@dataclass
class Grid:
    """One table laid out: what Markdown, LaTeX and the page have in common."""

    spec: Spec
    columns: list[Column]
    groups: list[tuple[str, list[Line]]]
    notes: dict[str, str]  # mark to the reason of missing numbers
    labels: list[str]  # sentences that must stand under the table
    differences: list[Difference]
    empty: str | None  # why there are no rows


def lay_out(tables: Tables, number: int) -> Grid:
    """Table `number` of the paper from its measured rows, in their order within each group; floors
    stand last.
    """
    spec = SPECS[number]
    rows = [row for row in tables.rows if row.table == number]
    titles = _columns(spec, rows, tables)
    why: dict[str, str] = {}
    groups = [
        (title, [_line(row, titles, tables, why) for row in members])
        for title, members in _groups(spec, rows)
    ]
    for _, lines in groups:
        _rank([line for line in lines if line.row.role != "floor"])
    columns = [
        Column(
            name,
            head,
            _benchmark(tables, name).get("subset") if number == 2 else None,
            _top(groups, i),
        )
        for i, (name, head) in enumerate(titles.items())
    ]
    return Grid(
        spec,
        columns,
        groups,
        {mark: text for text, mark in why.items()},
        _labels(tables, spec, set(why)),
        [found for found in tables.differences if found.table == number],
        None if rows else _reason(tables, spec),
    )


def contrasts(grid: Grid) -> list[tuple[str, str, dict[str, Difference]]]:
    """The differences by pair, first and second label, then by column; pairs with a row of ours
    come first.
    """
    ours = {
        label(line.row) for _, lines in grid.groups for line in lines if line.row.role == "ours"
    }
    pairs: dict[tuple[str, str], dict[str, Difference]] = {}
    for found in grid.differences:
        pairs.setdefault((found.first, found.second), {})[found.column] = found
    return [
        (*pair, found)
        for pair, found in sorted(pairs.items(), key=lambda item: not ours & set(item[0]))
    ]


def headline(grid: Grid) -> dict | None:
    """Our best row and the best rival's in the column that stands for the table: column, names,
    cells, difference.

    None where no row of ours has a number; rival and difference are None where there is none.
    """
    lines = [line for _, members in grid.groups for line in members]
    measured = {
        column.name: i
        for i, column in enumerate(grid.columns)
        if any(line.row.role == "ours" and line.entries[i].cell.mean is not None for line in lines)
    }
    if not measured:
        return None
    at = measured.get(grid.spec.headline, min(measured.values()))
    best = {
        role: min(
            (
                line
                for line in lines
                if line.row.role == role and line.entries[at].cell.mean is not None
            ),
            key=lambda line: line.entries[at].cell.mean,
            default=None,
        )
        for role in ("ours", "rival")
    }
    names = {role: label(line.row) if line else None for role, line in best.items()}
    taken = [
        one
        for one in grid.differences
        if one.column == grid.columns[at].name
        and (one.first, one.second) == (names["ours"], names["rival"])
    ]
    return {
        "column": grid.columns[at],
        "names": names,
        "difference": taken[0] if taken else None,
        "cells": {role: line.entries[at].cell if line else None for role, line in best.items()},
    }


def said(tables: Tables, grid: Grid) -> list[tuple[str, str]]:
    """The facts that must stand with a table's numbers (PROTOCOL 8), as words."""
    return [
        (name.replace("_", " "), _short(tables.facts[name]))
        for name in grid.spec.facts
        if tables.facts.get(name) is not None
    ]


def flatten(facts: dict, prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as (dotted name, words)."""
    found: list[tuple[str, str]] = []
    for name, value in facts.items():
        found += (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else [(f"{prefix}{name}", _words(value))]
        )
    return found


def _columns(spec: Spec, rows: list[Row], tables: Tables) -> dict[str, str]:
    """Name to head: the paper's columns, and in Tables 2 and 3 whatever else was measured."""
    more = {name: name for row in rows for name in row.cells if name not in spec.columns}
    titles = {
        name: _benchmark(tables, name).get("title") or head
        for name, head in (spec.columns | more).items()
    }
    return (
        dict(sorted(titles.items(), key=lambda item: int(item[0]))) if spec.number == 3 else titles
    )


def _benchmark(tables: Tables, name: str) -> dict:
    return tables.benchmarks.get(name, {})


def _groups(spec: Spec, rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    learned = [row for row in rows if row.role != "floor"]
    dims = sorted({row.dim or 0 for row in learned}) if spec.is_by_dim else []
    if learned and not spec.is_by_dim:
        yield "", learned
    for dim in dims:
        yield (
            (f"{dim} channels" if dim else "no fixed width"),
            [row for row in learned if (row.dim or 0) == dim],
        )
    if len(learned) < len(rows):
        yield "floors, without learned features", [row for row in rows if row.role == "floor"]


def _line(row: Row, columns: dict[str, str], tables: Tables, why: dict[str, str]) -> Line:
    """`row` in its place; each reason for a missing number gets its letter in `why`."""
    paper, entries = find_paper(row), []
    for name in columns:
        cell = row.cells.get(name) or Cell(
            missing=_benchmark(tables, name).get("missing") if row.table == 2 else None
        )
        if cell.mean is None:
            cell = Cell(missing=cell.missing or NO_NUMBER, n=cell.n)
            why.setdefault(cell.missing, _letters(len(why)))
        entries.append(
            Entry(cell, 0, why.get(cell.missing, ""), paper.cells.get(name) if paper else None)
        )
    return Line(row, entries)


def _letters(i: int) -> str:
    return (_letters(i // 26 - 1) if i >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[i % 26]


def _rank(lines: list[Line]) -> None:
    """Mark the best and second best of each column, as printed: equal to two digits is equal. One
    alone is neither.
    """
    for entries in zip(*(line.entries for line in lines)):
        shown = [round(entry.cell.mean, 2) for entry in entries if entry.cell.mean is not None]
        best = (
            {value: rank for rank, value in enumerate(sorted(set(shown))[:2], 1)}
            if len(shown) > 1
            else {}
        )
        for entry in entries:
            entry.rank = (
                best.get(round(entry.cell.mean, 2), 0) if entry.cell.mean is not None else 0
            )


def _top(groups: list[tuple[str, list[Line]]], column: int) -> float:
    """The largest number of a column, the paper's too; floors only where there is nothing else."""
    entries = [(line.row.role, line.entries[column]) for _, lines in groups for line in lines]
    values = [
        max(
            entry.cell.mean + (entry.cell.sd or 0) if entry.cell.high is None else entry.cell.high,
            entry.paper.mean if entry.paper else 0,
        )
        for role, entry in entries
        if entry.cell.mean is not None and role != "floor"
    ]
    return (
        max(
            values or [entry.cell.mean for _, entry in entries if entry.cell.mean is not None],
            default=0.0,
        )
        or 1.0
    )


def _labels(tables: Tables, spec: Spec, told: set[str]) -> list[str]:
    """What must stand under a table whatever it shows; `told` are reasons that its notes give
    already.
    """
    reduced = (
        [f"Reduced schedule, not the full protocol: {'; '.join(tables.reduced)}."]
        if tables.reduced
        else []
    )
    return reduced + [
        f"{_benchmark(tables, name).get('title', name)}: {words}."
        for name in spec.benchmarks
        for words in (
            _benchmark(tables, name).get("subset"),
            _benchmark(tables, name).get("missing"),
        )
        if words and words not in told
    ]


def _reason(tables: Tables, spec: Spec) -> str:
    given = tables.facts.get("missing_tables", {}).get(str(spec.number))
    needed = " and ".join(
        _benchmark(tables, name).get("title", name) for name in spec.benchmarks[:1]
    )
    return (
        given
        or f"no method was measured for table {spec.number}; give shards of {needed} and run `scemae tables` again"
    )


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {words}" for name, words in flatten(value))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value)) or "none"
    return (
        {True: "yes", False: "no", None: "–"}[value]
        if value is None or isinstance(value, bool)
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )


def _short(value: object) -> str:
    words = _words(value)
    return words[:16] + "…" if len(words) > 32 and set(words) <= set("0123456789abcdef") else words
