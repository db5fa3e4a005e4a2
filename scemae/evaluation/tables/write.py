"""The written tables: Markdown, LaTeX, CSV, JSON and an HTML page from measured rows."""

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
from scemae.evaluation.tables.grid import contrasts, flatten, headline, lay_out, said
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

NO_FACES = {"figure5"}


def csv_text(tables: Tables) -> str:
    """One line for each row and column of each table, numbers in full, the paper's beside them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    facts = (
        "method",
        "model",
        "role",
        "parameters",
        "dim",
        "hypercolumn",
        "cluster",
        "lcr",
        "images_seen",
        "run",
    )
    cell = ("mean", "low", "high", "sd", "n", "missing")
    writer.writerow(
        ["table", "row", "column", *cell, "paper_mean", "paper_sd", *facts, "subset", "reduced"]
    )
    for number in SPECS:
        grid = lay_out(tables, number)
        for line in (line for _, lines in grid.groups for line in lines):
            for column, entry in zip(grid.columns, line.entries):
                subset = column.subset or tables.benchmarks.get(grid.spec.benchmarks[0], {}).get(
                    "subset"
                )
                writer.writerow(
                    [
                        number,
                        label(line.row),
                        column.name,
                        *(getattr(entry.cell, name) for name in cell),
                        entry.paper and entry.paper.mean,
                        entry.paper and entry.paper.sd,
                        *(getattr(line.row, name) for name in facts),
                        subset,
                        "; ".join(tables.reduced),
                    ]
                )
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
        said=said,
        flat=flatten,
    )


def write(tables: Tables, folder: Path, with_pictures: bool = True) -> list[Path]:
    """Write tables.md, .tex, .csv, .json and .html into `folder`, each whole or not at all, and
    return their paths.

    Without pictures no face is in any. Raises RunFolderError before any is written where a row
    cannot be shown, and where the disk fails.
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
