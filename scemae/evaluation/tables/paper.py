"""The paper's own numbers (paper.yaml): rows of Tables 1 to 4, and Figure 5's coefficients."""

from functools import cache
from pathlib import Path
from typing import Any

from scemae.evaluation.tables.cells import Cell, Row
from scemae.files import documents

PAPER = Path(__file__).with_name("paper.yaml")
BASELINE = "Baseline"  # Table 4's name for SCE-MAE's features without clustering and loss


@cache
def paper_rows(number: int) -> tuple[Row, ...]:
    """The paper's own rows of Table `number` (paper.yaml), none of a table of ours; `model` or
    `dim` is "" or None where it is not known.
    """
    known = _paper()["tables"].get(number, {"rows": ()})
    return tuple(_paper_row(number, found) for found in known["rows"])


def paper_notes(number: int) -> list[str]:
    """Notes on oddities of the paper's Table `number` (PROTOCOL 1.2, 1.5)."""
    return _paper()["tables"][number]["notes"]


def paper_silhouettes() -> dict[str, list[float]]:
    """The Silhouette Coefficients of the paper's Figure 5, [mean, standard deviation] by method."""
    return _paper()["figure5"]


def find_paper(row: Row) -> Row | None:
    """The paper's row of the same method, model and dimension (and, in Table 4, marks), or None."""
    if row.role not in ("ours", "rival"):
        return None
    return next((other for other in paper_rows(row.table) if _agree(row, other)), None)


@cache
def _paper() -> dict:
    return documents.read_yaml(PAPER, dict[str, Any])


def _paper_row(number: int, found: dict) -> Row:
    cells = {
        name: Cell(value[0], sd=value[1]) if isinstance(value, list) else Cell(value)
        for name, value in found["cells"].items()
    }
    millions = found.get("parameters")
    role = "ours" if found["method"] in ("SCE-MAE", BASELINE) else "rival"
    return Row(
        number,
        found["method"],
        found["model"] or "",
        role,
        None if millions is None else round(millions * 1e6),
        found["dim"],
        cells,
        found.get("hypercolumn"),
        found.get("cluster"),
        found.get("lcr"),
    )


def _agree(row: Row, paper: Row) -> bool:
    method = "SCE-MAE" if paper.method == BASELINE else paper.method
    if row.table == 4:
        marks = bool(row.cluster), bool(row.lcr)
        if marks != (bool(paper.cluster), bool(paper.lcr)):
            return False
    return (
        row.method in (method, paper.method)
        and paper.model in ("", row.model)
        and paper.dim in (None, row.dim)
    )
