"""The paper's tables laid out from measured rows: columns, groups, best and second best, notes.

typeset.py and tables.html print what is laid out here.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scemae.config.dotted import flatten
from scemae.evaluation.tables.cells import SPECS, Cell, Difference, Row, Spec, Tables, label
from scemae.evaluation.tables.paper import find_paper

NO_NUMBER = "not measured"


@dataclass
class GridCell:
    """A cell with its rank and marks."""

    cell: Cell
    rank: int = 0  # 1 best, 2 second best of its group, else 0
    mark: str = ""  # letter of the note that says why there is no number
    paper: Cell | None = None  # the paper's number for the same method, model and dimension


@dataclass
class GridRow:
    """A row with its cells in the order of the columns."""

    row: Row
    entries: list[GridCell]


@dataclass
class Column:
    """A column's head, a note where its data are not the official ones, and its largest number."""

    name: str
    head: str
    subset: str | None
    top: float


@dataclass
class Grid:
    """One table laid out, as Markdown, LaTeX and the page print it."""

    spec: Spec
    columns: list[Column]
    groups: list[tuple[str, list[GridRow]]]
    notes: dict[str, str]  # why numbers are missing, by mark
    labels: list[str]  # sentences that must stand under the table
    differences: list[Difference]
    empty: str | None  # why there are no rows


def lay_out(tables: Tables, number: int) -> Grid:
    """Table `number`; rows keep their order within each group, floors come last."""
    spec = SPECS[number]
    rows = [row for row in tables.rows if row.table == number]
    titles = _columns(spec, rows, tables)
    why: dict[str, str] = {}
    groups = [
        (title, [_place(row, titles, tables, why) for row in members])
        for title, members in _groups(spec, rows)
    ]
    for _, lines in groups:
        _rank([line for line in lines if line.row.role != "floor"], titles, spec.unranked)
    columns = []
    for i, (name, head) in enumerate(titles.items()):
        subset = _benchmark(tables, name).get("subset") if number == 2 else None
        columns.append(Column(name, head, subset, _top(groups, i)))
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
    """Differences by column for each pair of labels; pairs with a row of ours come first."""
    ours = {
        label(line.row) for _, lines in grid.groups for line in lines if line.row.role == "ours"
    }
    pairs: dict[tuple[str, str], dict[str, Difference]] = {}
    for found in grid.differences:
        pairs.setdefault((found.first, found.second), {})[found.column] = found
    ordered = sorted(pairs.items(), key=lambda item: not ours & set(item[0]))
    return [(first, second, found) for (first, second), found in ordered]


def headline(grid: Grid) -> dict | None:
    """Our best row and the best rival's in the table's main column: column, names, cells,
    difference.

    None where no row of ours has a number. The entries of a missing rival and difference are None.
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
    best = {role: _best(lines, role, at) for role in ("ours", "rival")}
    names = {role: label(line.row) if line else None for role, line in best.items()}
    pair = names["ours"], names["rival"]
    column = grid.columns[at]
    differences = (
        one
        for one in grid.differences
        if one.column == column.name and (one.first, one.second) == pair
    )
    return {
        "column": column,
        "names": names,
        "difference": next(differences, None),
        "cells": {role: line.entries[at].cell if line else None for role, line in best.items()},
    }


def _best(lines: list[GridRow], role: str, column: int) -> GridRow | None:
    """The row of a role with the smallest mean in a column."""
    best, least = None, math.inf
    for line in lines:
        mean = line.entries[column].cell.mean
        if line.row.role == role and mean is not None and mean < least:
            best, least = line, mean
    return best


def stated_facts(tables: Tables, grid: Grid) -> list[tuple[str, str]]:
    """The facts that must be stated with a table's numbers (PROTOCOL 8), as (name, text)."""
    return [
        (name.replace("_", " "), _short(tables.facts[name]))
        for name in grid.spec.facts
        if tables.facts.get(name) is not None
    ]


def facts_in_words(facts: dict) -> list[tuple[str, str]]:
    """Nested facts as (dotted name, text)."""
    return [(name, _words(value)) for name, value in flatten(facts).items() if value != {}]


def _columns(spec: Spec, rows: list[Row], tables: Tables) -> dict[str, str]:
    """Head by name: the paper's columns, then any other that was measured (Tables 2 and 3)."""
    more = {name: name for row in rows for name in row.cells if name not in spec.columns}
    titles = {
        name: _benchmark(tables, name).get("title") or head
        for name, head in (spec.columns | more).items()
    }
    if spec.number == 3:
        return dict(sorted(titles.items(), key=lambda item: int(item[0])))
    return titles


def _benchmark(tables: Tables, name: str) -> dict:
    return tables.benchmarks.get(name, {})


def _groups(spec: Spec, rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Titles and rows of the groups: one per dimension or one in all, then the floors."""
    learned = [row for row in rows if row.role != "floor"]
    dims = sorted({row.dim or 0 for row in learned}) if spec.is_by_dim else []
    if learned and not spec.is_by_dim:
        yield "", learned
    for dim in dims:
        title = f"{dim} channels" if dim else "no fixed width"
        yield title, [row for row in learned if (row.dim or 0) == dim]
    if len(learned) < len(rows):
        yield "floors, without learned features", [row for row in rows if row.role == "floor"]


def _place(row: Row, columns: dict[str, str], tables: Tables, why: dict[str, str]) -> GridRow:
    """A row with its cells; each reason for a missing number gets a letter, kept in `why`."""
    paper, entries = find_paper(row), []
    for name in columns:
        cell, mark = row.cells.get(name), ""
        if cell is None:
            missing = _benchmark(tables, name).get("missing") if row.table == 2 else None
            cell = Cell(missing=missing)
        if cell.mean is None:
            reason = cell.missing or NO_NUMBER
            cell = Cell(missing=reason, n=cell.n)
            mark = why.setdefault(reason, _letters(len(why)))
        entries.append(GridCell(cell, 0, mark, paper.cells.get(name) if paper else None))
    return GridRow(row, entries)


def _letters(i: int) -> str:
    return (_letters(i // 26 - 1) if i >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[i % 26]


def _rank(lines: list[GridRow], columns: Iterable[str], unranked: tuple[str, ...]) -> None:
    """Mark the best and second best of each column, rounded as printed. A single number has no
    rank.
    """
    for name, *entries in zip(columns, *(line.entries for line in lines), strict=bool(lines)):
        if name in unranked:
            continue
        shown = [(one, round(one.cell.mean, 2)) for one in entries if one.cell.mean is not None]
        if len(shown) > 1:
            best = sorted({value for _, value in shown})[:2]
            for one, value in shown:
                one.rank = best.index(value) + 1 if value in best else 0


def _top(groups: list[tuple[str, list[GridRow]]], column: int) -> float:
    """The largest number of a column, with the paper's; floors count only where there are no
    others.
    """
    values, floors = [], []
    for line in (line for _, lines in groups for line in lines):
        entry = line.entries[column]
        cell, paper = entry.cell, entry.paper
        if cell.mean is None:
            continue
        floors.append(cell.mean)
        if line.row.role != "floor":
            values.append(cell.mean + (cell.sd or 0) if cell.high is None else cell.high)
            values.append((paper.mean or 0.0) if paper else 0.0)
    return max(values or floors, default=0.0) or 1.0


def _labels(tables: Tables, spec: Spec, noted: set[str]) -> list[str]:
    """Sentences that must stand under a table; reasons in `noted` are in its notes already."""
    labels = []
    if tables.reduced:
        labels.append(f"Reduced schedule, not the full protocol: {'; '.join(tables.reduced)}.")
    for name in spec.benchmarks:
        facts = _benchmark(tables, name)
        for words in (facts.get("subset"), facts.get("missing")):
            if words and words not in noted:
                labels.append(f"{facts.get('title', name)}: {words}.")
    return labels


def _reason(tables: Tables, spec: Spec) -> str:
    """Why a table has no rows."""
    if given := tables.facts.get("missing_tables", {}).get(str(spec.number)):
        return given
    needed = _benchmark(tables, spec.benchmarks[0]).get("title", spec.benchmarks[0])
    return (
        f"no method was measured for table {spec.number}; give shards of {needed} and run "
        "`scemae tables` again"
    )


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {words}" for name, words in facts_in_words(value))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value)) or "none"
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "–"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short(value: object) -> str:
    words = _words(value)
    return words[:16] + "…" if len(words) > 32 and set(words) <= set("0123456789abcdef") else words
