"""CSV files of points: one row for each point (long), for each object (wide), or DeepLabCut's.

long         file,name,x,y            also visible, object, box_left, box_top, box_right, box_bottom
wide         file,nose_x,nose_y,...   also nose_visible and the same; or x0,y0,x1,y1,...
DeepLabCut   rows scorer, bodyparts, coords (and individuals) above those of the pictures

An empty cell is a point that is not seen, as is visible=0. `object` tells several objects of one
picture apart.
"""

import csv
import io
import re
from collections.abc import Iterator

from scemae.errors import DataError
from scemae.shards.annotations.labels import Labels, LabelsBuilder, Place

BOX = ("box_left", "box_top", "box_right", "box_bottom")
LONG = {"file", "name", "x", "y"}
HIDDEN = {"0", "false", "no"}
SHOWN = {"", "1", "2", "true", "yes"}
NEEDED = (
    "file,name,x,y with visible, object or box_left,box_top,box_right,box_bottom where there are "
    "some; or file,NAME_x,NAME_y,... in pairs"
)
HEADERS = ("scorer", "individuals", "bodyparts", "coords")  # DeepLabCut's


def read(text: str, source: str) -> Labels:
    """The points of a CSV file. Raises DataError."""
    try:
        rows = [
            row for row in csv.reader(io.StringIO(text, newline="")) if any(map(str.strip, row))
        ]
    except csv.Error as error:
        raise DataError(f"{source}: cannot be read as CSV ({error}); export it again") from error
    if not rows:
        raise DataError(f"{source}: found no row; give a CSV with the columns {NEEDED}")
    head = [cell.strip() for cell in rows[0]]
    if head[0] == "scorer":
        return _deeplabcut(rows, source)
    if repeated := next((name for name in head if head.count(name) > 1), None):
        raise DataError(
            f"{source}: found the column {repeated!r} twice; give each point a name of its own"
        )
    if LONG <= set(head):
        return _long(head, rows[1:], source)
    return _wide(head, rows[1:], source)


def _long(head: list[str], rows: list[list[str]], source: str) -> Labels:
    known = [*LONG, "visible", "object", *BOX]
    if unknown := [name for name in head if name not in known]:
        raise _unknown(source, unknown)
    found = LabelsBuilder(source)
    for number, row in _records(head, rows, source):
        place = _place(row, ("x", "y"), "visible", f"{source}, row {number}")
        found.add(row["file"], row.get("object", ""), row["name"], place)
        _add_box(found, row, f"{source}, row {number}")
    return found.labels()


def _wide(head: list[str], rows: list[list[str]], source: str) -> Labels:
    points, rest = _pairs(head)
    known = {"file", "object", *BOX, *(f"{name}_visible" for name in points)}
    if "file" not in head or not points or (rest := [name for name in rest if name not in known]):
        raise _unknown(source, rest or head)
    found = LabelsBuilder(source, points)
    for number, row in _records(head, rows, source):
        where = f"{source}, row {number}"
        for name, columns in points.items():
            place = _place(row, columns, f"{name}_visible", where)
            found.add(row["file"], row.get("object", ""), name, place)
        _add_box(found, row, where)
    return found.labels()


def _pairs(head: list[str]) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """The two columns of each point, and the names of all other columns."""
    points = {
        name[:-2]: (name, f"{name[:-2]}_y")
        for name in head
        if name.endswith("_x") and f"{name[:-2]}_y" in head
    }
    points |= {
        name[1:]: (name, f"y{name[1:]}")
        for name in head
        if re.fullmatch(r"x\d+", name) and f"y{name[1:]}" in head
    }
    used = {column for columns in points.values() for column in columns}
    return points, [name for name in head if name not in used]


def _deeplabcut(rows: list[list[str]], source: str) -> Labels:
    heads: dict[str, list[str]] = {}
    while rows and rows[0][0].strip() in HEADERS:
        heads[rows[0][0].strip()] = [cell.strip() for cell in rows[0]]
        rows = rows[1:]
    if "bodyparts" not in heads or "coords" not in heads:
        raise DataError(
            f"{source}: found DeepLabCut's row scorer without bodyparts and coords below it; "
            "export the labelled frames again"
        )
    coords = heads["coords"]
    if strange := sorted(set(coords[1:]) - {"x", "y", ""}):
        raise DataError(
            f"{source}: found the coords {strange[0]!r}, so these are predictions; give "
            "CollectedData_*.csv, which has x and y"
        )
    columns = [i for i, word in enumerate(coords) if word == "x"]
    found = LabelsBuilder(source)
    for number, row in enumerate(rows, start=len(heads) + 1):
        if len(row) != len(coords):
            raise _short(source, number, len(row), len(coords))
        picture = "/".join(cell.strip() for cell in row[: columns[0]] if cell.strip())
        for i in columns:
            which = heads["individuals"][i] if "individuals" in heads else ""
            place = _numbers([row[i], row[i + 1]], f"{source}, row {number}")
            found.add(
                picture, which, heads["bodyparts"][i], (place[0], place[1]) if place else None
            )
    return found.labels()


def _records(
    head: list[str], rows: list[list[str]], source: str
) -> Iterator[tuple[int, dict[str, str]]]:
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise _short(source, number, len(row), len(head))
        yield number, {name: cell.strip() for name, cell in zip(head, row, strict=True)}


def _place(row: dict[str, str], columns: tuple[str, str], visible: str, where: str) -> Place | None:
    shown = row.get(visible, "").lower()
    if shown not in HIDDEN | SHOWN:
        raise DataError(f"{where}: found {shown!r} in the column {visible}; give 0 or 1")
    found = _numbers([row[column] for column in columns], where)
    return (found[0], found[1]) if found and shown not in HIDDEN else None


def _add_box(found: LabelsBuilder, row: dict[str, str], where: str) -> None:
    if BOX[0] in row and (box := _numbers([row.get(name, "") for name in BOX], where)):
        found.add_box(row["file"], row.get("object", ""), box)


def _numbers(cells: list[str], where: str) -> list[float] | None:
    """The numbers of some cells, None where all are empty. Raises DataError."""
    if all(cell.strip().lower() in ("", "nan") for cell in cells):
        return None
    try:
        return [float(cell) for cell in cells]
    except ValueError as error:
        raise DataError(
            f"{where}: found {','.join(cells)!r}, needed {len(cells)} numbers, or all empty "
            "for a point that is not seen; correct it"
        ) from error


def _unknown(source: str, columns: list[str]) -> DataError:
    shown = ", ".join(columns[:6])
    return DataError(f"{source}: found the columns {shown}, needed {NEEDED}; rename them")


def _short(source: str, number: int, found: int, needed: int) -> DataError:
    return DataError(
        f"{source}, row {number}: found {found} cells, the header has {needed}; export it again"
    )
