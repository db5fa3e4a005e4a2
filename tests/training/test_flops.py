"""The formulas for floating-point operations, against PyTorch's count of what the modules do."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scemae.config.load import load_config
from scemae.distributed.process_group import process_group
from scemae.methods import mae
from scemae.methods.carb import selection_options
from scemae.models import flops
from scemae.models.carb import CARB, select, third
from scemae.models.projector import PROJECTORS, Projector
from scemae.training import utilisation
from tests.support import TINY

PRETRAIN = load_config("pretrain", [*TINY, "run_dir=none"])


def counted(work) -> float:
    """Operations per image of `work`, which handles two images.

    With the plain attention kernel: PyTorch does not count the CPU's fused one, and of fused
    backward passes it counts what they compute twice.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2


@pytest.fixture(scope="module")
def model():
    return mae.build(mae.Settings(PRETRAIN.model, PRETRAIN.decoder, 0.75, False), seed=0)


def test_a_step_of_the_paper_is_28_gigaflops_an_image():
    paper = load_config("pretrain", ["run_dir=none"])
    assert (
        round(flops.autoencoder_step(paper.model, paper.decoder, paper.mask_ratio) / 1e9, 1) == 27.9
    )


@pytest.mark.parametrize("ratio", [0.75, 0.5])
def test_a_step_of_stage_1_is_what_pytorch_counts(ratio):
    model = mae.build(mae.Settings(PRETRAIN.model, PRETRAIN.decoder, ratio, False), seed=0)
    images, noise, weights = torch.zeros(2, 3, 96, 96), torch.rand(2, 144), torch.ones(2)
    whole = flops.autoencoder_step(PRETRAIN.model, PRETRAIN.decoder, ratio)
    assert counted(lambda: model.reconstruct(images, noise)[0].sum().backward()) == whole
    spared = 1 + int(
        144 * (1 - ratio)
    )  # CLS and what is visible: the last block of the decoder makes none of them
    width = PRETRAIN.decoder.width
    not_made = (
        flops.linear(spared, width, 9 * width)
        + 4 * spared * 145 * width
        + flops.linear(spared - 1, width, 192)
    )
    assert counted(lambda: model(images, noise, weights).backward()) == whole - 3 * not_made


def test_a_forward_pass_of_the_encoder_is_what_pytorch_counts(model):
    assert counted(lambda: model.encoder(torch.zeros(2, 3, 96, 96))) == flops.encoder(
        PRETRAIN.model
    )


@pytest.mark.parametrize("remaining", ["selected", "all"])
@pytest.mark.parametrize("kind", PROJECTORS)
def test_a_step_of_stage_2_is_what_pytorch_counts(model, kind, remaining):
    carb = load_config(
        "correspond",
        ["run_dir=none", "backbone=none", f"carb.projector={kind}", f"carb.remaining={remaining}"],
    ).carb
    trained = CARB(
        Projector(kind, 48, carb.dim),
        clusters=carb.clusters,
        tau=carb.tau,
        coefficients=(5.0, 5.0, 2.0),
    )
    encoder, images, found = model.encoder.eval(), torch.rand(2, 3, 96, 96), []
    assert counted(
        lambda: found.append(select(encoder, third(encoder, images), **selection_options(carb)))
    ) == flops.selection(PRETRAIN.model, carb)
    step = counted(
        lambda: trained(found[0].tokens, found[0].ids, found[0].slot, torch.ones(2)).backward()
    )
    assert step == flops.projector_step(carb, 48, 144)


def test_full_speed_is_the_measured_peak_over_the_operations_of_an_image():
    assert 1e8 < utilisation.peak_flops(torch.device("cpu"), torch.float32) < 1e15
    with process_group("cpu") as place:
        assert utilisation.full_speed(0, place, torch.float32) == 0
        one, two = (
            utilisation.full_speed(1e9, place, torch.float32),
            utilisation.full_speed(1e12, place, torch.float32),
        )
        assert 100 < one / two < 10000
