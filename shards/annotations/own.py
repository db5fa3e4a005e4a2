"""Our own JSON of points, which the examples of this project write.

    {"points": ["nose", "left ear", "right ear"],
     "pictures": {"a.jpg": [[120, 80], [60.5, 30], null],
                  "b.jpg": [[[10, 20], [30, 5], null], [[90, 20], null, null]]},
     "boxes":  {"a.jpg": [40, 10, 200, 170]},
     "pairs":  [["left ear", "right ear"]],
     "scale":  ["left ear", "right ear"]}

A picture has one place for each point, null where it is not seen; or a list of such lists, one for
each object, and its boxes likewise. The last three are optional.
"""

from typing import Any

from scemae.errors import DataError
from scemae.shards.annotations.labels import Labels, LabelsBuilder


def is_own(found: Any) -> bool:
    """True for a JSON value of this form."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("points"), list)
        and isinstance(found.get("pictures"), dict)
    )


def read(found: dict, source: str) -> Labels:
    """The objects of such a file. Raises DataError."""
    names = [str(name) for name in found["points"]]
    labels = LabelsBuilder(source, names)
    for picture, value in found["pictures"].items():
        labels.add_picture(picture)
        boxes = (found.get("boxes") or {}).get(picture)
        objects = [value] if _is_object(value) else value
        boxes = [boxes] if _is_box(boxes) else boxes or []
        for number, points in enumerate(objects):
            if not isinstance(points, list) or len(points) != len(names):
                count = len(points) if isinstance(points, list) else "no"
                raise DataError(
                    f"{source}: found {count} places in {picture}, needed one (or null) for each "
                    f"of the {len(names)} points; correct it"
                )
            for name, point in zip(names, points, strict=True):
                place = None if point is None else (float(point[0]), float(point[1]))
                labels.add(picture, str(number), name, place)
        for number, box in enumerate(boxes):
            labels.add_box(picture, str(number), [float(edge) for edge in box])
    made = labels.labels()
    made.pairs = [(str(a), str(b)) for a, b in found.get("pairs") or []] or None
    scale = found.get("scale")
    made.scale = (str(scale[0]), str(scale[1])) if scale else None
    return made


def _is_object(value: Any) -> bool:
    """True for the points of one object, False for a list of objects."""
    first = next((one for one in value if one is not None), None) if value else None
    return bool(value) and (
        first is None or not isinstance(first[0], list) and first[0] is not None
    )


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and not isinstance(value[0], list)
