"""Public weights as a run of stage 1: the function of timm's; others are refused in a sentence."""

import argparse
import json
import resource
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from scemae.cli import run_command
from scemae.commands.arguments.adopt import IMAGENET as STATISTICS
from scemae.config.schema.training import DecoderShape, Model
from scemae.data.augment import MEAN, STD, normalise
from scemae.errors import CheckpointError, ConfigError, RunFolderError
from scemae.interop import adopt
from scemae.interop.timm_names import (
    Pixels,
    build_timm,
    fold_layer_scale,
    timm_options,
    to_timm,
    translate,
)
from scemae.methods import mae, registry
from scemae.models.vit import Encoder, patchify, sincos_positions
from scemae.runs import networks
from scemae.runs.checkpoints import checkpoint
from tests.support import scemae, write_shards

SHAPE = Model("tiny", 48, 2, 3, 8, 96)
DEMO = Model("demo", 192, 6, 3, 8, 96)
IMAGENET = Pixels(*STATISTICS)


def vit(shape: Model = SHAPE, *, size: int = 96, patch: int = 8, **options) -> VisionTransformer:
    """A random ViT of timm whose every weight is far from its start."""
    torch.manual_seed(3)
    model = VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        **options,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def ours(tensors: dict[str, torch.Tensor], shape: Model = SHAPE) -> Encoder:
    encoder = Encoder(
        shape.width, shape.depth, shape.heads, own_positions="positions" in tensors
    ).eval()
    encoder.load_state_dict(tensors)
    return encoder


def as_imagenet(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in STATISTICS)
    return (images - mean) / std


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"init_values": 0.3}, {"no_embed_class": True}], ids=str)
def test_tokens_of_an_adopted_vit_are_timms(options, tmp_path):
    model, images = vit(**options), torch.rand(2, 3, 96, 96)
    tensors, _ = translate(model.state_dict(), SHAPE, IMAGENET, path=tmp_path)
    found = ours(tensors)(normalise(images))
    assert torch.allclose(found, model.forward_features(as_imagenet(images)), atol=2e-5)


def test_a_resampled_patch_sees_the_small_picture_as_the_large_patch_saw_the_large_one(tmp_path):
    model, small = vit(size=224, patch=16), torch.randn(48, 3, 8, 8)
    large = torch.rand(1, 3, 16, 16, requires_grad=True)
    shrunk = functional.interpolate(large, (8, 8), mode="bicubic", antialias=True)
    rows = [
        torch.autograd.grad((shrunk * kernel).sum(), large, retain_graph=True)[0][0]
        for kernel in small
    ]
    tensors = {**model.state_dict(), "patch_embed.proj.weight": torch.stack(rows)}
    found, changes = translate(tensors, SHAPE, Pixels(MEAN, STD), path=tmp_path)
    seen = patchify(shrunk, 8) @ found["patch_embed.weight"].T
    assert torch.allclose(seen[0, 0], (torch.stack(rows) * large).sum((1, 2, 3)), atol=1e-4)
    assert found["positions"].shape == (145, 48) and "patches of 16 px resampled to 8" in changes


def test_mae_s_fixed_positions_are_computed_anew(tmp_path):
    model = vit(size=224, patch=16)
    tensors = {
        **model.state_dict(),
        "pos_embed": sincos_positions(48, 14).unsqueeze(0),
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_blocks.0.norm1.weight": torch.ones(8),
        "decoder_pos_embed": torch.zeros(1, 197, 8),
    }
    found, changes = translate(tensors, SHAPE, IMAGENET, path=tmp_path)
    assert "positions" not in found and "computed anew" in changes[0]


def test_folded_layer_scale_equals_a_loop_over_channels():
    weight, bias, gamma = torch.rand(4, 3), torch.rand(4), torch.rand(4)
    found = fold_layer_scale(
        {
            "blocks.0.attn.proj.weight": weight,
            "blocks.0.attn.proj.bias": bias,
            "blocks.0.ls1.gamma": gamma,
        }
    )
    for i in range(4):
        assert torch.equal(found["blocks.0.attn.proj.weight"][i], weight[i] * gamma[i])
    assert torch.equal(found["blocks.0.attn.proj.bias"], bias * gamma) and len(found) == 2


@torch.no_grad()
def test_there_and_back_gives_the_same_encoder(tmp_path):
    encoder, images = Encoder(48, 2, 3).eval(), torch.rand(1, 3, 96, 96)
    tensors, _ = translate(to_timm(encoder), SHAPE, Pixels(MEAN, STD), path=tmp_path)
    assert torch.allclose(ours(tensors)(images), encoder(images), atol=1e-6)
    assert build_timm(timm_options(encoder)).pos_embed.shape == (1, 145, 48)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reg_tokens": 4}, "reg_token: found registers"),
        ({"qk_norm": True}, "q_norm.*norms of queries"),
        ({"global_pool": "avg", "num_classes": 2}, "fc_norm"),
        ({"qkv_bias": False}, "qkv.bias: found nothing"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "no cls_token"),
        ({"mlp_ratio": 3}, "mlp.fc1.weight"),
    ],
)
def test_another_kind_of_vit_is_refused_with_its_key(options, words, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        translate(vit(**options).state_dict(), SHAPE, IMAGENET, path=tmp_path)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (
            Model("m", 96, 2, 3, 8, 96),
            r"patch_embed.proj.weight: found \(48, 3, 8, 8\), m needs \(96",
        ),
        (Model("m", 48, 3, 3, 8, 96), "blocks.2.norm1.weight: found nothing"),
        (Model("m", 48, 1, 3, 8, 96), "blocks.1.*needs nothing"),
    ],
)
def test_another_width_or_depth_is_refused(shape, words, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        translate(vit().state_dict(), shape, IMAGENET, path=tmp_path)


def test_files_that_are_no_weights_are_refused(tmp_path):
    (tmp_path / "no.pth").write_bytes(b"nothing")
    torch.save({"model": {"cls_token": adopt.Adopted}}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "no.safetensors").write_bytes(b"nothing at all, but long enough")
    for name in ("no.pth", "code.pth", "list.pth", "no.safetensors", "absent.pth", "."):
        with pytest.raises(CheckpointError, match=r"^\S+: [^\n]+$"):
            adopt.read_tensors(tmp_path / name)


def test_a_training_checkpoint_with_its_arguments_is_read(tmp_path):
    found = {
        "model": {"module.cls_token": torch.ones(1)},
        "args": argparse.Namespace(lr=1),
        "epoch": 3,
    }
    torch.save(found, tmp_path / "a.pth")
    assert adopt.read_tensors(tmp_path / "a.pth").keys() == {"cls_token"}


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "encoder.",
        "backbone.",
        "module.encoder.",
        "model.",
        "_orig_mod.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "model.module._orig_mod.encoder.",
    ],
)
def test_what_training_puts_before_names_is_taken_off(prefix, tmp_path):
    inside = {f"{prefix}{key}": value for key, value in vit().state_dict().items()}
    torch.save({"model": inside | {"momentum.weight": torch.ones(1)}}, tmp_path / "a.pth")
    found = adopt.read_tensors(tmp_path / "a.pth")
    assert found.keys() - {"momentum.weight"} == vit().state_dict().keys()
    assert (prefix == "") == ("momentum.weight" in found)


def test_compiled_parts_inside_of_a_vit_lose_their_prefix_too(tmp_path):
    torch.save(
        {"module.cls_token": torch.ones(1), "module.blocks.0._orig_mod.norm1.bias": torch.ones(1)},
        tmp_path / "a.pth",
    )
    assert adopt.read_tensors(tmp_path / "a.pth").keys() == {"cls_token", "blocks.0.norm1.bias"}


def test_files_of_the_older_format_are_read(tmp_path):
    torch.save(
        {"model": {"cls_token": torch.arange(3.0)}},
        tmp_path / "a.pth",
        _use_new_zipfile_serialization=False,
    )
    assert adopt.read_tensors(tmp_path / "a.pth")["cls_token"].tolist() == [0, 1, 2]


def repacked(path: Path, change: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """A file of torch.save with other bytes under some of its names."""
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, change.get(name.split("/", 1)[1], data))


def bomb(depth: int = 60) -> bytes:
    """A pickle of {(((), ()), ((), ())): None}, `depth` levels deep: 2^depth steps to hash."""
    doubled = b"".join(b"q%ch%ch%c\x86" % (i, i, i) for i in range(depth))
    return b"\x80\x02}" + b")" + doubled + b"Ns."


def claiming(path: Path) -> None:
    torch.save({"cls_token": torch.zeros(70_001)}, path)
    with zipfile.ZipFile(path) as archive:
        described = archive.read("a/data.pkl").replace(
            (70_001).to_bytes(4, "little"), (2_000_000_011).to_bytes(4, "little")
        )
    repacked(path, {"data.pkl": described})


def cut(path: Path) -> None:
    torch.save({"cls_token": torch.zeros(70_001)}, path)
    repacked(path, {"data/0": b"1234"})


HOSTILE = {
    "10^10 numbers over one": (
        lambda path: torch.save({"cls_token": torch.zeros(1).expand(10**10)}, path),
        "10,000,000,000 numb",
    ),
    "a storage of 2 * 10^9": (claiming, "cannot be read"),
    "a storage that is not there": (cut, "cannot be read"),
    "compressed": (
        lambda path: (
            torch.save({"cls_token": torch.zeros(10**5)}, path),
            repacked(path, {}, zipfile.ZIP_DEFLATED),
        ),
        "it is compressed",
    ),
    "a tuple of 2^60 parts": (
        lambda path: (torch.save({"a": torch.ones(1)}, path), repacked(path, {"data.pkl": bomb()})),
        "nests tuples without end",
    ),
    "a tensor without storage": (
        lambda path: torch.save({"cls_token": torch.zeros(10**10, device="meta")}, path),
        "no plain tensor",
    ),
    "a sparse one": (
        lambda path: torch.save(
            {"cls_token": torch.sparse_coo_tensor([[0]], [1.0], (10**10,))}, path
        ),
        "no plain",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_a_small_file_that_claims_to_be_large_is_refused_at_once(kind, tmp_path):
    write, words = HOSTILE[kind]
    write(tmp_path / "a.pth")
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=words):
        adopt.read_tensors(tmp_path / "a.pth")
    assert (
        time.monotonic() - start < 5
        and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19
    )  # KiB


def test_messages_show_no_escape_codes_of_a_file(tmp_path):
    torch.save({"model": {"cls_token": adopt.Adopted}}, tmp_path / "code.pth")
    torch.save({"\x1b[2J\x9b31m": torch.zeros(1).expand(10**10)}, tmp_path / "name.pth")
    for name in ("code.pth", "name.pth"):
        with pytest.raises(CheckpointError) as caught:
            adopt.read_tensors(tmp_path / name)
        assert str(caught.value).isprintable(), caught.value
    assert "\\x1b[2J\\x9b31m" in str(caught.value)


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path):
    torch.save(vit().state_dict(), tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="--model: found 'deit_huge'"):
        run_command(
            ["adopt", str(tmp_path / "a.pth"), str(tmp_path / "out"), "--model", "deit_huge"]
        )
    with pytest.raises(ConfigError, match="--std"):
        run_command(
            [
                "adopt",
                str(tmp_path / "a.pth"),
                str(tmp_path / "out"),
                "--model",
                "demo",
                "--std",
                "0",
                "1",
                "1",
            ]
        )
    with pytest.raises(RunFolderError, match="not empty"):
        run_command(["adopt", str(tmp_path / "a.pth"), str(tmp_path), "--model", "demo"])
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def adopted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adopted")
    torch.save({"model": vit(DEMO, size=224, patch=16).state_dict()}, folder / "vit.pth")
    run_command(["adopt", str(folder / "vit.pth"), str(folder / "run"), "--model", "demo"])
    return folder / "run"


def test_an_adopted_run_is_a_backbone_but_no_autoencoder(adopted):
    encoder, folder = mae.load_encoder(adopted)
    assert (
        encoder.positions.shape == (145, 192)
        and folder.name == "step-00000001.g0001"
        and not checkpoint.damage(folder)
    )
    said = json.loads((adopted / "provenance.json").read_text())["adopted"]
    assert said["weights"] == "vit.pth" and len(said["sha256"]) == 64 and len(said["changes"]) == 3
    with pytest.raises(CheckpointError, match="an encoder without a decoder"):
        mae.load_autoencoder(adopted)
    settings = mae.Settings(DEMO, DecoderShape("light", 32, 1, 2), 0.75, False)
    fresh = mae.build(settings, seed=0)
    with pytest.raises(CheckpointError, match="an encoder without a decoder"):
        networks.load_into(fresh, adopted)


@pytest.mark.slow
def test_stage_2_trains_on_adopted_weights(adopted, tmp_path):
    shards = write_shards(tmp_path / "shards", 16)
    scemae(
        "correspond",
        f"run_dir={tmp_path / 'carb'}",
        f"backbone={adopted}",
        f"data.shards={shards}",
        "carb.dim=16",
        "optim.global_batch_size=8",
        "optim.epochs=1",
        "loop.log_every=1",
        "loop.save_every=2",
        "optim.warmup_epochs=0",
    )
    encoder, folder = mae.load_encoder(adopted)
    found = registry.load_stage_2(tmp_path / "carb", folder, encoder)
    assert found.settings.dim == 16 and found.module.projector(
        torch.rand(1, 192, 12, 12)
    ).shape == (1, 16, 12, 12)
