"""CVAT's export `CVAT for images 1.1`: an XML file of images with points, skeletons and boxes.

A skeleton is an object. Other points belong together by their group, else to the smallest box
around them. `outside` points are missing, `occluded` ones count as they were set.
"""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from scemae.errors import DataError
from scemae.shards.annotations.boxed import NamedBox, NamedPoint, add_objects
from scemae.shards.annotations.labels import Labels, LabelsBuilder, Place


def read(text: str, source: str) -> Labels:
    """The objects of all images. Raises DataError."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can make a small file huge
        raise DataError(
            f"{source}: found a document type, which CVAT does not write; export it as `CVAT for "
            "images 1.1` again"
        )
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{source}: cannot be read as XML ({error}); export it again") from error
    images = root.findall("image")
    if root.tag != "annotations" or not images:
        raise DataError(
            f"{source}: found <{root.tag}> without an <image> in it; export the task as `CVAT for "
            "images 1.1`, not for video"
        )
    labels = LabelsBuilder(source)
    for image in images:
        _add_image(labels, image)
    return labels.labels()


def _add_image(labels: LabelsBuilder, image: Element) -> None:
    picture = image.attrib["name"]
    points: list[NamedPoint] = []
    boxes: list[NamedBox] = []
    for number, box in enumerate(image.findall("box")):
        corners = [float(box.attrib[edge]) for edge in ("xtl", "ytl", "xbr", "ybr")]
        boxes.append(NamedBox(_group(box) or f"box {number}", corners))
    for number, skeleton in enumerate(image.findall("skeleton")):
        owner = _group(skeleton) or f"skeleton {number}"
        for one in skeleton.findall("points"):
            points.append(NamedPoint(one.attrib["label"], _places(one)[0], owner))
    for one in image.findall("points"):
        places, label = _places(one), one.attrib["label"]
        names = [label] if len(places) == 1 else [f"{label} {i + 1}" for i in range(len(places))]
        for name, place in zip(names, places, strict=True):
            points.append(NamedPoint(name, place, _group(one)))
    add_objects(labels, picture, points, boxes)


def _group(one: Element) -> str:
    group = one.attrib.get("group_id", "0")
    return "" if group in ("", "0") else f"group {group}"


def _places(one: Element) -> list[Place | None]:
    """The places "x,y;x,y" of an element; CVAT counts from the picture's edge."""
    if one.attrib.get("outside") == "1":
        return [None]
    pairs = [text.split(",") for text in one.attrib["points"].split(";")]
    return [(float(x) - 0.5, float(y) - 0.5) for x, y in pairs]
