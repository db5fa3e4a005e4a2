"""Records of measured rows, the facts of the paper's four tables and one of ours, and
tables.json.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from typing import Any

from scemae.errors import RunFolderError
from scemae.files import documents

ROLES = ("ours", "rival", "reference", "floor")
NAME, AGAIN = "tables.json: found no tables of this version", "make them again"
FORMAT = 1  # of tables.json


@dataclass
class Cell:
    """A mean with its 95 % interval or its standard deviation, or a sentence why there is none."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    sd: float | None = None  # over seeds in table 3, else over pairs or images
    n: int | None = None  # pairs, images or seeds behind the mean
    missing: str | None = None


@dataclass
class Row:
    """One method in one table; `cells` by column, as `Spec.columns` names them."""

    table: int
    method: str  # "SCE-MAE", "CL", "LEAD", "DVE", "raw pixels", "no motion", ...
    model: str  # "DeiT-T", "ResNet-50", "hourglass" or ""
    role: str  # one of ROLES; a floor needs no learned features
    parameters: int | None  # of the trunk alone (PROTOCOL 1.3)
    dim: int | None  # channels of the features
    cells: dict[str, Cell]
    hypercolumn: bool | None = None
    cluster: bool | None = None
    lcr: bool | None = None
    images_seen: int | None = None  # in pretraining
    run: str | None = None  # folder or digest of the weights


@dataclass
class Difference:
    """First minus second, by label, on the same pairs or images: negative where the first errs
    less.
    """

    table: int
    column: str
    first: str
    second: str
    mean: float
    low: float
    high: float
    n: int
    wins: float  # share of pairs or images on which the first errs strictly less
    is_decided: bool  # the interval excludes zero


@dataclass
class Tables:
    """Everything that the tables and figures of one run show.

    benchmarks: by name; title, train, test, official_train, official_test (counts), subset and
    missing (sentences or None). facts["missing_tables"]: sentences why a table has no rows, by its
    number as text. figures: data URIs by "figure1", "figure4", "figure5".
    """

    rows: list[Row] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    reduced: list[str] = field(default_factory=list)  # departures, such as "32 of 500 couples"
    benchmarks: dict[str, dict] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    figure_facts: dict[str, dict] = field(default_factory=dict)
    missing_figures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """The facts of one table: 1 to 4 are the paper's, 5 is ours (PROTOCOL 7)."""

    number: int
    title: str
    section: str | None  # of the paper; None: ours
    measure: str  # smaller is better in all of the paper's
    unit: str
    columns: dict[str, str]  # head by name
    benchmarks: tuple[str, ...]  # whose test images are used
    headline: str  # the column that a summary quotes
    is_by_dim: bool = False  # one group per feature dimension; else one group
    marks: tuple[str, ...] = ()  # fields of Row in columns of yes and no
    unranked: tuple[str, ...] = ()  # columns of which less is not better
    has_parameters: bool = True
    # PROTOCOL 8, rule 2
    facts: tuple[str, ...] = ("unit", "warping", "stride", "seed", "pairs_hash", "exclusions")


MATCHED = {"same": "Same", "different": "Diff."}
DETECTED = {
    "mafl": "MAFL",
    "aflw_m": "AFLW_M",
    "aflw_r": "AFLW_RO",
    "aflw_rc": "AFLW_RC",
    "300w": "300W",
}
SPECS = {
    1: Spec(
        number=1,
        title="Landmark matching",
        section="4.1",
        measure="Mean pixel error",
        unit="px",
        columns=MATCHED,
        benchmarks=("mafl",),
        headline="different",
        is_by_dim=True,
    ),
    2: Spec(
        number=2,
        title="Landmark detection with all annotated samples",
        section="4.2",
        measure="Inter-ocular distance (%)",
        unit="%",
        columns=DETECTED,
        benchmarks=tuple(DETECTED),
        headline="mafl",
        marks=("hypercolumn",),
        facts=("seed", "exclusions"),
    ),
    3: Spec(
        number=3,
        title="Landmark detection with limited annotated samples",
        section="4.2",
        measure="Inter-ocular distance (%) by number of annotated samples, mean ± standard "
        "deviation over seeds",
        unit="%",
        columns={count: count for count in ("1", "5", "10", "20", "50", "100")},
        benchmarks=("aflw_m",),
        headline="10",
        is_by_dim=True,
        has_parameters=False,
        facts=("seed", "seeds", "exclusions"),
    ),
    4: Spec(
        number=4,
        title="Component-wise ablation on landmark matching",
        section="4.3",
        measure="Mean pixel error",
        unit="px",
        columns=MATCHED,
        benchmarks=("mafl",),
        headline="different",
        marks=("cluster", "lcr"),
        has_parameters=False,
    ),
    5: Spec(
        number=5,
        title="Position and content of the features",
        section=None,
        measure="Mean pixel error on a different identity, and the share of the features' variance "
        "that their place explains",
        unit="px",
        columns={
            "different": "All",
            "content": "Content only",
            "position": "Position only",
            "share": "Position share (%)",
        },
        benchmarks=("mafl",),
        headline="content",
        has_parameters=False,
        unranked=("position", "share"),
    ),
}


def label(row: Row) -> str:
    """A row's name in lists and in `Difference`: "CL ResNet-50, 128-d"."""
    words = " ".join(word for word in (row.method, row.model) if word)
    parts = [words] + ([f"{row.dim}-d"] if row.dim is not None else [])
    steps = [
        name
        for name, used in (("clustering", row.cluster), ("LCR", row.lcr))
        if row.table == 4 and used
    ]
    return " + ".join([", ".join(parts), *steps])


def to_json(tables: Tables) -> str:
    """JSON of `tables`; numpy numbers become plain ones, unknown types such as paths text."""
    return json.dumps(
        {"format": FORMAT, **asdict(tables)}, indent=1, ensure_ascii=False, default=_plain
    )


def from_json(text: str) -> Tables:
    """The inverse of `to_json`. Raises RunFolderError for another text."""
    found = documents.parse_json(
        text, dict[str, Any], NAME, error=RunFolderError, remedy=AGAIN, finite=False
    )
    if found.get("format") != FORMAT:
        raise RunFolderError(
            f"{NAME} (format {str(found.get('format'))[:40]}, needed {FORMAT}); {AGAIN}"
        )
    known = {part.name for part in fields(Tables)}
    if odd := ({"rows", "differences"} - found.keys()) | (found.keys() - known - {"format"}):
        raise RunFolderError(f"{NAME} ({min(odd)} is missing or unknown); {AGAIN}")
    tables = documents.convert(found, Tables, NAME, error=RunFolderError, remedy=AGAIN)
    check(tables)
    return tables


def check(tables: Tables) -> None:
    """Raise RunFolderError naming the first row or difference that no table can show."""
    for row in tables.rows:
        if row.table not in SPECS or row.role not in ROLES:
            raise RunFolderError(
                f"{label(row)}: found table {row.table} and role {row.role!r}, needed a table of "
                f"{', '.join(map(str, SPECS))} and a role of {', '.join(ROLES)}; measure it again"
            )
        for name, cell in row.cells.items():
            _check_finite(f"table {row.table}, {label(row)}, {name}", cell)
            is_unknown = row.table in (1, 4, 5) and name not in SPECS[row.table].columns
            if is_unknown or row.table == 3 and not name.isdigit():
                raise RunFolderError(
                    f"table {row.table}, {label(row)}: found the column {name!r}, needed one of "
                    f"{', '.join(SPECS[row.table].columns)}; measure it again"
                )
    for found in tables.differences:
        _check_finite(
            f"table {found.table}, {found.first} minus {found.second}, {found.column}", found
        )


def _plain(value: object) -> object:
    return value.item() if hasattr(value, "item") else str(value)


def _check_finite(where: str, found: Cell | Difference) -> None:
    numbers = {one.name: getattr(found, one.name) for one in fields(found)}
    wrong = {
        name: value
        for name, value in numbers.items()
        if isinstance(value, Real) and not math.isfinite(value)
    }
    if wrong or (found.low is None) != (found.high is None):
        raise RunFolderError(
            f"{where}: found {wrong or 'half an interval'}, needed finite numbers or a sentence "
            "why there are none; measure it again"
        )
