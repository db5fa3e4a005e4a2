"""`scemae fit`: held-out errors beside their floors, and a regressor that `detect` uses."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from scemae.cli import run_command
from scemae.errors import ConfigError, DataError
from scemae.evaluation.landmarks.benchmark_frames import Frames
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.landmarks.cross_validation import make_folds, mean_shape_errors, mirrored
from scemae.evaluation.landmarks.local_model import LocalModel
from scemae.evaluation.landmarks.regressor_file import load_regressor
from tests.evaluation.test_local_model import squares
from tests.interop.test_export import tiny_runs
from tests.support import FACES, needs_faces, picture, write_backbone

QUICK = ["--views", "2", "--stride", "8"]


def test_the_mean_shape_of_a_fold_is_that_of_the_other_folds():
    landmarks = torch.tensor([[[0.0, 0], [10, 0]], [[2, 0], [12, 0]], [[100, 0], [110, 0]]])
    found = mean_shape_errors(landmarks, np.array([0, 0, 1]), (0, 1))
    assert found == pytest.approx([1000, 980, 990])


def test_mirrored_frames_exchange_the_points_of_pairs():
    frames = squares(1)
    both = mirrored(frames, [(0, 1)])
    again = mirrored(
        Frames(both.images[1:], both.landmarks[1:], ["x"], both.identities[1:]), [(0, 1)]
    )
    assert torch.equal(again.images[1], frames.images[0])
    assert torch.allclose(again.landmarks[1], frames.landmarks[0])
    x, y = both.landmarks[1, 1].round().int().tolist()
    assert both.images[1, 0, y, x] == 255  # red, which was the first point


def test_objects_of_one_picture_are_left_out_together():
    fold = make_folds(["a", "b", "a", "c", "b"], 3, seed=0)
    assert fold[0] == fold[2] and fold[1] == fold[4] and len({*fold.tolist()}) == 3
    with pytest.raises(ConfigError, match="found 1 annotated picture, at least 2"):
        make_folds(["a", "a"], 2, seed=0)
    with pytest.raises(ConfigError, match="--folds: found 4, needed 2 to 3"):
        make_folds(["a", "b", "c"], 4, seed=0)


def build(tmp_path, count, *options, places=((60, 70), (40, 30), (80, 30))):
    """Shards of `count` annotated pictures and two others."""
    folder = tmp_path / "cats"
    folder.mkdir()
    for i in range(count + 2):
        picture(i, (120, 100)).save(folder / f"{i}.jpg")
    pictures = {
        f"{i}.jpg": [place and [place[0] + i, place[1] + i % 3] for place in places]
        for i in range(count)
    }
    points = {"points": ["nose", "left ear", "right ear"], "pictures": pictures}
    (tmp_path / "points.json").write_text(json.dumps(points))
    words = ["shards", "build", "folder", folder, tmp_path / "shards", "--workers", 1]
    words += ["--landmarks", tmp_path / "points.json", "--test", 0.25, *options]
    run_command([str(word) for word in words])
    return tmp_path / "shards"


def fit(shards, out, *options):
    run_command(["fit", str(shards), "--out", str(out), *QUICK, *map(str, options)])


def test_fit_writes_errors_floors_and_a_regressor_that_detect_uses(tmp_path, capsys):
    shards, backbone = build(tmp_path, 6, "--margin", 1.2), write_backbone(tmp_path / "mae")
    fit(shards, tmp_path / "fit", "--backbone", backbone)
    result = json.loads((tmp_path / "fit" / "fit.json").read_text())
    for part, n in (("held_out", 4), ("test", 2)):
        methods = result[part]["methods"]
        assert set(methods) == {"mean shape", "random encoder", "trained"}
        assert all(one["low"] <= one["mean"] <= one["high"] for one in methods.values())
        assert {one["n"] for one in methods.values()} == {n}
    assert set(result["held_out"]["comparisons"]) == {"mean shape", "random encoder"}
    assert "each picture left out in turn" in capsys.readouterr().out
    model, origin = load_regressor(tmp_path / "fit" / "regressor.safetensors")
    assert isinstance(model, LocalModel)
    assert origin.points == ["nose", "left ear", "right ear"] and origin.margin == 1.2
    assert origin.title == shards.name
    words = ["detect", tmp_path / "cats" / "0.jpg", "--backbone", backbone, "--out", tmp_path / "f"]
    words += ["--regressor", tmp_path / "fit" / "regressor.safetensors", "--box", "30,20,90,80"]
    run_command([str(word) for word in words])
    found = json.loads((tmp_path / "f" / "0.landmarks.json").read_text())
    assert found["names"] == origin.points and len(found["landmarks"]) == 3
    assert found["box"] == [24, 14, 96, 86]  # 1.2 times as wide, around the same middle


def test_a_projector_s_features_are_fitted_and_found_again(tmp_path):
    backbone, projector = tiny_runs(tmp_path / "runs")
    shards = build(tmp_path, 4)
    runs = ["--backbone", backbone, "--projector", projector]
    fit(shards, tmp_path / "fit", *runs)
    _, origin = load_regressor(tmp_path / "fit" / "regressor.safetensors")
    assert set(origin.digests) == {"backbone", "projector"}
    words = ["detect", tmp_path / "cats" / "5.jpg", *runs, "--out", tmp_path / "found"]
    words += ["--regressor", tmp_path / "fit" / "regressor.safetensors"]
    run_command([str(word) for word in words])
    assert (tmp_path / "found" / "5.landmarks.json").is_file()


def test_evaluate_measures_own_points_like_any_benchmark(tmp_path):
    shards, backbone = build(tmp_path, 8), write_backbone(tmp_path / "mae")
    words = [f"run_dir={tmp_path / 'eval'}", f"backbone={backbone}", "matching.shards=null"]
    words += [f"detection.{part}={shards}/annotated-{part}" for part in ("train", "test")]
    words += [f"detection.benchmark={shards}/benchmark.yaml", "detection.epochs=1"]
    run_command(["evaluate", *words, "detection.stride=8", "runtime.device=cpu"])
    found = json.loads((tmp_path / "eval" / "results.json").read_text())["detection"]
    assert found["train_images"] == 6 and found["test_images"] == 2
    assert {"mean face", "random encoder", "MAE"} <= set(found["methods"])


@pytest.mark.parametrize(
    ("count", "places", "error", "words"),
    [
        (1, ((60, 70), (40, 30), (80, 30)), ConfigError, "found 1 annotated picture, at least 2"),
        (3, ((60, 70), (40, 30), None), DataError, "'right ear' in 0 of 3 pictures, at least 2"),
    ],
)
def test_too_few_points_give_one_sentence(tmp_path, count, places, error, words):
    shards = build(tmp_path, count, "--test", 0, places=places)
    with pytest.raises(error, match=words):
        fit(shards, tmp_path / "fit", "--backbone", write_backbone(tmp_path / "mae"))


def test_shards_without_points_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"found no benchmark.yaml; give the folder"):
        fit(tmp_path, tmp_path / "fit", "--backbone", write_backbone(tmp_path / "mae"))


@needs_faces
def test_real_faces_are_a_folder_and_a_csv(tmp_path):
    """Twelve faces with 68 points: the file's numbers are those of the frames."""
    head, *rows = (FACES / "Anno" / "landmarks68.csv").read_text().splitlines()
    with tarfile.open(FACES / "img_align_w300.tar") as tar:
        names = {Path(name).name: name for name in tar.getnames() if name.endswith(".jpg")}
        rows = [row for row in rows if row.split(",")[0] in names][:12]
        (tmp_path / "faces").mkdir()
        for row in rows:
            name = row.split(",")[0]
            data = tar.extractfile(names[name]).read()
            (tmp_path / "faces" / name).write_bytes(data)
    (tmp_path / "points.csv").write_text("\n".join([head, *rows]))
    words = ["shards", "build", "folder", tmp_path / "faces", tmp_path / "shards", "--workers", 1]
    words += ["--landmarks", tmp_path / "points.csv", "--scale-points", 36, 45]
    run_command([str(word) for word in words])
    fit(tmp_path / "shards", tmp_path / "fit", "--backbone", write_backbone(tmp_path / "mae"))
    result = json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert result["objects"] == 12 and len(result["points"]) == 68
    assert 3 < result["held_out"]["methods"]["mean shape"]["mean"] < 25
    assert find_benchmark(str(tmp_path / "shards" / "benchmark.yaml")).eyes == (36, 45)


def test_tables_have_a_column_for_own_points(tmp_path):
    shards, backbone = build(tmp_path, 8), write_backbone(tmp_path / "mae")
    words = [backbone, f"run_dir={tmp_path / 'tables'}", f"shards=[{shards}]", "pictures=false"]
    words += ["detection.epochs=1", "detection.stride=8", "runtime.device=cpu", "floors=true"]
    run_command(["tables", *map(str, words)])
    tables = json.loads((tmp_path / "tables" / "tables.json").read_text())
    name = str(shards / "benchmark.yaml")
    assert tables["benchmarks"][name]["title"] == "shards"
    assert (tables["benchmarks"][name]["train"], tables["benchmarks"][name]["test"]) == (6, 2)
    rows = [row for row in tables["rows"] if row["table"] == 2]
    assert rows and all(row["cells"][name]["mean"] > 0 for row in rows)
    assert "| shards |" in (tmp_path / "tables" / "tables.md").read_text()
