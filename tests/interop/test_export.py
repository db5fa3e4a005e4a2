"""Export: timm and onnxruntime get the original's values from the files, or none is written."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import scemae
from scemae.cli import run_command
from scemae.config.load import load_config, to_yaml
from scemae.config.schema.training import Model
from scemae.data.augment import MEAN, STD, centre_crop, normalise
from scemae.data.framing import Box, frame_of
from scemae.errors import CheckpointError, ConfigError, RunFolderError
from scemae.files import disk
from scemae.interop import adopt, export
from scemae.interop.timm_names import create_timm
from scemae.methods import mae, registry
from scemae.models.projector import Projector
from scemae.models.vit import Encoder
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.tensor_file import write_tensors
from tests.support import picture

SHAPE = Model("tiny", 48, 2, 3, 8, 96)


def tiny_runs(
    folder: Path, seed: int = 0, projector: str = "linear", names: tuple[str, str] = ("mae", "carb")
) -> tuple[Path, Path]:
    """Run folders of stage 1 and 2 with random weights, 48 wide and 16 projected."""
    torch.manual_seed(seed)
    mae, carb_run = (folder / name for name in names)
    tensors = {key: value.detach() for key, value in Encoder(48, 2, 3).state_dict().items()}
    first = adopt.write_run(
        adopt.Adopted(str(mae), "random", list(MEAN), list(STD), SHAPE),
        tensors,
        "0" * 64,
        changes=[],
    )
    stage_2 = load_config(
        "correspond", ["run_dir=-", "backbone=-", "carb.dim=16", f"carb.projector={projector}"]
    )
    carb = stage_2.carb
    second = checkpoint.path_of(carb_run, 1, 1)
    second.mkdir(parents=True)
    arrays = {
        f"projector.{key}": value.detach().numpy()
        for key, value in Projector(projector, 48, 16).state_dict().items()
    }
    written = write_tensors(second / checkpoint.WEIGHTS, arrays, {"format": "pt"})
    settings = {
        "carb": asdict(carb),
        "width": 48,
        "views": 1,
        "backbone": checkpoint.weights_digest(first),
    }
    disk.write_text(carb_run / "config.yaml", to_yaml(stage_2))
    disk.write_json(carb_run / "provenance.json", {"backbone": str(first)})
    checkpoint.write_state(
        second,
        checkpoint.TrainState(
            1, 0, 1, 0, "correspond", settings, "", 0, generation=1, files=[asdict(written)]
        ),
    )
    return mae, carb_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tiny_runs(tmp_path_factory.mktemp("runs"))


def run(*arguments: object) -> None:
    run_command(["export", *map(str, arguments)])


@torch.no_grad()
def test_config_and_tensors_are_all_that_timm_needs(runs, tmp_path):
    (tmp_path / "out.partial").mkdir()  # somebody's own
    run(runs[0], tmp_path / "out")
    assert (tmp_path / "out.partial").is_dir()
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    model = create_timm(facts)
    model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    images, (encoder, _) = torch.randn(2, 3, 96, 96), mae.load_encoder(runs[0])
    assert torch.allclose(model.forward_features(images), encoder(images), atol=1e-5)
    ours = facts["scemae"]
    assert ours["pixels"]["mean"] == list(MEAN)
    assert ours["source"]["checkpoint"] == "step-00000001.g0001"


@torch.no_grad()
@pytest.mark.parametrize("package", ["timm", "transformers", "huggingface_hub", "scemae"])
def test_the_readme_s_own_code_gives_the_encoder_s_tokens(package, runs, tmp_path, monkeypatch):
    pytest.importorskip(package)
    run(runs[1], tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    picture(1, (300, 240)).save("face.jpg")
    images, (encoder, _) = torch.rand(2, 3, 96, 96), mae.load_encoder(runs[0])
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (MEAN, STD))
    scope = {"images": images, "folder": "out", "mean": mean, "std": std}
    text = Path("out/README.md").read_text()
    snippets = [part.split("```")[0] for part in text.split("```python")[1:]]
    names = (f"import {package}", f"from {package} ")
    exec(next(one for one in snippets if any(name in one for name in names)), scope)
    if package == "scemae":
        assert torch.equal(scope["features"], scemae.load(runs[1], device="cpu")("face.jpg"))
    else:
        assert torch.equal(scope["tokens"], encoder((images - mean) / std))


def test_timm_s_own_transform_of_a_square_picture_is_our_frame(runs, tmp_path):
    run(runs[0], tmp_path / "out")
    config = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).pretrained_cfg
    options = timm.data.resolve_data_config(pretrained_cfg=config)
    found = timm.data.create_transform(**options)(picture(1, (300, 300)))
    frame = frame_of(picture(1, (300, 300)), Box(0, 0, 300))[None].float() / 255
    assert torch.allclose(found, centre_crop(normalise(frame), 96)[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("projector", ["linear", "spatial_softmax"])
def test_onnx_gives_the_projected_map_at_any_batch(projector, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    runs = tiny_runs(tmp_path, projector=projector)
    run(runs[0], tmp_path / "out", "--projector", runs[1], "--onnx", "--check", "3")
    encoder, folder = mae.load_encoder(runs[0])
    trained = registry.load_stage_2(runs[1], folder, encoder)
    network = export.Features(encoder, trained.module.projector)
    session = onnxruntime.InferenceSession(
        tmp_path / "out" / "features.onnx", providers=["CPUExecutionProvider"]
    )
    for count in (1, 5):
        images = torch.randn(count, 3, 96, 96)
        (found,) = session.run(None, {"images": images.numpy()})
        assert torch.allclose(
            torch.from_numpy(found), network(images), atol=1e-5
        ) and found.shape == (count, 16, 12, 12)


def test_a_wrong_translation_is_caught_and_leaves_nothing(runs, tmp_path, monkeypatch):
    def wrong(encoder):
        return {**export_to_timm(encoder), "cls_token": encoder.cls_token.flip(2)}

    export_to_timm = export.to_timm
    monkeypatch.setattr(export, "to_timm", wrong)
    with pytest.raises(
        CheckpointError, match="model.safetensors: read by timm it gives values up to"
    ):
        run(runs[0], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_bad_requests_are_one_sentence_and_write_nothing(runs, tmp_path, monkeypatch):
    with pytest.raises(RunFolderError, match="is there already"):
        run(runs[0], tmp_path)
    with pytest.raises(ConfigError, match="--check: found 0"):
        run(runs[0], tmp_path / "out", "--check", "0")
    with pytest.raises(CheckpointError, match="found a checkpoint of `scemae correspond` as the b"):
        run(runs[1], tmp_path / "out", "--projector", runs[1])
    monkeypatch.setattr(export, "NEEDED", ("no-such-package",))
    with pytest.raises(ConfigError, match="no package no-such-package; `pip install 'scemae"):
        run(runs[0], tmp_path / "out", "--onnx")
    assert not list(tmp_path.iterdir())


def test_a_projector_of_another_backbone_is_refused(runs, tmp_path):
    other, _ = tiny_runs(tmp_path, seed=1)
    with pytest.raises(CheckpointError, match="trained on other weights"):
        run(other, tmp_path / "out", "--projector", runs[1])
