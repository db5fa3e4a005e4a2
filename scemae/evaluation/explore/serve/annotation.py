"""The points that are set in the page, and the file that keeps them: our own annotation JSON.

`shards build folder --landmarks` reads the file as it is (shards/annotations/own.py). Two entries
are for this page alone, and ignored there:

    "begun"    pictures of which some points are neither placed nor marked as not seen
    "digests"  SHA-256 of the annotated pictures, so that those of another folder are noticed

The file is written after every change, all or nothing.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from scemae.errors import DataError
from scemae.evaluation.explore.serve.pictures import Pictures
from scemae.files import disk, documents
from scemae.files.documents import Count, Finite, Point
from scemae.shards.annotations import own
from scemae.shards.annotations.labels import Labels
from scemae.shards.sources.annotated import MARGIN, check_inside, objects_of

# By the point's name: its place, None where it is marked as not seen; without an entry it is open.
Marks = dict[str, list[float] | None]
REMEDY = "give another --out, or move the file away"


@dataclass
class Begun:
    """A picture with open points."""

    points: dict[str, Point | None]
    box: list[Finite] | None = None


@dataclass
class AnnotationFile:
    """The file. `pictures` and `boxes` are checked by own.read."""

    points: list[str]
    pictures: dict[str, Any]
    boxes: dict[str, Any] = field(default_factory=dict)
    pairs: list[list[str]] | None = None
    scale: list[str] | None = None
    begun: dict[str, Begun] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


@dataclass
class Annotation:
    """What the page sends and gets: all points of all pictures."""

    version: Count  # rises with every change
    points: list[str]
    marks: dict[str, dict[str, Point | None]]
    boxes: dict[str, list[Finite]]  # [x0, y0, x1, y1]


class OutdatedError(DataError):
    """A change of points that another page has changed meanwhile."""


class Notebook:
    """The annotation of a folder of pictures, on the disk at all times."""

    def __init__(self, path: Path, pictures: Pictures) -> None:
        """Reads the file where it is there. Raises DataError, also for that of another folder."""
        self.path, self.pictures = path, pictures
        self.lock = Lock()
        self._file = AnnotationFile([], {})
        self.now = Annotation(0, [], {}, {})
        if path.exists():
            self._file = _read(path)
            self._take_up(self._file)

    @property
    def margin(self) -> float:
        """Of the frames that `shards build` makes of these points."""
        return MARGIN if self.now.boxes else 1.0

    def done(self) -> list[str]:
        """The pictures without an open point and with at least one place, in the folder's order."""
        return [name for name in self.pictures.names if self.is_done(name)]

    def is_done(self, name: str) -> bool:
        """Whether a picture is annotated."""
        marks = self.now.marks.get(name, {})
        return any(marks.values()) and all(point in marks for point in self.now.points)

    def change(self, wanted: Annotation) -> int:
        """Check and write new points; returns their version.

        Raises DataError in a sentence, OutdatedError where `wanted` is not made from the points of
        now, and OSError. Then nothing is changed.
        """
        with self.lock:
            if wanted.version != self.now.version:
                raise OutdatedError(
                    "the points were changed in another window meanwhile; reload this page"
                )
            before, wanted = self.now, _rounded(wanted)
            self._check(before, wanted)
            self.now = wanted
            try:
                self._write()
            except BaseException:
                self.now = before
                raise
            self.now.version += 1
            return self.now.version

    def as_own(self, names: Iterable[str]) -> dict:
        """The annotation of some annotated pictures, as `shards build` reads it."""
        found, now = asdict(self._file), self.now
        chosen = [*names]
        found["points"] = now.points
        found["pictures"] = {
            name: [now.marks[name][point] for point in now.points] for name in chosen
        }
        found["boxes"] = {name: now.boxes[name] for name in chosen if name in now.boxes}
        for key in ("pairs", "scale"):  # of points that are gone by now
            if any(point not in now.points for point in _names_in(found[key])) or not found[key]:
                del found[key]
        del found["begun"], found["digests"]
        return found

    def _write(self) -> None:
        done, now = self.done(), self.now
        digests = {
            name: self._file.digests.get(name) or self.pictures.digest(name)
            for name in self.pictures.names
            if now.marks.get(name)
        }
        self._file.digests = digests
        begun = {
            name: {"points": marks, "box": now.boxes.get(name)}
            for name, marks in now.marks.items()
            if name not in done and (marks or name in now.boxes)
        }
        for name in now.boxes.keys() - now.marks.keys():
            begun[name] = {"points": {}, "box": now.boxes[name]}
        disk.write_json(self.path, self.as_own(done) | {"begun": begun, "digests": digests})
        disk.sync_folder(self.path.parent)

    def _check(self, before: Annotation, wanted: Annotation) -> None:
        """Raise DataError for names and places that cannot be; pictures as before are not read."""
        for name in wanted.marks.keys() | wanted.boxes.keys():
            marks, box = wanted.marks.get(name, {}), wanted.boxes.get(name)
            if strange := [point for point in marks if point not in wanted.points]:
                raise DataError(
                    f"{name}: found a place for {strange[0]!r}, the points are "
                    f"{', '.join(wanted.points) or 'none yet'}; reload the page"
                )
            if marks != before.marks.get(name, {}) or box != before.boxes.get(name):
                self._check_picture(wanted.points, name, marks, box)
        if wanted.points != before.points:
            own.read({"points": wanted.points, "pictures": {}}, "points")

    def _check_picture(
        self, points: list[str], name: str, marks: Marks, box: list[float] | None
    ) -> None:
        size = self.pictures.size(name)
        places = [marks.get(point) for point in points]
        if not any(places):
            places = [[0.0, 0.0] for _ in points]  # so that a box alone is checked too
        if not points:
            return
        labels = own.read(
            {"points": points, "pictures": {name: places}, "boxes": {name: box} if box else {}},
            name,
        )
        check_inside(name, labels.objects, labels, size)

    def _take_up(self, file: AnnotationFile) -> None:
        """Points of the file become those of now. Raises DataError."""
        labels = _labels(file, self.path)
        objects = objects_of(labels, self.pictures.names, self.pictures.root)
        for name, found in objects.items():
            if len(found) > 1:
                raise DataError(
                    f"{self.path}: found {len(found)} objects in {name}, this page annotates one "
                    f"in each picture; {REMEDY}"
                )
            check_inside(name, found, labels, self.pictures.size(name))
            places = zip(labels.names, found[0].points, strict=True)
            self.now.marks[name] = {point: place and [*place] for point, place in places}
            if found[0].box:
                self.now.boxes[name] = found[0].box
        self.now.points = labels.names
        for name, one in file.begun.items():
            if name not in self.pictures.names:
                raise _of_another_folder(self.path, self.pictures.root, name)
            self.now.marks[name] = dict(one.points)
            if one.box:
                self.now.boxes[name] = one.box
            self._check_picture(self.now.points, name, one.points, one.box)
        for name, digest in file.digests.items():
            if name not in self.pictures.names or self.pictures.digest(name) != digest:
                raise _of_another_folder(self.path, self.pictures.root, name)


def _read(path: Path) -> AnnotationFile:
    try:
        return documents.read_json(path, AnnotationFile, remedy=REMEDY)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error


def _labels(file: AnnotationFile, path: Path) -> Labels:
    try:
        return own.read(asdict(file), str(path))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        why = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: found what does not belong there ({why}); {REMEDY}") from error


def _of_another_folder(path: Path, root: Path, name: str) -> DataError:
    return DataError(
        f"{path}: found points of another {name} than {root} has; give the --pictures that they "
        "belong to, or another --out"
    )


def _names_in(found: Any) -> list[str]:
    parts = found or []
    return [name for part in parts for name in (part if isinstance(part, list) else [part])]


def _rounded(found: Annotation) -> Annotation:
    """Places and boxes to hundredths of a pixel; pictures without any are left out."""
    marks: dict[str, Marks] = {}
    for name, each in found.marks.items():
        if each:
            marks[name] = {point: place and _hundredths(place) for point, place in each.items()}
    boxes = {name: _hundredths(box) for name, box in found.boxes.items()}
    return Annotation(found.version, found.points, marks, boxes)


def _hundredths(values: list[float]) -> list[float]:
    return [round(value, 2) for value in values]
