"""Augmentations against PIL and against plain loops."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from scemae.data import augment
from tests.support import picture

KERNELS = [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)]


@pytest.mark.parametrize(("kernel", "pil"), KERNELS)
@pytest.mark.parametrize(
    "resized", [augment.resized_crop, augment.resized_by_matrices]
)  # a CPU's way, and a GPU's
def test_resized_crop_equals_pil_within_two_grey_levels(resized, kernel, pil):
    random = np.random.default_rng(0)
    pictures = [
        Image.fromarray(random.integers(0, 256, (178, 178, 3), dtype=np.uint8)) for _ in range(3)
    ]
    pictures += [picture(i, (178, 178)) for i in range(21)]
    boxes = augment.crop_boxes(random.random((24, 40)), 178, (0.05, 1.0))
    images = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    ours = resized(images, boxes, 96, kernel).float()
    for i, p in enumerate(pictures):
        top, left, height, width = (int(part[i]) for part in boxes)
        theirs = p.crop((left, top, left + width, top + height)).resize((96, 96), pil)
        difference = (ours[i].permute(1, 2, 0) - torch.from_numpy(np.array(theirs)).float()).abs()
        assert difference.max() <= 2, f"box {top, left, height, width}: {difference.max()}"


@pytest.mark.parametrize("resized", [augment.resized_crop, augment.resized_by_matrices])
def test_flip_mirrors_the_crop(resized):
    images = (
        torch.from_numpy(np.array(picture(1, (178, 178)))).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    )
    boxes = augment.Boxes(*(np.array([v, v]) for v in (10, 20, 100, 90)))
    plain, mirrored = resized(images, boxes, 96, "bicubic", torch.tensor([False, True]))
    assert torch.equal(plain.flip(-1), mirrored)


def test_crop_boxes_follow_torchvisions_rule():
    boxes = augment.crop_boxes(np.random.default_rng(1).random((20000, 40)), 178, (0.2, 1.0))
    share = boxes.height * boxes.width / 178**2
    ratio = boxes.width / boxes.height
    assert share.min() > 0.19 and share.max() <= 1 and ratio.min() > 0.74 and ratio.max() < 1.35
    assert (boxes.top + boxes.height <= 178).all() and (boxes.left + boxes.width <= 178).all()
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.01)


def test_a_box_that_never_fits_becomes_the_whole_image():
    u = np.full((1, 40), 0.999)
    u[0, 10:20] = 1e-6  # ten times the largest area at the most extreme ratio
    boxes = augment.crop_boxes(u, 178, (0.2, 1.0))
    assert [int(part[0]) for part in boxes] == [0, 0, 178, 178]


def test_jitter_equals_pil_in_the_given_order():
    image = picture(3, (64, 64))
    factors, order = torch.tensor([[1.3, 0.7, 1.2]]), torch.tensor([[2, 0, 1]])
    ours = augment.jitter(
        torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255, factors, order
    )
    slow = ImageEnhance.Brightness(ImageEnhance.Color(image).enhance(1.2)).enhance(1.3)
    slow = ImageEnhance.Contrast(slow).enhance(0.7)
    difference = (ours[0].permute(1, 2, 0) * 255 - torch.from_numpy(np.array(slow)).float()).abs()
    assert difference.max() <= 3  # PIL rounds after each of the three


def test_lighting_adds_one_colour_per_image():
    images, alpha = torch.full((2, 3, 4, 4), 0.5), torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
    lit = augment.lighting(images, alpha)
    assert torch.equal(lit[0], images[0])
    slow = [0.5 - 0.5675 * 0.2175, 0.5 - 0.5808 * 0.2175, 0.5 - 0.5836 * 0.2175]
    assert lit[1, :, 0, 0].tolist() == pytest.approx(slow)
