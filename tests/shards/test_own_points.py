"""A folder of one's own pictures with points: its splits, its benchmark, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from scemae.cli import run_command
from scemae.data.picture import ORIENTATION
from scemae.data.storage.manifest import read_manifest
from scemae.data.storage.shard_set import open_shards
from scemae.errors import ConfigError, DataError
from scemae.evaluation.landmarks.benchmark_frames import load_frames
from scemae.evaluation.landmarks.benchmarks import check_counts, find_benchmark
from tests.support import picture

POINTS = ["nose", "left ear", "right ear"]
PLACES = [[60, 70], [40, 30], [80, 30]]


def build(folder, out, *options):
    return run_command(
        ["shards", "build", "folder", str(folder), str(out), "--workers", "1", *map(str, options)]
    )


@pytest.fixture
def cats(tmp_path):
    """Six pictures of 120x100, and a function that writes points of some of them."""
    folder = tmp_path / "cats"
    folder.mkdir()
    for i in range(6):
        picture(i, (120, 100)).save(folder / f"{i}.jpg")

    def annotate(pictures, **more):
        path = tmp_path / "points.json"
        path.write_text(json.dumps({"points": POINTS, "pictures": pictures, **more}))
        return path

    return folder, annotate


def open_split(out, split):
    shards = open_shards(str(out / split))
    return [shards.annotation(i) for i in range(len(shards))]


def test_pictures_with_points_become_splits_and_a_benchmark(cats, tmp_path):
    folder, annotate = cats
    out = tmp_path / "shards"
    points = annotate({f"{i}.jpg": PLACES for i in range(4)})
    build(folder, out, "--landmarks", points, "--test", 0.25)
    found = {name: open_split(out, name) for name in ("train", "annotated-train", "annotated-test")}
    assert [len(part) for part in found.values()] == [2, 3, 1]
    assert sorted(one["file"] for part in found.values() for one in part) == [
        f"{i}.jpg" for i in range(6)
    ]
    known = find_benchmark(str(out / "benchmark.yaml"))
    assert known.points == tuple(POINTS) and known.pairs == ((1, 2),)
    assert known.eyes == (0, 1) and known.title == "shards" and not known.missing
    for part in ("train", "test"):
        manifest = read_manifest(out / known.splits[part])
        assert check_counts(manifest, known, part) is None
    frames = load_frames(open_shards(str(out / "annotated-train")), known)
    # The largest centred square: columns 10 to 109 of 120.
    expected = (np.array(PLACES) - (10, 0) + 0.5) * 1.36 - 0.5
    assert np.allclose(frames.landmarks, expected, atol=1e-4)


def test_each_object_of_a_picture_is_a_sample_in_its_own_box(cats, tmp_path):
    folder, annotate = cats
    second = [[20, 40], None, [30, 20]]
    points = annotate(
        {"0.jpg": [PLACES, second]}, boxes={"0.jpg": [[30, 20, 90, 80], [10, 10, 50, 50]]}
    )
    build(folder, tmp_path / "out", "--landmarks", points, "--margin", 2)
    known = find_benchmark(str(tmp_path / "out" / "benchmark.yaml"))
    frames = load_frames(open_shards(str(tmp_path / "out" / "annotated-train")), known)
    assert known.missing and known.margin == 2
    # The first box of 60 px around (60, 50) becomes a square of 120 px around it.
    assert np.allclose(frames.landmarks[0], (np.array(PLACES) - (0, -10) + 0.5) * 136 / 120 - 0.5)
    assert frames.landmarks[1].isnan().all(dim=1).tolist() == [False, True, False]
    assert [one["box"] for one in open_split(tmp_path / "out", "annotated-train")] == [
        [30, 20, 90, 80],
        [10, 10, 50, 50],
    ]


def test_a_picture_without_a_scale_point_is_never_tested_on(cats, tmp_path):
    folder, annotate = cats
    hidden = {f"{i}.jpg": [None, *PLACES[1:]] for i in range(3)}
    points = annotate({**hidden, "3.jpg": PLACES}, scale=["nose", "left ear"])
    build(folder, tmp_path / "out", "--landmarks", points, "--test", 0.5)
    assert [one["file"] for one in open_split(tmp_path / "out", "annotated-test")] == ["3.jpg"]


def test_points_count_pixels_of_the_upright_picture(cats, tmp_path):
    folder, annotate = cats
    turned = picture(9, (100, 120))  # stored lying, shown as 120x100
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned.save(folder / "0.jpg", exif=exif)
    build(folder, tmp_path / "out", "--landmarks", annotate({"0.jpg": [[110, 90], *PLACES[1:]]}))
    shards = open_shards(str(tmp_path / "out" / "annotated-train"))
    frames = load_frames(shards, find_benchmark(str(tmp_path / "out" / "benchmark.yaml")))
    assert np.allclose(frames.landmarks[0, 0], (np.array([110, 90]) - (10, 0) + 0.5) * 1.36 - 0.5)
    with pytest.raises(
        DataError, match="its EXIF turns it, and points count pixels of the upright"
    ):
        build(folder, tmp_path / "o2", "--landmarks", annotate({"0.jpg": [[60, 115], *PLACES[1:]]}))


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "30 megapixels"])
def test_unusual_pictures_are_taken(cats, tmp_path, mode):
    folder, annotate = cats
    (folder / "0.jpg").unlink()
    if mode == "I;16":
        name, values = "0.png", np.linspace(0, 65535, 12000).reshape(100, 120).astype(np.uint16)
        Image.fromarray(values).save(folder / name)
    elif mode == "CMYK":
        name = "0.jpg"
        picture(0, (120, 100)).convert("CMYK").save(folder / name)
    else:
        name = "0.jpg"
        picture(0, (6000, 5000)).save(folder / name, quality=40)
    build(folder, tmp_path / "out", "--landmarks", annotate({name: PLACES}))
    shards = open_shards(str(tmp_path / "out" / "annotated-train"))
    frames = load_frames(shards, find_benchmark(str(tmp_path / "out" / "benchmark.yaml")))
    assert len(frames) == 1 and frames.images.float().std() > 1


@pytest.mark.parametrize(
    ("pictures", "options", "words"),
    [
        (
            {"0.jpg": [[130, 70], *PLACES[1:]]},
            (),
            r"'nose' of 0.jpg at \(130, 70\), outside of its",
        ),
        (
            {"0.jpg": PLACES, "cow.jpg": PLACES},
            (),
            "1 pictures that are not in .*, the first cow.jpg",
        ),
        ({"0.jpg": [None] * 3}, (), "no picture with a point"),
        ({"0.jpg": PLACES}, ("--test", "1.5"), "found 1.5, needed a share"),
        ({"0.jpg": PLACES}, ("--scale-points", "nose", "tail"), "'tail', the points are nose"),
        ({"0.jpg": PLACES}, ("--test", "NAMES"), "3.jpg, which is no annotated picture"),
    ],
)
def test_points_that_do_not_fit_are_refused_in_one_sentence(
    cats, tmp_path, pictures, options, words
):
    folder, annotate = cats
    (tmp_path / "names.txt").write_text("3.jpg\n")
    options = [str(tmp_path / "names.txt") if word == "NAMES" else word for word in options]
    with pytest.raises((DataError, ConfigError), match=words) as caught:
        build(folder, tmp_path / "out", "--landmarks", annotate(pictures), *options)
    assert "\n" not in str(caught.value)


def test_a_damaged_picture_with_points_is_refused(cats, tmp_path):
    folder, annotate = cats
    (folder / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.jpg: not an image that can be read, and .*points"):
        build(folder, tmp_path / "out", "--landmarks", annotate({"0.jpg": PLACES}))


def test_a_picture_named_in_two_folders_needs_its_path(cats, tmp_path):
    folder, annotate = cats
    for name in ("x", "y"):
        (folder / name).mkdir()
        picture(7, (120, 100)).save(folder / name / "7.jpg")
    with pytest.raises(DataError, match="which may be x/7.jpg or y/7.jpg"):
        build(folder, tmp_path / "out", "--landmarks", annotate({"labeled/7.jpg": PLACES}))
    build(folder, tmp_path / "out", "--landmarks", annotate({"labeled/y/7.jpg": PLACES}))
    assert open_split(tmp_path / "out", "annotated-train")[0]["file"] == "y/7.jpg"


def test_points_outside_of_what_networks_see_are_named(cats, tmp_path, capsys):
    folder, annotate = cats
    points = annotate({"0.jpg": [[60, 99], *PLACES[1:]]})
    build(folder, tmp_path / "out", "--landmarks", points)
    assert "1 of 3 points lie outside of the middle 0.71" in capsys.readouterr().out
    build(folder, tmp_path / "wide", "--landmarks", points, "--margin", 1.5)
    assert "note" not in capsys.readouterr().out


def test_an_option_of_points_needs_points(cats, tmp_path):
    with pytest.raises(ConfigError, match="--margin: found no --landmarks"):
        build(cats[0], tmp_path / "out", "--margin", 2)
