"""`import scemae`: features, matches, gradients, detectors, and what wrong input gets."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file

import scemae
from scemae.cli import run_command
from scemae.errors import CheckpointError, ConfigError, DataError, RunFolderError
from scemae.evaluation.landmarks import features
from scemae.methods import mae, registry
from tests.interop.test_export import tiny_runs
from tests.support import picture

FAST = {"views": 2, "stride": 8}
POINTS = [[120.0, 100.0], [180.0, 100.0], [150.5, 140.0]]  # inside what is seen of 300x240


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tiny_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def model(runs):
    return scemae.load(runs[1], device="cpu")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("a.jpg", "b.jpg", "new.jpg")):
        picture(i, (300, 240)).save(name)
    return tmp_path


@pytest.fixture
def detector(model, photos):
    return scemae.fit_landmarks(model, ["a.jpg", "b.jpg"], [POINTS, POINTS], **FAST)


def test_import_scemae_imports_neither_torch_nor_numpy():
    code = "import sys, scemae; assert 'load' in dir(scemae); print(sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "typing", "scemae.api"} & set(eval(found.stdout))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        scemae.lode  # noqa: B018


def test_features_are_the_projected_ones_that_match_compares(runs, model, photos):
    encoder, folder = mae.load_encoder(runs[0])
    projector = registry.load_stage_2(runs[1], folder, encoder).module.projector
    image = Image.open("a.jpg")
    frame = torch.from_numpy(np.asarray(image.crop((30, 0, 270, 240)).resize((136, 136), 2)).copy())
    tokens = features.patch_tokens(encoder, frame.permute(2, 0, 1)[None].float() / 255, 2)
    found = model("a.jpg", stride=2)
    assert found.shape == (1, 16, 48, 48) and not found.requires_grad
    assert torch.equal(found, projector.project(tokens))


def test_paths_images_arrays_and_tensors_of_one_picture_give_the_same_features(model, photos):
    image = Image.open("a.jpg")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    truth = model("a.jpg", stride=8)
    for one in (photos / "a.jpg", image, array, tensor, array / 255, array[None], tensor[None]):
        assert torch.equal(model(one, stride=8), truth)
    # floats of a tensor keep their graph, and so are resized by torch instead of PIL
    soft = model(tensor.float() / 255, stride=8)
    assert torch.nn.functional.cosine_similarity(soft, truth, dim=1).min() > 0.999
    batch = model(["b.jpg", image, tensor], stride=8)
    assert torch.allclose(batch[1:], truth.expand(2, -1, -1, -1), atol=1e-5)
    assert not torch.allclose(batch[:1], truth, atol=1e-2)


def test_a_picture_that_exif_turns_is_upright_as_path_and_as_image(model, photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, (240, 300)).save("turned.jpg", exif=exif)
    assert torch.equal(model("turned.jpg", stride=8), model(Image.open("turned.jpg"), stride=8))


def test_each_picture_of_a_batch_has_its_own_box(model, photos):
    boxes = [(30, 0, 270, 240), (50, 10, 250, 210)]
    both = model(["a.jpg", "a.jpg"], stride=8, box=boxes)
    assert torch.allclose(both[:1], model("a.jpg", stride=8), atol=1e-5)
    assert torch.allclose(both[1:], model("a.jpg", stride=8, box=boxes[1]), atol=1e-5)
    half = torch.from_numpy(np.asarray(Image.open("a.jpg")).copy()).permute(2, 0, 1) / 255
    outside = model(half, stride=8, box=(-40, -40, 160, 160))
    truth = model("a.jpg", stride=8, box=(-40, -40, 160, 160))
    assert torch.nn.functional.cosine_similarity(outside, truth, dim=1).min() > 0.999


def test_matches_are_those_of_scemae_match(runs, model, photos):
    run_command(["match", "a.jpg", "b.jpg", "--run", str(runs[1]), "--points", "120,100 150.5,140"])
    rows = json.loads((photos / "match" / "match.json").read_text())["matches"]
    hits = model.match("a.jpg", "b.jpg", [(120, 100), (150.5, 140)])
    assert np.round(hits.matches, 2).tolist() == [row["match"] for row in rows]
    assert hits.points.tolist() == [row["point"] for row in rows]
    assert [round(one, 4) for one in hits.cosines.tolist()] == [row["cosine"] for row in rows]
    assert [round(one, 2) for one in hits.returns.tolist()] == [row["returns"] for row in rows]
    assert len(hits.plot().axes) == 2
    boxed = model.match("a.jpg", "a.jpg", [(120, 100)], box=[(40, 10, 240, 210), None])
    assert boxed.first.box.corners == [40, 10, 240, 210]
    assert boxed.second.box.corners == [30, 0, 270, 240]


def test_gradients_reach_every_weight_after_train_and_none_before(model, photos):
    assert not model.training and not any(one.requires_grad for one in model.parameters())
    model.train()
    head = torch.nn.Conv2d(model.width, 1, 1)
    head(model(["a.jpg", "b.jpg"], stride=8)).mean().backward()
    assert all(one.grad is not None for one in model.parameters())
    assert all(float(one.grad.abs().sum()) > 0 for one in model.parameters())
    assert not model.eval()("a.jpg", stride=8).requires_grad
    with torch.no_grad():
        assert not model.train()("a.jpg", stride=8).requires_grad


def test_a_gradient_is_what_a_small_step_of_a_weight_changes(model):
    model.train().double()
    frame = torch.rand(3, 136, 136, generator=torch.Generator().manual_seed(0))
    weight, step = model.trunk.blocks[0].mlp.fc1.weight, 1e-3
    model(frame, stride=4).sum().backward()
    place = divmod(int(weight.grad.abs().argmax()), weight.shape[1])
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[place] += sign * step
            values.append(float(model(frame, stride=4).double().sum()))
            weight[place] -= sign * step
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(
        float(weight.grad[place]), rel=0.02
    )


def test_gradients_reach_the_pixels_of_a_float_tensor(model):
    picture = torch.rand(3, 200, 240, requires_grad=True)
    model.train()(picture, stride=8).square().sum().backward()
    assert picture.grad[:, 60:140, 80:160].abs().sum() > 0
    assert picture.grad[:, :, :10].abs().sum() == 0  # outside of the centred square


def test_a_detector_gives_the_same_points_after_saving_and_by_scemae_detect(
    runs, model, detector, photos
):
    found = detector.predict("new.jpg")
    assert found.points.shape == (3, 2) and detector.landmarks == 3 and found.plot().axes
    detector.save("own/d.safetensors")
    again = scemae.load_detector("own/d.safetensors", scemae.load(runs[1], device="cpu"))
    assert np.array_equal(again.predict("new.jpg").points, found.points)
    options = ["--run", str(runs[1]), "--regressor", "own/d.safetensors", "--out", "out"]
    run_command(["detect", "new.jpg", *options])
    told = json.loads((photos / "out" / "new.landmarks.json").read_text())["landmarks"]
    assert told == np.round(found.points, 2).tolist()


def test_a_detector_learns_points_that_it_was_shown(runs, photos):
    model = scemae.load(runs[0], device="cpu")  # stage 1 alone will do
    found = scemae.fit_landmarks(model, ["a.jpg"], [POINTS], views=4, stride=4)
    centre = np.linalg.norm(np.array(POINTS) - POINTS[0], axis=1).mean()
    error = np.linalg.norm(found.predict("a.jpg").points - POINTS, axis=1).mean()
    assert error < centre / 3


def test_a_point_that_is_not_seen_in_a_picture_is_nan(model, photos):
    hidden = [*POINTS[:2], [np.nan, np.nan]]
    found = scemae.fit_landmarks(model, ["a.jpg", "b.jpg"], [POINTS, hidden], **FAST)
    assert np.isfinite(found.predict("new.jpg").points).all()


def test_a_saved_model_loads_with_the_same_features_and_detectors(model, detector, photos):
    detector.save("d.safetensors")
    model.save_pretrained("out")
    again = scemae.load("out", device="cpu")
    assert torch.equal(again("a.jpg", stride=4), model("a.jpg", stride=4))
    assert again.digests() == model.digests()
    theirs = scemae.load_detector("d.safetensors", again).predict("new.jpg").points
    assert np.array_equal(theirs, detector.predict("new.jpg").points)
    with pytest.raises(RunFolderError, match="out: is there already"):
        model.save_pretrained("out")


def test_from_pretrained_and_push_to_hub_mean_the_same_folder(model, photos, monkeypatch):
    """The hub itself is not asked: what would be sent is kept."""
    model.save_pretrained("out")
    again = scemae.api.Model.from_pretrained("out", device="cpu")
    assert torch.equal(again("a.jpg", stride=8), model("a.jpg", stride=8))
    asked = []

    def keep(self, *, repo_id, folder_path):
        asked.append(repo_id)
        shutil.copytree(folder_path, "sent")
        return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **options: asked.append(options))
    monkeypatch.setattr(HfApi, "upload_folder", keep)
    assert model.push_to_hub("me/face", private=True).endswith("/me/face")
    assert asked == [{"private": True, "exist_ok": True}, "me/face"]
    names = sorted(path.name for path in (photos / "out").iterdir())
    assert sorted(path.name for path in (photos / "sent").iterdir()) == names
    assert again.digests() == scemae.load("sent", device="cpu").digests()
    with pytest.raises(CheckpointError, match="found no OWNER/NAME"):
        model.push_to_hub("face")


def test_weights_that_were_trained_further_are_saved_as_they_are(model, detector, photos):
    detector.save("d.safetensors")
    before = model("a.jpg", stride=8)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model("a.jpg", stride=8).square().mean().backward()
    optimizer.step()
    model.eval().save_pretrained("out")
    again = scemae.load("out", device="cpu")
    assert torch.equal(again("a.jpg", stride=8), model("a.jpg", stride=8))
    assert not torch.equal(before, model("a.jpg", stride=8))
    source = json.loads((photos / "out" / "config.json").read_text())["scemae"]["source"]
    assert source["checkpoint"].endswith(", trained further")
    assert again.digests() == model.digests() != {}
    for other in (model, again):
        with pytest.raises(CheckpointError, match="features of another backbone"):
            scemae.load_detector("d.safetensors", other)
    assert load_file("out/model.safetensors")["cls_token"].shape == (1, 1, 48)


def test_a_copy_of_a_model_is_refused(model):
    import copy

    with pytest.raises(ConfigError, match="load it again"):
        copy.deepcopy(model)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("cut.jpg", "cut.jpg: .*damaged"),
        ("none.jpg", "none.jpg: no such file"),
        (7, "picture 0: found a int; give a path"),
        ([], "found no picture"),
        (np.zeros((200, 200)), r"picture 0: found the shape \(200, 200\)"),
        (np.zeros((200, 200, 3), np.int64), "numbers of type int64"),
        (np.full((200, 200, 3), 2.0), r"floats from 2 to 2, they must lie in \[0, 1\]"),
        (torch.full((3, 200, 200), torch.nan), r"floats from nan to nan"),
        (np.zeros((20, 200, 3), np.uint8), "found 200x20 pixels, at least 32"),
        (torch.rand(1, 3, 20, 200), "found 200x20 pixels, at least 32"),
    ],
)
def test_what_is_no_picture_is_one_sentence(model, photos, given, words):
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:900])
    with pytest.raises(DataError, match=words) as caught:
        model(given)
    assert "\n" not in str(caught.value)


def test_points_and_boxes_that_cannot_be_are_one_sentence(model, photos):
    with pytest.raises(ConfigError, match="a.jpg: points: found 5,5, the network sees x and y of"):
        model.match("a.jpg", "b.jpg", [(150, 100), (5, 5)])
    for points in ([], [1, 2], [[1, 2, 3]], "ab", [[1, np.nan]]):
        with pytest.raises(DataError, match="points: found"):
            model.match("a.jpg", "b.jpg", points)
    with pytest.raises(DataError, match="box: found 3 boxes for 2 pictures"):
        model.match("a.jpg", "b.jpg", [(150, 100)], box=[None] * 3)
    with pytest.raises(ConfigError, match="a.jpg: box: found 900,900,950,950"):
        model("a.jpg", box=(900, 900, 950, 950))
    with pytest.raises(ConfigError, match="stride: found 3, one of 1, 2, 4 or 8"):
        model("a.jpg", stride=3)


def test_annotations_that_do_not_fit_are_refused_before_training(model, photos):
    def fit(images, points, **settings):
        scemae.fit_landmarks(model, images, points, **{**FAST, **settings})

    with pytest.raises(DataError, match=r"the shape \(1, 3, 2\), \(2, l, 2\), of 2 pictures"):
        fit(["a.jpg", "b.jpg"], [POINTS])
    with pytest.raises(DataError, match="points: found lists of different lengths"):
        fit(["a.jpg", "b.jpg"], [POINTS, POINTS[:2]])
    with pytest.raises(DataError, match="points: of picture 1: found a number that is not finite"):
        fit(["a.jpg", "b.jpg"], [POINTS, [*POINTS[:2], [np.inf, 1]]])
    with pytest.raises(DataError, match="points: found point 2 in no picture; annotate it"):
        fit(["a.jpg", "b.jpg"], [[*POINTS[:2], [np.nan, 1]]] * 2)
    with pytest.raises(ConfigError, match="b.jpg: points: found 2,2, the network sees .* box"):
        fit(["a.jpg", "b.jpg"], [POINTS, [*POINTS[:2], [2, 2]]])


def test_a_detector_of_another_model_is_refused(detector, photos, tmp_path_factory):
    detector.save("d.safetensors")
    mae_run, carb_run = tiny_runs(tmp_path_factory.mktemp("other"), seed=5)
    with pytest.raises(CheckpointError, match="features of another backbone"):
        scemae.load_detector("d.safetensors", scemae.load(carb_run, device="cpu"))
    with pytest.raises(CheckpointError, match="features of a projector, and none was given"):
        scemae.load_detector("d.safetensors", scemae.load(detector_run(detector), device="cpu"))


def detector_run(detector):
    """The backbone's checkpoint of a detector's model."""
    return detector.model._origin.backbone
