"""What every annotation file gives: names of points, and objects with their points and boxes."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from scemae.errors import DataError

Place = tuple[float, float]  # x, y in pixels of the upright picture, pixel centres at integers
MOST_POINTS = 10_000  # of one object


@dataclass
class LabelledObject:
    """One object in a picture: a point for each name, None where it was not set."""

    picture: str  # as the file names it
    points: list[Place | None]
    box: list[float] | None = None  # [x0, y0, x1, y1], edges of pixels


@dataclass
class Labels:
    """One annotation file, or several that were merged.

    `empty`: pictures that it names without any point. `pairs` and `scale` are names of points:
    those that change places in a mirrored picture, and the two whose distance scales errors.
    """

    source: str  # the file's name, for messages
    names: list[str]
    objects: list[LabelledObject]
    empty: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str]] | None = None
    scale: tuple[str, str] | None = None


class LabelsBuilder:
    """Collects points by picture, object and name. Raises DataError for what contradicts itself."""

    def __init__(self, source: str, names: Iterable[str] = ()) -> None:
        self.source = source
        self.names: dict[str, int] = {}
        self._found: dict[tuple[str, str], dict[str, Place | None]] = {}
        self._boxes: dict[tuple[str, str], list[float]] = {}
        self._pictures: dict[str, None] = {}
        for name in names:
            if name in self.names:
                raise DataError(
                    f"{source}: found the point {name!r} twice in its list of points; give each "
                    "point a name of its own"
                )
            self.add_name(name)

    def add_name(self, name: str) -> None:
        """A point that pictures of this file may have."""
        if not name.strip() or len(self.names) >= MOST_POINTS:
            raise DataError(
                f"{self.source}: found {name!r} as the name of point {len(self.names) + 1}, needed "
                f"a text, and at most {MOST_POINTS:,} points; correct it"
            )
        self.names.setdefault(name, len(self.names))

    def add_picture(self, picture: str) -> None:
        """A picture that the file names, with or without points."""
        self._pictures.setdefault(picture)

    def add(self, picture: str, which: str, name: str, place: Place | None) -> None:
        """A point of the object `which` of a picture; None: it is named, and not set."""
        self.add_picture(picture)
        points = self._found.setdefault((picture, which), {})
        if name in points:
            raise DataError(
                f"{self.source}: found two places for the point {name!r} in {picture}; keep one of "
                "them, or tell the objects of the picture apart"
            )
        if place is not None and not all(math.isfinite(value) for value in place):
            raise DataError(
                f"{self.source}: found the point {name!r} of {picture} at {place}, two finite "
                "numbers were needed; correct it, or leave it empty where it is not seen"
            )
        self.add_name(name)
        points[name] = place

    def add_box(self, picture: str, which: str, box: list[float]) -> None:
        """The box [x0, y0, x1, y1] of an object."""
        if (
            len(box) != 4
            or not all(map(math.isfinite, box))
            or box[2] <= box[0]
            or box[3] <= box[1]
        ):
            raise DataError(
                f"{self.source}: found the box {box} in {picture}, needed x0, y0, x1, y1 with x0 < "
                "x1 and y0 < y1; correct it"
            )
        self.add_picture(picture)
        self._boxes[picture, which] = box

    def labels(self) -> Labels:
        """All that was added. Raises DataError for two names of one point."""
        names = [*self.names]
        check_names(names, self.source)
        objects = [
            LabelledObject(
                picture, [points.get(name) for name in names], self._boxes.get((picture, which))
            )
            for (picture, which), points in self._found.items()
            if any(point is not None for point in points.values())
        ]
        shown = {one.picture for one in objects}
        empty = [picture for picture in self._pictures if picture not in shown]
        return Labels(self.source, names, objects, empty)


def check_names(names: list[str], source: str) -> None:
    """Raise DataError where two names differ by case, spaces or signs alone."""
    plain: dict[str, str] = {}
    for name in names:
        other = plain.setdefault(re.sub(r"[\W_]+", "", name.casefold()) or name, name)
        if other != name:
            raise DataError(
                f"{source}: found {other!r} and {name!r}, two names for one point; write it in one "
                "way everywhere"
            )


def merge(parts: list[Labels]) -> Labels:
    """Several annotation files as one, with the points in the first one's order.

    Raises DataError where their points have other names, or two annotate one picture.
    """
    first = parts[0]
    for other in parts[1:]:
        if strange := sorted(set(first.names) ^ set(other.names)):
            raise DataError(
                f"{other.source}: found the points {', '.join(other.names)}, and {first.source} "
                f"has {', '.join(first.names)} ({strange[0]!r} is in one of them only); give each "
                "point one name in all files"
            )
    owners: dict[str, str] = {}
    objects = []
    for part in parts:
        for picture in {one.picture for one in part.objects}:
            if picture in owners:
                raise DataError(
                    f"{part.source}: found points for {picture}, which {owners[picture]} has too; "
                    "annotate each picture in one file"
                )
            owners[picture] = part.source
        order = [part.names.index(name) for name in first.names]
        objects += [
            LabelledObject(one.picture, [one.points[i] for i in order], one.box)
            for one in part.objects
        ]
    return Labels(
        ", ".join(part.source for part in parts),
        first.names,
        objects,
        [picture for part in parts for picture in part.empty if picture not in owners],
        next((part.pairs for part in parts if part.pairs), None),
        next((part.scale for part in parts if part.scale), None),
    )
