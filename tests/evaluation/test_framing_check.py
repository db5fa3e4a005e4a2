"""Bad frames are named: the criterion beside slow formulas, the warning, and where a record is."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import scemae
from scemae.cli import run_command
from scemae.config.load import load_config, to_yaml
from scemae.data.geometry import CROP
from scemae.errors import DataError, FramingWarning
from scemae.evaluation.landmarks.regressor_file import load_regressor
from scemae.files import disk
from scemae.runs import usual_frames
from scemae.runs.checkpoints import checkpoint
from tests.support import picture, write_backbone, write_shards


def pixels(frames):
    """Patches of what is seen as tokens: a network that needs no training."""
    seen = frames[:, :, CROP:-CROP, CROP:-CROP].float() / 255
    return torch.nn.functional.avg_pool2d(seen, 8).flatten(2).transpose(1, 2)


def faces(count, seed):
    """Frames with a bright disc in the middle and a dark one above it, on random backgrounds."""
    random = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(136), torch.arange(136), indexing="ij")
    colours = torch.rand(count, 3, 9, 9, generator=random)
    frames = 40 * torch.nn.functional.interpolate(colours, size=(136, 136), mode="bicubic")
    for top, radius, light in ((78, 26, 180), (48, 12, -120)):
        middle = torch.tensor([68, top]) + torch.randn(count, 2, generator=random)
        away = (x - middle[:, 0, None, None]) ** 2 + (y - middle[:, 1, None, None]) ** 2
        frames += light * (away < radius**2).float()[:, None]
    return (100 + frames).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def record():
    return usual_frames.of_frames(faces(300, 0), pixels, most_moved=40)


def warned(record, frames):
    return np.mean([one.is_unusual for one in record.rate(pixels(frames))])


def test_well_framed_pictures_are_seldom_called_unusual_and_badly_framed_ones_often(record):
    new = faces(200, 1)
    assert warned(record, new) <= 0.05
    zoomed = torch.nn.functional.interpolate(new[:, :, 34:-34, 34:-34].float(), size=(136, 136))
    for wrong in (new.roll(54, 3), new.roll(-54, 2), new.rot90(2, (2, 3)), zoomed.to(torch.uint8)):
        assert warned(record, wrong) > 0.9
    nothing = torch.randint(0, 256, new.shape, generator=torch.Generator().manual_seed(2))
    assert warned(record, nothing.to(torch.uint8)) == 1


def test_a_rate_is_the_share_of_training_pictures_that_are_more_usual(record):
    tokens = pixels(faces(20, 3).roll(8, 3))
    distances = record.distance(usual_frames.sketch(tokens)).tolist()
    for framing, distance in zip(record.rate(tokens), distances, strict=True):
        below = sum(one < distance for one in record.distances.tolist())
        assert framing.less_usual_than == below / 300 and framing.pictures == 300
        assert framing.is_unusual == (300 - below + 1 <= 0.02 * 301)


def test_the_measures_are_those_of_the_slow_formulas():
    random = torch.Generator().manual_seed(0)
    framed = torch.randn(90, 9, generator=random) @ torch.randn(9, 9, generator=random)
    wrong = framed[:60].expand(3, 60, 9) + torch.randn(3, 1, 9, generator=random)
    found = usual_frames._fit(framed, wrong)
    mean = framed.mean(0)
    groups = [framed, *wrong]
    rest = torch.cat([one - one.mean(0) for one in groups]).double().numpy()
    precision = np.linalg.inv(rest.T @ rest / len(rest))
    for one in framed[:5]:
        gaps = [(one - group.mean(0)).double().numpy() for group in groups]
        logs = [-gap @ precision @ gap / 2 for gap in gaps]
        strange = ((one - mean) @ found.directions.T) ** 2 / found.variances[:-1]
        left = (one - mean) - ((one - mean) @ found.directions.T) @ found.directions
        truth = [max(logs[1:]) - logs[0], strange.sum() + left @ left / found.variances[-1]]
        assert np.allclose(found(one[None])[0], truth, rtol=1e-2, atol=1e-2)


def test_equal_pictures_make_a_record_and_features_that_are_not_finite_none():
    same = faces(1, 0).expand(12, -1, -1, -1)
    assert warned(usual_frames.of_few(same, pixels), faces(3, 1)) == 1
    with pytest.raises(DataError, match="not finite"):
        usual_frames.of_few(same, lambda frames: pixels(frames) / 0)
    assert usual_frames.of_few(same[:9], pixels) is None


def test_frames_are_moved_without_inventing_pixels():
    frames = faces(2, 0)
    right, below = usual_frames.moved(frames)[:2]
    assert torch.equal(right[:, :, 20:-20, 20:-20], frames[:, :, :96, 20:-20])
    assert torch.equal(below[:, :, 20:-20, 20:-20], frames[:, :, 40:, 20:-20])
    assert torch.equal(usual_frames.moved(frames)[-2], frames.flip(2, 3))
    assert len(usual_frames.moved(frames)) == 14


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A backbone that names shards of its training pictures."""
    folder = tmp_path_factory.mktemp("run")
    run, shards = write_backbone(folder / "mae"), write_shards(folder / "shards", 40)
    config = load_config("pretrain", [f"run_dir={run}", f"data.shards={shards}"])
    (run / "config.yaml").write_text(to_yaml(config))
    return run


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(3).save("usual.png")  # one of the training pictures, nearly
    odd = Image.new("RGB", (178, 218))
    odd.paste((255, 255, 255), (89, 0, 178, 218))
    odd.save("odd.png")
    return tmp_path


def test_match_names_the_unusual_picture_and_marks_it(run, photos, capsys):
    run_command(["match", "usual.png", "odd.png", "--run", str(run)])
    said = capsys.readouterr().err
    assert "odd.png: its frame is less usual than all of 40 training pictures" in said
    assert "give --box x0,y0,x1,y1 or --boxes-from" in said and "usual.png: its" not in said
    found = json.loads((photos / "match" / "match.json").read_text())
    assert found["second"]["framing"]["is_unusual"] and found["second"]["framing"]["pictures"] == 40
    assert found["first"]["framing"]["is_unusual"] is False


def test_the_record_is_made_once_and_kept_in_the_run(run, photos, capsys):
    scemae.load(run, device="cpu").match("usual.png", "usual.png", [(88, 120)])
    (kept,) = (run / "framing").iterdir()
    before = kept.stat().st_mtime_ns
    scemae.load(run, device="cpu").match("usual.png", "usual.png", [(88, 120)])
    assert kept.stat().st_mtime_ns == before


def test_python_warns_and_gives_the_framing(run, photos):
    model = scemae.load(run, device="cpu")
    with pytest.warns(FramingWarning, match="odd.png: its frame is .*; give box= so") as caught:
        hits = model.match("usual.png", "odd.png", [(88, 120)])
    assert caught[0].filename == __file__
    assert [one.is_unusual for one in hits.framing] == [False, True] and hits.plot()
    model.train()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.eval()
    with pytest.warns(FramingWarning, match="not checked: the model was trained further"):
        assert model.match("usual.png", "odd.png", [(88, 120)]).framing == (None, None)


def test_an_export_carries_the_record(run, photos):
    run_command(["export", str(run), "out", "--check", "1"])
    kept = usual_frames.load(photos / "out" / "framing.safetensors")
    with pytest.warns(FramingWarning, match="odd.png"):
        hits = scemae.load("out", device="cpu").match("usual.png", "odd.png", [(88, 120)])
    assert hits.framing[1].pictures == 40 == len(kept.distances)
    (photos / "out" / "framing.safetensors").unlink()
    with pytest.warns(FramingWarning, match="not checked: out: the export has no framing.safeten"):
        scemae.load("out", device="cpu").match("usual.png", "odd.png", [(88, 120)])


def test_a_model_without_a_record_says_why(photos, capsys):
    run = write_backbone(photos / "adopted")
    run_command(["match", "usual.png", "usual.png", "--run", str(run)])
    assert "framing is not checked: adopted: names no shards" in capsys.readouterr().err.replace(
        f"{photos}/", ""
    )
    assert json.loads((photos / "match" / "match.json").read_text())["first"]["framing"] is None


def test_a_damaged_record_is_named(run, photos, capsys):
    copy = photos / "copy"
    shutil.copytree(run, copy)
    name = checkpoint.newest(copy).name
    disk.make_folders(copy / "framing", copy)
    (copy / "framing" / f"{name}.safetensors").write_bytes(b"nothing")
    run_command(["match", "usual.png", "usual.png", "--run", str(copy)])
    assert "holds no record of framing that can be read; remove it" in capsys.readouterr().err
    with pytest.raises(DataError, match="holds no record"):
        usual_frames.load(copy / "framing" / f"{name}.safetensors")


def test_a_detector_compares_with_the_pictures_that_it_was_fitted_on(run, photos):
    model, names = scemae.load(run, device="cpu"), []
    for i in range(12):
        picture(100 + i, (240, 240)).save(f"{i}.png")
        names.append(f"{i}.png")
    fast = {"views": 1, "stride": 8}
    detector = scemae.fit_landmarks(model, names, [[[100, 100], [140, 120]]] * 12, **fast)
    detector.save("own.safetensors")
    load_regressor(photos / "own.safetensors")
    again = scemae.load_detector("own.safetensors", model)
    with pytest.warns(FramingWarning, match="all of 12 training pictures"):
        assert again.predict("odd.png").framing.is_unusual
    with warnings.catch_warnings():
        warnings.simplefilter("error", FramingWarning)
        assert again.predict("usual.png").framing.pictures == 12
    command = ["detect", "odd.png", "--run", str(run), "--regressor", "own.safetensors"]
    run_command([*command, "--out", "found"])
    found = json.loads((photos / "found" / "odd.landmarks.json").read_text())
    assert found["framing"] == {"less_usual_than": 1.0, "pictures": 12, "is_unusual": True}
