"""Butterflies: exact points that follow the drawing, and a folder that the shard builder reads."""

import json

import numpy as np
import pytest

from scemae.cli import run_command
from scemae.faces.butterflies import POINTS, SIDE, draw_butterfly
from scemae.shards.annotations.read import read_labels


def test_a_picture_follows_from_seed_and_number_alone():
    first, second = draw_butterfly(3, seed=0), draw_butterfly(3, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(draw_butterfly(4, seed=0)[0], first[0])
    assert not np.array_equal(draw_butterfly(3, seed=1)[0], first[0])


@pytest.mark.parametrize("index", range(12))
def test_points_lie_in_the_picture_left_of_right_and_head_above_tail(index):
    pixels, points = draw_butterfly(index, seed=0)
    place = dict(zip(POINTS, points, strict=True))
    assert pixels.shape == (SIDE, SIDE, 3) and (points > 0).all() and (points < SIDE - 1).all()
    assert place["head"][1] < place["tail"][1]
    for part in ("forewing", "notch", "hindwing"):
        assert place[f"left {part}"][0] < place[f"right {part}"][0]


def test_the_folder_has_clicked_and_test_pictures_apart(tmp_path):
    words = ["faces", str(tmp_path / "b"), "--layout", "butterflies", "--count", "36"]
    run_command([*words, "--workers", "1"])
    every, clicked, tested = (
        read_labels([tmp_path / "b" / f"{name}.json"]) for name in ("points", "clicked", "test")
    )
    assert [len(part.objects) for part in (every, clicked, tested)] == [36, 20, 6]
    names = {one.picture for one in tested.objects}
    assert names == {*(tmp_path / "b" / "test.txt").read_text().split()}
    assert not names & {one.picture for one in clicked.objects}
    assert {path.name for path in (tmp_path / "b" / "pictures").iterdir()} == {
        *json.loads((tmp_path / "b" / "points.json").read_text())["pictures"]
    }
