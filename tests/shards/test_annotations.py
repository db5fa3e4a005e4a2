"""Points in the formats of labelling programs: all give the same objects; errors name the file."""

import json

import pytest

from scemae.errors import ConfigError, DataError
from scemae.shards.annotations.benchmark import choose_pairs, choose_scale, mirrored_pairs
from scemae.shards.annotations.labels import LabelledObject, Labels, merge
from scemae.shards.annotations.read import read_labels

# Two cats in a.jpg, the second without its right ear; one in b.jpg.
NAMES = ["nose", "left ear", "right ear"]
FIRST = [(10.0, 20.0), (5.0, 8.0), (15.0, 8.0)]
SECOND = [(60.0, 30.0), (55.5, 18.0), None]
THIRD = [(31.0, 41.0), (25.0, 30.0), (37.0, 30.0)]
BOXES = [[2.0, 4.0, 20.0, 26.0], [50.0, 10.0, 70.0, 40.0], [20.0, 25.0, 42.0, 48.0]]


def objects(boxes=BOXES):
    return [
        LabelledObject(picture, points, box)
        for picture, points, box in zip(
            ("a.jpg", "a.jpg", "b.jpg"), (FIRST, SECOND, THIRD), boxes, strict=True
        )
    ]


def coco():
    def flat(points):
        return [number for point in points for number in ((*point, 2) if point else (0, 0, 0))]

    return {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"},
                   {"id": 3, "file_name": "c.jpg"}],
        "categories": [{"id": 7, "name": "cat", "keypoints": NAMES}, {"id": 8, "name": "car"}],
        "annotations": [
            {"id": i, "image_id": 1 + (i == 2), "category_id": 7, "keypoints": flat(one.points),
             "bbox": [*one.box[:2], one.box[2] - one.box[0], one.box[3] - one.box[1]]}
            for i, one in enumerate(objects())
        ],
    }  # fmt: skip


def own():
    return {
        "points": NAMES,
        "pictures": {"a.jpg": [FIRST, SECOND], "b.jpg": THIRD, "c.jpg": []},
        "boxes": {"a.jpg": BOXES[:2], "b.jpg": BOXES[2]},
    }


def long_csv():
    lines = ["file,name,x,y,visible,object,box_left,box_top,box_right,box_bottom", ""]
    for number, one in enumerate(objects()):
        box = ",".join(map(str, one.box))
        for name, point in zip(NAMES, one.points, strict=True):
            x, y = point or (1, 1)
            lines.append(f"{one.picture},{name},{x},{y},{int(point is not None)},{number},{box}")
    return "\n".join(lines)


def wide_csv():
    head = ["file", "object", *(f"{name}_{axis}" for name in NAMES for axis in "xy")]
    lines = [",".join([*head, "box_left", "box_top", "box_right", "box_bottom"])]
    for number, one in enumerate(objects()):
        cells = [cell for point in one.points for cell in (point or ("", ""))]
        lines.append(",".join(map(str, [one.picture, number, *cells, *one.box])))
    return "\ufeff" + "\r\n".join(lines)


def deeplabcut():
    columns = [(one, name, axis) for one in "pq" for name in NAMES for axis in "xy"]
    lines = [
        "scorer,,," + ",".join("me" for _ in columns),
        "individuals,,," + ",".join(one for one, _, _ in columns),
        "bodyparts,,," + ",".join(name for _, name, _ in columns),
        "coords,,," + ",".join(axis for _, _, axis in columns),
    ]
    for picture, cats in (("a.jpg", [FIRST, SECOND]), ("b.jpg", [THIRD, [None] * 3])):
        cells = [cell for cat in cats for point in cat for cell in (point or ("", ""))]
        lines.append(",".join(map(str, ["labeled-data", "video", picture, *cells])))
    return "\n".join(lines)


def label_studio():
    size = {"original_width": 80, "original_height": 50, "image_rotation": 0}

    def per_cent(x, y):
        return {"x": 100 * x / 80, "y": 100 * y / 50}

    def results(rows):
        found = []
        for i in rows:
            one, (x0, y0, x1, y1) = objects()[i], BOXES[i]
            box = per_cent(x0, y0) | {"width": 100 * (x1 - x0) / 80, "height": 100 * (y1 - y0) / 50}
            found.append({"id": f"r{i}", "value": box | {"rectanglelabels": ["cat"]}, **size})
            for name, point in zip(NAMES, one.points, strict=True):
                if point:
                    place = per_cent(point[0] + 0.5, point[1] + 0.5)
                    found.append({"value": place | {"keypointlabels": [name]}, **size})
        return [{"was_cancelled": True, "result": []}, {"result": found}]

    return [
        {"data": {"img": "/data/upload/1/0123abcd-a.jpg"}, "annotations": results([0, 1])},
        {"data": {"img": "/data/upload/1/0123abcd-b.jpg"}, "annotations": results([2])},
    ]


def cvat():
    def skeleton(i):
        one, points = objects()[i], []
        for name, point in zip(NAMES, one.points, strict=True):
            x, y = point or (0, 0)
            outside = int(point is None)
            points.append(
                f'<points label="{name}" outside="{outside}" points="{x + 0.5},{y + 0.5}"/>'
            )
        x0, y0, x1, y1 = one.box
        return (
            f'<skeleton label="cat" group_id="{i + 1}">{"".join(points)}</skeleton>'
            f'<box label="cat" group_id="{i + 1}" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}"/>'
        )

    return (
        f'<?xml version="1.0"?><annotations><image name="a.jpg">{skeleton(0)}{skeleton(1)}</image>'
        f'<image name="b.jpg">{skeleton(2)}</image><image name="c.jpg"/></annotations>'
    )


@pytest.fixture
def write(tmp_path):
    def write(content, name="points"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.mark.parametrize("make", [coco, own, long_csv, wide_csv, label_studio, cvat])
def test_every_format_gives_the_same_objects(write, make):
    found = read_labels([write(make())])
    assert found.names == NAMES
    for one, true in zip(found.objects, objects(), strict=True):
        assert one.picture.split("0123abcd-")[-1] == true.picture
        for point, place in zip(one.points, true.points, strict=True):
            assert point is None if place is None else point == pytest.approx(place)
        assert one.box == pytest.approx(true.box)
    assert found.empty in ([], ["c.jpg"])


def test_deeplabcut_s_table_has_animals_and_no_boxes(write):
    found = read_labels([write(deeplabcut())])
    assert [one.points for one in found.objects] == [FIRST, SECOND, THIRD]
    assert found.objects[2].picture == "labeled-data/video/b.jpg"


def test_a_point_belongs_to_the_smallest_box_around_it(write):
    text = (
        '<annotations><image name="a.jpg">'
        '<box label="cat" xtl="0" ytl="0" xbr="100" ybr="100"/>'
        '<box label="cat" xtl="10" ytl="10" xbr="30" ybr="30"/>'
        '<points label="nose" points="20,20"/><points label="nose" points="60,60"/>'
        "</image></annotations>"
    )
    found = read_labels([write(text)])
    assert [(one.points, one.box) for one in found.objects] == [
        ([(19.5, 19.5)], [10, 10, 30, 30]),
        ([(59.5, 59.5)], [0, 0, 100, 100]),
    ]


def test_numbered_columns_are_points(write):
    found = read_labels([write("file,x0,y0,x1,y1\na.jpg,1,2,3,4\n")])
    assert found.names == ["0", "1"] and found.objects[0].points == [(1, 2), (3, 4)]


def changed(make, old, new):
    text = make() if isinstance(make(), str) else json.dumps(make())
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lambda: "file,name,x,y,likelihood\na.jpg,nose,1,2,1", "columns likelihood, needed file"),
        (lambda: "picture,nose_x,nose_y\na.jpg,1,2", "found the columns picture"),
        (lambda: "file,name,x,y\na.jpg,Left_Ear,1,2\nb.jpg,left ear,1,2", "two names for one"),
        (lambda: "file,name,x,y\na.jpg,nose,1,2\na.jpg,nose,1,3", "two places for the point"),
        (lambda: "file,nose_x,nose_y,nose_x\na.jpg,1,2,3", "column 'nose_x' twice"),
        (lambda: "file,name,x,y\na.jpg,nose,1", "row 2: found 3 cells, the header has 4"),
        (lambda: "file,name,x,y\na.jpg,nose,one,2", "row 2: found 'one,2'"),
        (lambda: "file,name,x,y\na.jpg,nose,inf,2", "two finite numbers"),
        (lambda: "file,name,x,y\na.jpg,nose,,", "no picture with a point"),
        (lambda: "", "found no row"),
        (lambda: changed(deeplabcut, "coords,,,x,y", "coords,,,x,likelihood"), "are predictions"),
        (lambda: changed(coco, '"keypoints": ["nose"', '"keypoints": ["nose", "nose"'), "twice"),
        (lambda: changed(coco, '"image_id": 2', '"image_id": 9'), "image 9, which its list"),
        (lambda: changed(coco, '"name": "car"', '"name": "car", "keypoints": ["w"]'), "--category"),
        (lambda: changed(coco, '"file_name": "a.jpg"', '"file": "a.jpg"'), "no 'file_name'"),
        (lambda: changed(own, "[31.0, 41.0], ", ""), "found 2 places in b.jpg"),
        (lambda: changed(own, "[31.0, 41.0]", '["x", 41.0]'), "could not convert"),
        (lambda: changed(own, "31.0", "NaN"), "NaN, which is no number"),
        (lambda: changed(own, "[20.0, 25.0, 42.0, 48.0]", "[42, 25, 20, 48]"), "the box"),
        (lambda: changed(label_studio, '_rotation": 0', '_rotation": 90'), "turned by 90 degrees"),
        (lambda: changed(cvat, "<annotations>", "<!DOCTYPE a><annotations>"), "a document type"),
        (lambda: changed(cvat, "</annotations>", ""), "cannot be read as XML"),
        (lambda: "<annotations><track/></annotations>", "not for video"),
        (lambda: "{}", "JSON of another kind"),
        (lambda: "[" * 100_000, "does not belong there"),
    ],
)  # fmt: skip
def test_a_wrong_file_gives_one_sentence(write, text, words):
    with pytest.raises(DataError, match=words) as caught:
        read_labels([write(text())])
    assert "\n" not in str(caught.value) and "points" in str(caught.value)


def test_files_that_name_a_point_differently_are_refused(write):
    first = write("file,name,x,y\na.jpg,nose,1,2", "a.csv")
    second = write("file,name,x,y\nb.jpg,muzzle,1,2", "b.csv")
    with pytest.raises(DataError, match="give each point one name in all files"):
        read_labels([first, second])
    with pytest.raises(DataError, match="annotate each picture in one file"):
        read_labels([first, write("file,name,x,y\na.jpg,nose,1,2", "c.csv")])


def test_files_are_merged_in_the_first_one_s_order(write):
    labels = Labels("x", ["a", "b"], [LabelledObject("1.jpg", [(1, 1), None])], ["2.jpg"])
    other = Labels("y", ["b", "a"], [LabelledObject("2.jpg", [(2, 2), (3, 3)])])
    found = merge([labels, other])
    assert [one.points for one in found.objects] == [[(1, 1), None], [(3, 3), (2, 2)]]
    assert found.empty == []  # the other file has its points


def test_pairs_follow_from_left_and_right():
    assert mirrored_pairs(["left eye", "nose", "right eye", "tail"]) == [("left eye", "right eye")]
    assert mirrored_pairs(["RightEar2", "LeftEar2"]) == [("LeftEar2", "RightEar2")]
    assert mirrored_pairs(["l_eye", "r_eye", "left"]) == [("l_eye", "r_eye")]
    assert mirrored_pairs(["front wheel", "upright"]) == []


def test_the_scale_is_the_two_points_farthest_apart():
    labels = Labels("x", NAMES, objects())
    assert choose_scale(labels, None) == ("nose", "left ear")
    assert choose_scale(labels, ("left ear", "right ear")) == ("left ear", "right ear")
    with pytest.raises(ConfigError, match="found 'tail', the points are nose"):
        choose_scale(labels, ("nose", "tail"))
    with pytest.raises(ConfigError, match="'nose' twice"):
        choose_scale(labels, ("nose", "nose"))
    with pytest.raises(ConfigError, match="more than once"):
        choose_pairs(labels, [("nose", "left ear"), ("nose", "right ear")])
