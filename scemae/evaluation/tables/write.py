"""Write tables as Markdown, LaTeX, CSV, JSON and an HTML page."""

import csv
import io
from dataclasses import replace
from pathlib import Path

from scemae.errors import RunFolderError
from scemae.evaluation.page import html_page
from scemae.evaluation.tables.cells import (
    SPECS,
    Cell,
    Difference,
    Row,
    Tables,
    check,
    from_json,
    label,
    to_json,
)
from scemae.evaluation.tables.grid import contrasts, facts_in_words, headline, lay_out, stated_facts
from scemae.evaluation.tables.paper import paper_notes, paper_rows, paper_silhouettes
from scemae.evaluation.tables.typeset import HEADS, latex, markdown
from scemae.files import disk

__all__ = [
    "Cell",
    "Difference",
    "Row",
    "Tables",
    "csv_text",
    "from_json",
    "html",
    "label",
    "latex",
    "markdown",
    "to_json",
    "write",
]

FIGURES = {
    "figure1": "Similarity maps",
    "figure4": "Matches on pairs of faces",
    "figure5": "Landmarks in feature space",
}

NO_FACES = {"figure5"}  # figures that may be shown where faces may not


ROW_FACTS = ["method", "model", "role", "parameters", "dim", "hypercolumn", "cluster", "lcr"]
ROW_FACTS += ["images_seen", "run"]
CELL_FACTS = ("mean", "low", "high", "sd", "n", "missing")


def csv_text(tables: Tables) -> str:
    """A line for each row and column of each table, numbers in full, with the paper's numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    paper = ("paper_mean", "paper_sd")
    head = ["table", "row", "column", *CELL_FACTS, *paper, *ROW_FACTS, "subset", "reduced"]
    writer.writerow(head)
    for number in SPECS:
        grid = lay_out(tables, number)
        default = tables.benchmarks.get(grid.spec.benchmarks[0], {}).get("subset")
        for line in (line for _, lines in grid.groups for line in lines):
            facts = [getattr(line.row, name) for name in ROW_FACTS]
            for column, entry in zip(grid.columns, line.entries, strict=True):
                cell = [getattr(entry.cell, name) for name in CELL_FACTS]
                printed = (entry.paper.mean, entry.paper.sd) if entry.paper else (None, None)
                notes = column.subset or default, "; ".join(tables.reduced)
                row = [number, label(line.row), column.name, *cell, *printed, *facts, *notes]
                writer.writerow(row)
    return out.getvalue()


def html(tables: Tables) -> str:
    """One self-contained page: nothing fetched, no JavaScript, figures inside."""
    grids = {number: lay_out(tables, number) for number in SPECS}
    papers = {
        number: lay_out(
            Tables([replace(row, role="reference") for row in paper_rows(number)]), number
        )
        for number in SPECS
    }
    return html_page.render(
        Path(__file__).with_name("tables.html"),
        tables=tables,
        grids=grids,
        papers=papers,
        notes=paper_notes,
        silhouettes=paper_silhouettes(),
        label=label,
        heads=HEADS,
        figures=FIGURES,
        contrasts=contrasts,
        headline=headline,
        stated_facts=stated_facts,
        flat=facts_in_words,
    )


def write(tables: Tables, folder: Path, with_pictures: bool = True) -> list[Path]:
    """Write tables.md, .tex, .csv, .json and .html into `folder`; return their paths.

    Each is written whole or not at all; without pictures none shows a face. Raises RunFolderError
    before any is written where a row cannot be shown, and where the disk fails.
    """
    check(tables)
    if not with_pictures:
        left_out = dict.fromkeys(
            tables.figures.keys() - NO_FACES, "left out: pictures of faces were not asked for"
        )
        tables = replace(
            tables,
            figures={name: uri for name, uri in tables.figures.items() if name in NO_FACES},
            missing_figures=tables.missing_figures | left_out,
        )
    texts = {
        "tables.json": to_json(tables),
        "tables.csv": csv_text(tables),
        "tables.md": markdown(tables),
        "tables.tex": latex(tables, is_standalone=True),
        "tables.html": html(tables),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            disk.write_text(folder / name, text)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: the tables cannot be written ({error}); give a folder with room"
        ) from error
    return [folder / name for name in texts]
