"""Label Studio's export in JSON: tasks with results in per cent of the picture.

Key points (`keypointlabels`) and boxes (`rectanglelabels`) are read, of the first annotation of
each task that was not cancelled. A key point belongs to the box that it names as its parent, else
to the smallest box around it.
"""

from typing import Any

from scemae.errors import DataError
from scemae.shards.annotations.boxed import NamedBox, NamedPoint, add_objects
from scemae.shards.annotations.labels import Labels, LabelsBuilder


def is_label_studio(found: Any) -> bool:
    """True for a list of tasks."""
    return (
        isinstance(found, list)
        and bool(found)
        and all(isinstance(one, dict) and "data" in one and "annotations" in one for one in found)
    )


def read(found: list[dict], source: str) -> Labels:
    """The objects of all tasks. Raises DataError."""
    labels = LabelsBuilder(source)
    for task in found:
        picture = _picture(task["data"], source)
        labels.add_picture(picture)
        done = [one for one in task["annotations"] if not one.get("was_cancelled")]
        if done:
            _add_task(labels, picture, done[0].get("result", []))
    return labels.labels()


def _add_task(labels: LabelsBuilder, picture: str, results: list[dict]) -> None:
    points: list[NamedPoint] = []
    boxes: list[NamedBox] = []
    for one in results:
        value = one.get("value", {})
        if one.get("image_rotation"):
            raise DataError(
                f"{labels.source}: found {picture} turned by {one['image_rotation']} degrees in "
                "Label Studio, and points are needed in the upright picture; turn the file and "
                "label it again"
            )
        if "keypointlabels" in value:
            place = _pixels(one, value["x"], value["y"])
            parent = one.get("parentID") or one.get("parent_id") or ""
            for name in value["keypointlabels"]:
                points.append(NamedPoint(str(name), (place[0] - 0.5, place[1] - 0.5), str(parent)))
        elif "rectanglelabels" in value:
            low = _pixels(one, value["x"], value["y"])
            high = _pixels(one, value["x"] + value["width"], value["y"] + value["height"])
            boxes.append(NamedBox(str(one.get("id", len(boxes))), [*low, *high]))
    add_objects(labels, picture, points, boxes)


def _pixels(result: dict, x: float, y: float) -> tuple[float, float]:
    """Per cent as distances in pixels from the picture's edges."""
    return x / 100 * result["original_width"], y / 100 * result["original_height"]


def _picture(data: dict, source: str) -> str:
    """The name of the task's picture: the text in its data that ends like a file's name."""
    texts = [text for text in data.values() if isinstance(text, str) and "." in text[-6:]]
    if not texts:
        raise DataError(
            f"{source}: found a task whose data name no picture ({', '.join(data)}); export tasks "
            "of images"
        )
    return texts[0].split("?d=")[-1].split("?")[0]
