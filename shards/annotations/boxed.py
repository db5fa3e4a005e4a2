"""Points and boxes of one picture that a program exports without saying which belong together."""

from dataclasses import dataclass

from scemae.shards.annotations.labels import LabelsBuilder, Place


@dataclass
class NamedPoint:
    """A point of a picture; owner: the object that it is known to belong to, or empty."""

    name: str
    place: Place | None
    owner: str = ""


@dataclass
class NamedBox:
    """A box [x0, y0, x1, y1] of a picture, with the name of its object."""

    owner: str
    corners: list[float]


def add_objects(
    labels: LabelsBuilder, picture: str, points: list[NamedPoint], boxes: list[NamedBox]
) -> None:
    """Add the objects of a picture: a point without an owner goes to the smallest box around it.

    Where there is no box, all points without an owner are one object; with one box they are its.
    Raises DataError where an object then has two places for a point.
    """
    labels.add_picture(picture)
    for point in points:
        owner = point.owner or _owner(point.place, boxes)
        labels.add(picture, owner, point.name, point.place)
    used = {point.owner or _owner(point.place, boxes) for point in points}
    for box in boxes:
        if box.owner in used:
            labels.add_box(picture, box.owner, box.corners)


def _owner(place: Place | None, boxes: list[NamedBox]) -> str:
    if len(boxes) == 1:
        return boxes[0].owner
    if place is None:
        return ""
    around = [
        box
        for box in boxes
        if box.corners[0] <= place[0] <= box.corners[2]
        and box.corners[1] <= place[1] <= box.corners[3]
    ]
    return min(around, key=_area).owner if around else ""


def _area(box: NamedBox) -> float:
    x0, y0, x1, y1 = box.corners
    return (x1 - x0) * (y1 - y0)
