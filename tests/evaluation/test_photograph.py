"""Your own photographs: frames of boxes, points, matches, landmarks, and errors in one sentence."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, normalize

from scemae.cli import run_command
from scemae.data.framing import Box, frame_of, square_box
from scemae.data.picture import read_picture
from scemae.errors import CheckpointError, ConfigError, DataError
from scemae.evaluation.landmarks import matching
from scemae.evaluation.landmarks.benchmark_frames import to_frame
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.landmarks.regression import LandmarkRegressor, RegressionConfig
from scemae.evaluation.landmarks.regressor_file import load_regressor, save_regressor
from scemae.evaluation.photographs import marked, photograph_features
from scemae.evaluation.photographs.photograph import (
    check_points,
    grid_points,
    parse_boxes,
    parse_points,
)
from scemae.methods import mae, registry
from scemae.runs.checkpoints import checkpoint
from tests.interop.test_export import tiny_runs
from tests.support import picture

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tiny_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def photo(tmp_path):
    picture(1, (300, 240)).save(tmp_path / "a.jpg")
    return tmp_path / "a.jpg"


def regressor_on(path, digests, *, width=64, stride=8):
    """A random regressor of five points that says it was trained on the weights `digests`."""
    settings = RegressionConfig(intermediate=2, kernel=1, init_std=0.05)
    regressor = LandmarkRegressor(width, 5, settings)
    save_regressor(path, regressor, "mafl", settings, digests, stride=stride)
    return regressor


def digests_of(runs):
    return {
        part: checkpoint.weights_digest(checkpoint.newest(run))
        for part, run in zip(("backbone", "projector"), runs)
    }


def test_a_pixel_of_the_frame_lies_where_the_box_puts_it():
    photograph = Image.new("RGB", (900, 700))
    box = Box(100, 50, 544)  # four pixels to one
    x, y = (int(value) for value in box.from_crop(np.array([30.0, 60.0])).round())
    photograph.paste((255, 255, 255), (x - 1, y - 1, x + 3, y + 3))
    frame = frame_of(photograph, box)[0, 20:-20, 20:-20]
    assert divmod(int(frame.flatten().argmax()), 96) == (60, 30)


def test_the_frame_of_an_aligned_picture_is_the_benchmark_s():
    image = picture(5)
    truth, _ = to_frame(image, np.zeros((5, 2)), find_benchmark("mafl"))
    found = frame_of(image, square_box(image, None, "-"))
    assert np.array_equal(found.numpy(), np.asarray(truth).transpose(2, 0, 1))


def test_points_go_to_the_crop_and_back():
    box, points = Box(-20, 35, 333), np.random.default_rng(0).uniform(0, 300, (9, 2))
    assert np.allclose(box.from_crop(box.to_crop(points)), points)
    assert np.allclose(box.to_crop(np.array([box.seen[:2]])), -0.5, atol=0.3)


def test_a_box_is_made_square_around_its_middle_and_may_reach_out(photo):
    image = read_picture(photo)
    assert square_box(image, None, photo) == Box(30, 0, 240)
    assert square_box(picture(1, (178, 218)), None, photo) == Box(
        0, 30, 178
    )  # as the benchmark frames it
    assert square_box(image, [100, 50, 200, 100], photo) == Box(100, 25, 100)
    outside = square_box(image, [-50, -50, 150, 150], photo)
    assert (frame_of(image, outside)[:, :30, :30] == 0).all() and frame_of(image, outside)[
        :, 40:, 40:
    ].any()


@pytest.mark.parametrize(
    "corners", [[400, 0, 500, 100], [50, 50, 40, 90], [290, 0, 400, 100], [0, 0, 1e7, 1e7]]
)
def test_a_box_that_shows_nothing_is_refused(photo, corners):
    with pytest.raises(ConfigError, match="a.jpg: --box: found"):
        square_box(read_picture(photo), corners, photo)


def test_each_file_that_is_no_photograph_gives_a_one_sentence_error(tmp_path, photo):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:2000])
    picture(1, (300, 20)).save(tmp_path / "flat.png")
    Image.new("1", (20_000, 9_000)).save(tmp_path / "huge.png")
    Image.fromarray(np.zeros((40, 40), np.float32)).save(tmp_path / "float.tif")
    for name, words in {
        "text.jpg": "not an image that",
        "cut.jpg": "damaged",
        "flat.png": "300x20 pixels",
        "huge.png": "100 million",
        "float.tif": "floating-point",
        "none.jpg": "no such file",
        ".": "is a folder",
    }.items():
        with pytest.raises(DataError, match=words) as caught:
            read_picture(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_boxes_and_points_that_cannot_be_read_are_refused(photo):
    for texts, words in (
        (["1,2,3"], "4 numbers"),
        (["1,2,3,4"] * 2, "found 2 for 1"),
        (["a,b,c,d"], "4 numbers"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse_boxes(texts, [photo])
    for text in ("", "1", "1,2 3", "1,nan"):
        with pytest.raises(ConfigError, match="--points"):
            parse_points(text)
    with pytest.raises(ConfigError, match="found 31,2, the network sees x and y of"):
        check_points(parse_points("150,120 31,2"), Box(30, 0, 240), photo)


def test_a_grid_lies_within_what_the_network_sees():
    box = Box(30, 0, 240)
    points = grid_points(box, 5)
    check_points(points, box, "-")
    assert (
        points.shape == (25, 2)
        and (np.diff(points[:5, 0]) > 0).all()
        and np.allclose(points.mean(0), (149.5, 119.5))
    )


def test_a_photograph_matches_itself_in_place(runs, photo):
    seen = photograph_features.load_features(*runs, CPU)
    view = photograph_features.open_photograph(photo, None)
    found = seen.match(view, view, grid_points(view.box, 4))
    assert abs(found.matches - found.points).max() <= 240 / 136 and (found.returns == 0).all()
    assert (found.cosines > 0.9999).all()


def test_cosines_are_those_of_the_upsampled_features():
    torch.manual_seed(0)
    source, target, points = (
        torch.randn(1, 8, 48, 48),
        torch.randn(1, 8, 48, 48),
        torch.tensor([[[3.0, 90], [40, 41]]]),
    )
    answers = matching.match(source, target, points)
    found = torch.cosine_similarity(
        photograph_features._at(source, points), photograph_features._at(target, answers), dim=1
    )[0]
    first, second = (
        normalize(interpolate(part, size=(96, 96), mode="bilinear"), dim=1)[0]
        for part in (source, target)
    )
    for i, (x, y) in enumerate(points[0].long().tolist()):
        assert torch.allclose(
            found[i], (first[:, y, x, None, None] * second).sum(0).max(), atol=1e-5
        )


def test_match_writes_points_picture_and_provenance(runs, photo, tmp_path, capsys):
    picture(3, (200, 330)).save(tmp_path / "b.png")
    run_command(
        [
            "match",
            str(photo),
            str(tmp_path / "b.png"),
            "--backbone",
            str(runs[0]),
            "--projector",
            str(runs[1]),
            "--out",
            str(tmp_path / "out"),
            "--points",
            "150,120 160.5,100",
            "--box",
            "centre",
            "--box",
            "0,50,200,250",
        ]
    )
    found = json.loads((tmp_path / "out" / "match.json").read_text())
    assert found["matches"][1]["point"] == [160.5, 100.0] and found["second"]["box"] == [
        0,
        50,
        200,
        250,
    ]
    assert found["model"]["digests"] == digests_of(runs) and {"cosine", "returns", "match"} < set(
        found["matches"][0]
    )
    assert (
        Image.open(tmp_path / "out" / "match.png").width > 1200
        and "match.png" in capsys.readouterr().out
    )


def test_match_takes_the_landmarks_of_a_regressor(runs, photo, tmp_path):
    regressor_on(tmp_path / "r.safetensors", digests_of(runs))
    run_command(
        [
            "match",
            str(photo),
            str(photo),
            "--backbone",
            str(runs[0]),
            "--projector",
            str(runs[1]),
            "--out",
            str(tmp_path / "out"),
            "--regressor",
            str(tmp_path / "r.safetensors"),
        ]
    )
    assert len(json.loads((tmp_path / "out" / "match.json").read_text())["matches"]) == 5


@torch.no_grad()
def test_a_regressor_comes_back_as_it_was_saved(tmp_path):
    regressor, features = (
        regressor_on(tmp_path / "r.safetensors", {"backbone": "a"}),
        torch.randn(2, 64, 12, 12),
    )
    again, origin = load_regressor(tmp_path / "r.safetensors")
    assert torch.equal(again(features), regressor(features))
    assert (origin.benchmark, origin.stride, origin.width, origin.digests) == (
        "mafl",
        8,
        64,
        {"backbone": "a"},
    )


def test_detect_gives_landmarks_in_pixels_of_the_photograph(runs, photo, tmp_path):
    regressor = regressor_on(tmp_path / "r.safetensors", digests_of(runs))
    run_command(
        [
            "detect",
            str(photo),
            "--backbone",
            str(runs[0]),
            "--projector",
            str(runs[1]),
            "--regressor",
            str(tmp_path / "r.safetensors"),
            "--out",
            str(tmp_path / "out"),
        ]
    )
    found = json.loads((tmp_path / "out" / "a.landmarks.json").read_text())
    encoder, folder = mae.load_encoder(runs[0])
    frame = frame_of(read_picture(photo), Box(30, 0, 240)).unsqueeze(0).float() / 255
    maps = photograph_features.load_features(*runs, CPU).subject.trunk.maps(frame, 8)
    first = normalize(maps[0], dim=1)
    projector = registry.load_stage_2(runs[1], folder, encoder).module.projector
    features = torch.cat([first, projector(maps[0])], dim=1)
    crop = (regressor(features)[0].detach().double().numpy() + 1) / 2 * 95
    assert np.allclose(found["landmarks"], Box(30, 0, 240).from_crop(crop), atol=0.02)
    assert (
        len(found["names"]) == 5 and Image.open(tmp_path / "out" / "a.landmarks.png").size[0] > 600
    )


def test_a_bad_photograph_among_many_is_named_and_the_others_are_done(
    runs, photo, tmp_path, capsys
):
    regressor_on(tmp_path / "r.safetensors", digests_of(runs))
    (tmp_path / "bad.jpg").write_text("no picture")
    arguments = [
        "--backbone",
        str(runs[0]),
        "--projector",
        str(runs[1]),
        "--regressor",
        str(tmp_path / "r.safetensors"),
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(DataError, match="1 of 3 photographs were left out, the first .*bad.jpg"):
        run_command(["detect", str(photo), str(tmp_path / "bad.jpg"), str(photo), *arguments])
    assert "bad.jpg: not an image" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}.landmarks.{kind}" for name in ("a", "a-2") for kind in ("json", "png")
    }


def test_a_regressor_of_other_features_is_refused(runs, tmp_path):
    full, path = digests_of(runs), tmp_path / "r.safetensors"
    for digests, given, words in (
        (full | {"projector": "f" * 64}, runs, "another projector"),
        (full | {"backbone": "f" * 64}, runs, "another backbone"),
        (full, (runs[0], None), "none was given; give --run RUN"),
    ):
        regressor_on(path, digests)
        with pytest.raises(CheckpointError, match=words):
            photograph_features.load_detector(path, photograph_features.load_features(*given, CPU))
    regressor_on(path, {"backbone": full["backbone"]}, width=48)
    assert (
        photograph_features.load_detector(
            path, photograph_features.load_features(*runs, CPU)
        ).line.name
        == "raw"
    )
    regressor_on(path, {}, width=48)
    with pytest.raises(CheckpointError, match="of no run"):
        photograph_features.load_detector(path, photograph_features.load_features(*runs, CPU))
    regressor_on(path, full, width=10)
    with pytest.raises(CheckpointError, match="reads 10 channels"):
        photograph_features.load_detector(path, photograph_features.load_features(*runs, CPU))


def test_files_that_are_no_regressors_are_refused(runs, tmp_path):
    (tmp_path / "text.safetensors").write_text("nothing at all, but long enough")
    weights = checkpoint.newest(runs[1]) / checkpoint.WEIGHTS
    for path in (tmp_path / "none", tmp_path, tmp_path / "text.safetensors", weights):
        with pytest.raises(CheckpointError, match="regressor|such file|safetensors"):
            load_regressor(path)


def test_many_points_get_colours_of_their_own():
    assert len(set(marked.point_colours(68))) == 68 and len(set(marked.point_colours(5))) == 5


def test_a_missing_checkpoint_is_named_before_anything_is_written(photo, tmp_path):
    with pytest.raises(ConfigError, match="gone: no such file or folder"):
        run_command(
            [
                "match",
                str(photo),
                str(photo),
                "--backbone",
                str(tmp_path / "gone"),
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert not (tmp_path / "out").exists()
