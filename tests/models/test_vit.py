"""The encoder: its size, its positions, its tokens."""

import math

import pytest
import torch

from scemae.config.load import load_config
from scemae.models.vit import Encoder, patchify, sincos_positions, take, unpatchify


@pytest.mark.parametrize(
    ("name", "millions"), [("deit_tiny", 5.404), ("deit_small", 21.425), ("deit_base", 85.316)]
)
def test_parameter_counts_are_the_papers(name, millions):
    model = load_config("pretrain", [f"model={name}", "run_dir=none"]).model
    with torch.device("meta"):
        encoder = Encoder(model.width, model.depth, model.heads)
    assert round(encoder.count_parameters() / 1e6, 3) == millions


def test_positions_equal_the_slow_formula():
    table = sincos_positions(16, 3)
    assert (table[0] == 0).all()
    for y in range(3):
        for x in range(3):
            slow = [
                f(place / 10000 ** (k / 4))
                for place in (x, y)
                for f in (math.sin, math.cos)
                for k in range(4)
            ]
            assert table[1 + 3 * y + x].tolist() == pytest.approx(slow, abs=1e-6)


def test_patchify_is_undone_and_goes_row_by_row():
    images = torch.rand(2, 3, 24, 24)
    patches = patchify(images, 8)
    assert torch.equal(unpatchify(patches, 8), images)
    assert torch.equal(patches[1, 5], images[1, :, 8:16, 16:24].permute(1, 2, 0).flatten())


def test_encoding_all_patches_in_another_order_gives_the_same_tokens():
    encoder, images = Encoder(48, 4, 3, image_size=24).eval(), torch.rand(2, 3, 24, 24)
    ids = torch.rand(2, 9).argsort(1)
    whole, shuffled = encoder(images), encoder(images, ids)
    assert torch.allclose(take(whole[:, 1:], ids), shuffled[:, 1:], atol=1e-5)
    assert torch.allclose(whole[:, 0], shuffled[:, 0], atol=1e-5)


def test_running_in_two_parts_is_running_at_once():
    encoder, images = Encoder(48, 5, 3, image_size=24).eval(), torch.rand(1, 3, 24, 24)
    assert torch.equal(encoder(images), encoder.run(encoder.run(encoder.embed(images), 0, 3), 3))
