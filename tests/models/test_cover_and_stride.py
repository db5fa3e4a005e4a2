"""Cover-and-stride puts each vector where it belongs."""

import pytest
import torch
from torch.nn import functional as F

from scemae.models.cover_and_stride import expand


def patch_means(crops):
    """An encoder whose token is the mean of its patch, so that it shows which pixels were used."""
    return F.avg_pool2d(crops, 8)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_tokens_lie_on_the_centres_of_the_finer_grid(stride):
    y, x = torch.meshgrid(torch.arange(136.0), torch.arange(136.0), indexing="ij")
    places = expand(patch_means, torch.stack([x, y])[None], stride)
    assert places.shape == (1, 2, 96 // stride, 96 // stride)
    centres = (
        20 + stride * (torch.arange(96 // stride) + 0.5) - 0.5
    )  # pixel-centre coordinates, align_corners=False
    assert torch.allclose(places[0, 0], centres.expand(len(centres), -1))
    assert torch.allclose(places[0, 1], centres.unsqueeze(1).expand(-1, len(centres)))


def test_stride_1_is_half_a_pixel_off_as_stated():
    x = torch.arange(136.0).expand(1, 1, 136, 136)
    assert torch.allclose(expand(patch_means, x, 1)[0, 0, 0], 20 + torch.arange(96) - 0.5)


def test_it_equals_one_pass_per_shift():
    frames = torch.rand(2, 3, 136, 136)
    fine = expand(patch_means, frames, 2)
    for row, dy in enumerate((-3, -1, 1, 3)):
        for column, dx in enumerate((-3, -1, 1, 3)):
            crop = frames[:, :, 20 + dy : 116 + dy, 20 + dx : 116 + dx]
            assert torch.equal(fine[:, :, row::4, column::4], patch_means(crop))
