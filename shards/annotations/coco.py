"""COCO's key-point JSON: images, annotations and categories.

A point with v = 0 is missing; one that is covered (v = 1) counts as it was set. `bbox` is x, y,
width and height.
"""

from typing import Any

from scemae.errors import DataError
from scemae.shards.annotations.labels import Labels, LabelsBuilder


def is_coco(found: Any) -> bool:
    """True for a JSON value with the three lists of COCO."""
    return isinstance(found, dict) and {"images", "annotations", "categories"} <= found.keys()


def read(found: dict, source: str, category: str | None = None) -> Labels:
    """The objects of one category, where there are several that of this name. Raises DataError."""
    chosen = _category(found["categories"], source, category)
    names = chosen["keypoints"]
    pictures = {one["id"]: str(one["file_name"]) for one in found["images"]}
    labels = LabelsBuilder(source, map(str, names))
    for picture in pictures.values():
        labels.add_picture(picture)
    for one in found["annotations"]:
        if one.get("category_id") != chosen["id"] or "keypoints" not in one or one.get("iscrowd"):
            continue
        if one["image_id"] not in pictures:
            raise DataError(
                f"{source}: found an annotation of image {one['image_id']}, which its list of "
                "images does not have; export it again"
            )
        picture, which = pictures[one["image_id"]], str(one.get("id"))
        numbers = one["keypoints"]
        if len(numbers) != 3 * len(names):
            raise DataError(
                f"{source}: found {len(numbers)} numbers for the {len(names)} points of annotation "
                f"{which}, needed x, y and v of each; export it again"
            )
        for i, name in enumerate(names):
            x, y, visible = numbers[3 * i : 3 * i + 3]
            labels.add(picture, which, str(name), (float(x), float(y)) if visible else None)
        if (box := one.get("bbox")) and box[2] > 0 and box[3] > 0:
            x, y, width, height = map(float, box)
            labels.add_box(picture, which, [x, y, x + width, y + height])
    return labels.labels()


def _category(categories: list[dict], source: str, name: str | None) -> dict:
    able = {str(one.get("name")): one for one in categories if one.get("keypoints")}
    if name is not None and name in able:
        return able[name]
    if len(able) == 1 and name is None:
        return next(iter(able.values()))
    there = ", ".join(able) or "none"
    raise DataError(
        f"{source}: found the categories with key points {there}, needed "
        f"{'one' if name is None else repr(name)}; name one with --category"
    )
