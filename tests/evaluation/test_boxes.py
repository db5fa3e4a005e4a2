"""Boxes from a file and from a function of the user's, and the sentence for each that is wrong."""

import json
import sys

import numpy as np
import pytest

import scemae
from scemae.cli import run_command
from scemae.errors import ConfigError, DataError
from scemae.evaluation.photographs import boxes
from tests.support import picture, write_backbone

HEAD = "file,left,top,right,bottom\n"
POINTS = ["--points", "150,120"]
DETECTOR = """\
def middle(picture):
    assert picture.mode == "RGB"
    width, height = picture.size
    return [(0, 0, 10, 10), (width // 4, 0, width // 4 + 200, 200)]
def none(picture): return []
def words(picture): return "a face"
def flat(picture): return [5, 5, 5, 90]
def fails(picture): raise RuntimeError("no weights")
number = 3
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("runs") / "mae")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    picture(1, (300, 240)).save("in/a.jpg")
    picture(2, (300, 240)).save("in/b.jpg")
    (tmp_path / "detector_of_test.py").write_text(DETECTOR)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("detector_of_test", None)


def match(run, *options):
    run_command(["match", "in/a.jpg", "in/b.jpg", "--run", str(run), *POINTS, *options])
    found = json.loads(open("match/match.json").read())
    return found["first"]["box"], found["second"]["box"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("b.csv", HEAD + "b.jpg,10,0,210,200\nelsewhere.jpg,1,1,2,2\nin/a.jpg,60,20,260,220\n"),
        ("b.json", '{"boxes": {"a.jpg": [60, 20, 260, 220], "in/b.jpg": [[10, 0, 210, 200]]}}'),
    ],
)
def test_one_file_gives_the_box_of_every_picture(run, photos, name, text):
    (photos / name).write_text(text)
    assert match(run, "--boxes", name) == ([60, 20, 260, 220], [10, 0, 210, 200])


def test_the_file_of_the_longest_common_path_and_the_largest_box_are_used(run, photos, capsys):
    rows = "a.jpg,0,0,50,50\nin/a.jpg,60,20,260,220\nin/a.jpg,0,0,40,40\nb.jpg,10,0,210,200\n"
    (photos / "b.csv").write_text(HEAD + rows)
    assert match(run, "--boxes", "b.csv")[0] == [60, 20, 260, 220]
    assert "in/a.jpg: 2 boxes, the largest is used" in capsys.readouterr().err


def test_a_function_that_the_user_names_gives_the_box_of_every_picture(run, photos, capsys):
    found = match(run, "--boxes-from", "detector_of_test:middle")
    assert found == ([75, 0, 275, 200], [75, 0, 275, 200])
    assert "2 boxes, the largest is used" in capsys.readouterr().err


def test_a_function_is_a_box_in_python_too(run, photos):
    model, corners = scemae.load(run, device="cpu"), (75, 0, 275, 200)
    truth = model("in/a.jpg", stride=8, box=corners)
    assert np.allclose(model("in/a.jpg", stride=8, box=lambda image: corners), truth)
    asked = []
    boxed = [lambda image: asked.append(image.size) or np.array([corners]), None]
    hits = model.match("in/a.jpg", "in/b.jpg", [(150, 120)], box=boxed)
    assert hits.first.box.corners == [75, 0, 275, 200] and asked == [(300, 240)]
    assert hits.second.box.corners == [30, 0, 270, 240]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "a.jpg,60,20,260,220\n", "b.csv: found no box for in/b.jpg; add a line for b.jpg"),
        (HEAD + "a.jpg,60,20,60,220\n", "b.csv, row 2: found the box .* left < right"),
        (HEAD + "a.jpg,60,20,nan,220\n", "b.csv, row 2: found the box"),
        (HEAD + "a.jpg,60,20\n", "b.csv, row 2: found 'a.jpg,60,20', a file and four numbers"),
        ("file,x,y\n", "b.csv: found the columns file,x,y; give a CSV with the columns file,left"),
        ("", "b.csv: found the columns none"),
        ('{"boxes": {"a.jpg": 3}}', 'b.csv: found JSON without "boxes" of four numbers'),
        ('{"points": []}', 'b.csv: found JSON without "boxes"'),
        (
            HEAD + "a.jpg,900,0,990,90\nb.jpg,10,0,210,200\n",
            "in/a.jpg: --boxes: found 900,0,990,90, .* of this photograph of 300x240",
        ),
    ],
)
def test_a_file_of_boxes_that_is_wrong_gets_one_sentence(run, photos, text, words):
    (photos / "b.csv").write_text(text)
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        match(run, "--boxes", "b.csv")
    assert "\n" not in str(caught.value) and not (photos / "match").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere_at_all:find", "nowhere_at_all cannot be imported .* PYTHONPATH"),
        ("detector_of_test:gone", "found no function gone in detector_of_test"),
        ("detector_of_test:number", "found a int instead of a function number"),
        ("detector_of_test", "give package.module:function"),
        ("detector_of_test:none", "in/a.jpg: the box function none found nothing; give the box"),
        ("detector_of_test:words", "in/a.jpg: the box function words returned 'a face'; boxes of"),
        ("detector_of_test:flat", "in/a.jpg: the box function flat returned .5, 5, 5, 90.; boxes"),
        ("detector_of_test:fails", "function fails failed .RuntimeError: no weights.; correct it"),
    ],
)
def test_a_function_that_is_wrong_gets_one_sentence(run, photos, name, words):
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        match(run, "--boxes-from", name)
    assert "\n" not in str(caught.value) and not (photos / "match").exists()


def test_two_kinds_of_boxes_at_once_are_refused(run, photos):
    (photos / "b.csv").write_text(HEAD)
    with pytest.raises(ConfigError, match="found --boxes and --boxes-from; give one of them"):
        match(run, "--boxes", "b.csv", "--boxes-from", "detector_of_test:middle")


def test_boxes_of_python_that_are_no_boxes_get_one_sentence(run, photos):
    model = scemae.load(run, device="cpu")
    for box, words in ((5, "found '5'; give one"), (["a"], "four numbers"), ([3], "four numbers")):
        with pytest.raises(DataError, match=words):
            model("in/a.jpg", box=box)


def test_json_nested_without_end_is_refused(photos):
    (photos / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="deep.json: found JSON without"):
        boxes.read_boxes(photos / "deep.json")
