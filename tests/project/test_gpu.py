"""What a GPU must do as a CPU does: one body for both devices.

The ordinary suite runs each on the CPU, which rehearses what `pytest -m gpu` runs on CUDA.
"""

import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from scemae.config.load import load_config
from scemae.data import augment, pipeline
from scemae.data.frame_cache import DeviceFrames, HostFrames, row_bytes
from scemae.data.frame_sources import StreamedFrames
from scemae.data.order import Order
from scemae.data.storage.shard_set import open_shards
from scemae.distributed.process_group import process_group
from scemae.evaluation.landmarks import few_shot, few_shot_views, matching, regression
from scemae.methods import carb
from scemae.methods.carb import selection_options
from scemae.models.carb import select, third
from scemae.models.vit import Encoder
from scemae.runs.checkpoints.checkpoint import committed, read_weights
from scemae.runs.metrics_log import read_metrics
from scemae.training.token_fill import Fill
from scemae.training.token_store import open_tokens
from tests.support import DEVICES, REPO, TINY, picture, scemae, write_shards

COUNT = 18
CUT = {
    "pretrain": partial(pipeline.pretraining_views, size=96, scale=(0.2, 1.0), patches=144),
    "correspond": lambda batch: (pipeline.correspondence_views(batch, 96, (0.2, 1.0)),),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("gpu") / "shards", COUNT)


@pytest.fixture(scope="module")
def shards(folder):
    return open_shards(str(folder))


def command(device, *words):
    """The output of `scemae WORDS` on a device; on CUDA in a fresh process: a fork has none."""
    words = [*map(str, words), f"runtime.device={device}"]
    if device == "cpu":
        return scemae(*words).stdout
    done = subprocess.run(
        [sys.executable, "-m", "scemae", *words],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(run_dir):
    return [row["loss"] for row in read_metrics(run_dir) if "loss" in row]


@pytest.mark.slow
@DEVICES
def test_stages_train_save_and_resume_in_bf16_and_are_evaluated(folder, tmp_path, device):
    short = [
        f"data.shards={folder}",
        "optim.global_batch_size=6",
        "loop.log_every=1",
        "loop.save_every=3",
        "loop.keep=9",
    ]
    stage_1 = [
        "pretrain",
        *TINY,
        *short,
        "optim.epochs=2",
        "optim.warmup_epochs=1",
        "runtime.precision=bf16",
    ]
    command(device, *stage_1, f"run_dir={tmp_path / 'whole'}")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    for later in committed(tmp_path / "again")[2:]:
        shutil.rmtree(later)
    assert "resumed at step 3" in command(device, *stage_1, f"run_dir={tmp_path / 'again'}")
    near = 0 if device == "cpu" else 0.01  # sums of a GPU have no fixed order
    assert (
        losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "whole"), rel=near)
        and len(losses(tmp_path / "again")) == 6
    )
    weights = read_weights(committed(tmp_path / "again")[-1])
    assert any((one != one.bfloat16().float()).any() for one in weights.values()), (
        "no fp32 master weights were saved"
    )
    command(
        device,
        "correspond",
        *short,
        f"backbone={tmp_path / 'again'}",
        f"run_dir={tmp_path / 'carb'}",
        "optim.epochs=1",
        "carb.dim=16",
    )
    assert np.isfinite(losses(tmp_path / "carb")).all()
    printed = command(
        device,
        "evaluate",
        f"run_dir={tmp_path / 'eval'}",
        f"backbone={tmp_path / 'again'}",
        "stride=8",
        f"projector={tmp_path / 'carb'}",
        f"matching.shards={folder}",
        "matching.couples=2",
    )
    assert "MAE + CARB" in printed


@pytest.fixture(scope="module")
def resident(shards):
    found = HostFrames(np.zeros(row_bytes(136) * COUNT, np.uint8), COUNT, 136)
    found.decode(StreamedFrames(shards, 136), np.arange(COUNT))
    return found


@DEVICES
@pytest.mark.parametrize("stage", CUT)
def test_every_tier_feeds_the_same_batches(shards, resident, device, stage):
    device = torch.device(device)
    order, found = Order(COUNT, 3, 7), []
    for source in (StreamedFrames(shards, 136), resident, DeviceFrames(resident, device)):
        consumed = []
        slices = (part for step in range(4) for part in order.slices(step, 0, 1, 2))
        fed = list(
            pipeline.Pipeline(
                source,
                slices,
                3,
                CUT[stage],
                device=device,
                consumed=lambda part, *arrays: consumed.append([one.tolist() for one in arrays]),
            )
        )
        assert all(tensor.device.type == device.type for batch in fed for tensor in batch)
        found.append((consumed, fed))
    (streamed, first), *others = found
    for consumed, fed in others:
        assert consumed == streamed
        assert all(
            torch.equal(a, b)
            for one, other in zip(first, fed, strict=True)
            for a, b in zip(one, other)
        )


@DEVICES
@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_views_by_matrices_equal_pil_within_two_grey_levels(device, kernel):
    pictures = [picture(i, (178, 178)) for i in range(12)]
    boxes = augment.crop_boxes(np.random.default_rng(0).random((12, 40)), 178, (0.05, 1.0))
    frames = (
        torch.from_numpy(np.stack([np.asarray(one) for one in pictures]))
        .permute(0, 3, 1, 2)
        .to(device)
    )
    ours = augment.resized_by_matrices(frames, boxes, 96, kernel).cpu().float()
    for i, one in enumerate(pictures):
        top, left, height, width = (int(part[i]) for part in boxes)
        pil = one.crop((left, top, left + width, top + height)).resize(
            (96, 96), Image.Resampling[kernel.upper()]
        )
        assert (ours[i].permute(1, 2, 0) - torch.from_numpy(np.array(pil)).float()).abs().max() <= 2


@DEVICES
@pytest.mark.parametrize("stage", CUT)
def test_views_are_those_that_a_cpu_cuts_by_matrices(resident, device, stage, monkeypatch):
    monkeypatch.setattr(augment, "resized_crop", augment.resized_by_matrices)
    part = next(iter(Order(COUNT, 3, 8).slices(0, 0, 1, 1)))
    frames = torch.from_numpy(resident.frames(part.samples)[1]).permute(0, 3, 1, 2)
    ours, theirs = (
        CUT[stage](pipeline.Batch(frames.to(where), part, 3))[0].cpu() for where in (device, "cpu")
    )
    assert (ours - theirs).abs().max() <= 1.1 / 255 / min(
        augment.STD
    )  # a product at x.5 may round the other way
    assert (ours - theirs).abs().mean() < 1e-3


@DEVICES
@pytest.mark.parametrize("is_kept", [True, False], ids=["on the device", "on the host"])
def test_the_token_store_gives_what_the_encoder_gives(shards, tmp_path, device, is_kept):
    chosen = load_config(
        "correspond",
        [
            "run_dir=none",
            "backbone=none",
            "views=2",
            "optim.global_batch_size=8",
            f"store.dir={tmp_path}",
        ],
    )
    torch.manual_seed(0)
    model, order = Encoder(48, 4, 3).eval().requires_grad_(False), Order(COUNT, 0, 8)
    module = carb.build(carb.Settings(chosen.carb), model, seed=0).to(device)
    with process_group(device) as place:
        backbone = tmp_path, "b" * 64
        fill = Fill(chosen, model.to(place.device), backbone, shards, place, lambda: None)
        store = open_tokens(fill, order, 4)
        store._on_device = None
        if is_kept:
            store.keep_on_device()
        parts = list(order.slices(1, 0, 1, 1))
        fed = next(iter(store.batches(iter(parts), lambda *_: None)))
        batch = next(
            iter(
                pipeline.Pipeline(
                    StreamedFrames(shards, 136),
                    iter(parts),
                    chosen.seed,
                    CUT["correspond"],
                    device=place.device,
                    noisy_jpeg=chosen.data.jpeg_noise,
                )
            )
        )
        slow = select(model, third(model, batch[0]), **selection_options(chosen.carb))
        expected = module(slow.tokens, slow.ids, slow.slot, fed[3])
        assert all(tensor.device.type == place.device.type for tensor in fed)
        assert module(*fed).item() == pytest.approx(expected.item(), rel=0.01)


@DEVICES
def test_matching_finds_the_pixels_that_a_cpu_finds(device):
    random = torch.Generator().manual_seed(0)
    source, target = (
        functional.interpolate(torch.randn(3, 16, 6, 6, generator=random), (24, 24), mode="bicubic")
        for _ in range(2)
    )
    points = 96 * torch.rand(3, 5, 2, generator=random)
    found, expected = (
        matching.match(*(one.to(where) for one in (source, target, points))).cpu()
        for where in (device, "cpu")
    )
    assert (found == expected).float().mean() > 0.95  # of neighbours that are alike another may win


@DEVICES
def test_regressors_learn_as_on_a_cpu(device):
    random = torch.Generator().manual_seed(0)
    seen, marks = (
        torch.randn(12, 8, 12, 12, generator=random).half(),
        torch.rand(12, 5, 2, generator=random) - 0.5,
    )
    settings = regression.RegressionConfig(intermediate=4, init_std=0.05, epochs=3, batch=6)
    found, expected = (
        regression.predict(
            regression.train_regressor(seen, marks, settings, device=where), seen, device=where
        )
        for where in (device, "cpu")
    )
    assert (found - expected).abs().max() < 0.02  # of a face that is 2 wide
    few = few_shot_views.FewShotConfig(
        counts=(2,), seeds=(0, 1), images_per_epoch=6, epochs=2, batch=6, views=2, intermediate=4
    )
    cells = [few_shot_views.FewShotCell(2, seed) for seed in few.seeds]
    stacks = [
        few_shot._train(
            cells,
            few_shot_views.Views(
                seen.permute(0, 2, 3, 1).contiguous().to(where),
                marks.to(where),
                {seed: np.array([0, 6]) for seed in few.seeds},
            ),
            few,
            lambda *_: None,
        )
        for where in (device, "cpu")
    ]
    assert torch.allclose(stacks[0].readout.cpu(), stacks[1].readout, atol=0.02)
