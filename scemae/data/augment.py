"""The image augmentations of both stages, batched on the device; random numbers are arguments.

Stage 1: RandomResizedCrop to the input size, flip (MAE, PROTOCOL 2.1). Stage 2: RandomResizedCrop
of the evaluation frame, colour jitter, PCA lighting, centre crop (CL, PROTOCOL 4.3; its JPEG noise
is added while decoding, in decode.py).
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Of RGB in [0, 1]: DVE's, for every data set (PROTOCOL 3.1).
MEAN, STD = (0.5084, 0.4224, 0.3769), (0.2599, 0.2371, 0.2323)

# Eigenvalues and vectors of RGB on ImageNet (AlexNet), as every PCA lighting uses them.
PCA_VALUES = (0.2175, 0.0188, 0.0045)
PCA_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue


class Boxes(NamedTuple):
    """Crops of b images in whole pixels, each (b,) int64."""

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray


@cache
def _on_device(numbers: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=device)


def _constant(numbers: tuple, images: Tensor) -> Tensor:
    """Fixed numbers on the device of the images, copied once: such a copy waits for the device."""
    return _on_device(numbers, images.dtype, images.device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device, without waiting for the copy."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def normalise(images: Tensor) -> Tensor:
    """Images (b, 3, h, w), uint8 or in [0, 1], to mean 0 and variance 1, float32 (PROTOCOL 3.1)."""
    white = 255 if images.dtype == torch.uint8 else 1
    floats = images.to(torch.float32, copy=True)
    mean, std = (_constant(numbers, floats).view(3, 1, 1) * white for numbers in (MEAN, STD))
    return floats.sub_(mean).div_(std)


def crop_boxes(u: np.ndarray, size: int, scale: tuple[float, float], tries: int = 10) -> Boxes:
    """RandomResizedCrop's boxes in square images of `size` pixels, for u (b, 4 * tries) in [0, 1).

    torchvision's rule: area uniform in `scale`, ratio log-uniform in 3/4..4/3; the first of
    `tries` that fits, else the whole image.
    """
    area, ratio, y, x = u.reshape(len(u), 4, tries).transpose(1, 0, 2)
    area = size * size * (scale[0] + area * (scale[1] - scale[0]))
    ratio = np.exp((2 * ratio - 1) * math.log(4 / 3))
    width, height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (width <= size) & (height <= size) & (width > 0) & (height > 0)
    rows, first = np.arange(len(u)), fits.argmax(1)
    fits = fits[rows, first]
    height = np.where(fits, height[rows, first], size).astype(np.int64)
    width = np.where(fits, width[rows, first], size).astype(np.int64)
    top = np.floor(y[rows, first] * (size - height + 1)).astype(np.int64)
    left = np.floor(x[rows, first] * (size - width + 1)).astype(np.int64)
    return Boxes(top, left, height, width)


def resize_weights(start: Tensor, length: Tensor, size: int, out: int, kernel: str) -> Tensor:
    """PIL's antialiased resize along one axis, as matrices (b, out, size).

    Of an axis of `size` pixels, start..start+length-1 become `out`; start, length (b,). The kernel
    (Pillow's bicubic with a = -0.5, or bilinear's triangle) is stretched by the scale where the
    image shrinks, cut off at the box, and each row sums to 1.
    """
    start, length = start.view(-1, 1, 1).float(), length.view(-1, 1, 1).float()
    scale = length / out
    stretch = scale.clamp_min(1.0)
    centre = start + (torch.arange(out, device=start.device).view(1, -1, 1) + 0.5) * scale
    pixel = torch.arange(size, device=start.device).view(1, 1, -1) + 0.5
    x = ((pixel - centre) / stretch).abs()
    if kernel == "bicubic":
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    else:
        weights = (1 - x).clamp_min(0.0)
    weights = weights * ((pixel > start) & (pixel < start + length))
    return weights / weights.sum(-1, keepdim=True)


def resized_crop(
    images: Tensor, boxes: Boxes, out: int, kernel: str, flip: Tensor | None = None
) -> Tensor:
    """Crop and resize uint8 images (b, 3, s, s) as PIL does, to uint8 (b, 3, out, out).

    flip (b,) bool mirrors. A GPU multiplies by matrices, which give PIL's own pixels. A CPU uses
    torch's antialiased resize image by image: 16 times faster there, and within two grey levels.
    """
    if images.device.type == "cpu":
        return _resized_one_by_one(images, boxes, out, kernel, flip)
    return resized_by_matrices(images, boxes, out, kernel, flip)


def _resized_one_by_one(
    images: Tensor, boxes: Boxes, out: int, kernel: str, flip: Tensor | None
) -> Tensor:
    found = torch.empty(len(images), 3, out, out, dtype=torch.uint8)
    flips = [False] * len(images) if flip is None else flip.tolist()
    for i, (top, left, height, width, mirrored) in enumerate(
        zip(*(part.tolist() for part in boxes), flips)
    ):
        crop = images[i : i + 1, :, top : top + height, left : left + width]
        resized = functional.interpolate(crop, (out, out), mode=kernel, antialias=True)[0]
        found[i] = resized.flip(2) if mirrored else resized
    return found


def resized_by_matrices(
    images: Tensor, boxes: Boxes, out: int, kernel: str, flip: Tensor | None = None
) -> Tensor:
    """`resized_crop` of a whole batch at once: along x, then y, rounded after each as in PIL."""
    top, left, height, width = (to_device(torch.from_numpy(part), images.device) for part in boxes)
    across = resize_weights(left, width, images.shape[-1], out, kernel)  # b out s
    down = resize_weights(top, height, images.shape[-2], out, kernel)
    if flip is not None:
        across = torch.where(flip.view(-1, 1, 1), across.flip(1), across)
    rows = images.float().contiguous().flatten(1, 2) @ across.transpose(1, 2)  # b (c s) out
    pixels = rows.round_().clamp_(0, 255).unflatten(1, (3, -1))
    return (down.unsqueeze(1) @ pixels).round_().clamp_(0, 255).byte()


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Multiply brightness (0), contrast (1) and saturation (2) by factors (b, 3), in order (b, 3).

    images (b, 3, h, w) in [0, 1].
    """
    red, green, blue = GREY
    for turn in range(3):
        grey = red * images[:, :1] + green * images[:, 1:2]
        grey = grey.add_(images[:, 2:], alpha=blue)  # b 1 h w
        kind = order[:, turn].view(-1, 1, 1, 1)
        factor = factors.gather(1, order[:, turn : turn + 1]).view(-1, 1, 1, 1)
        mean_or_black = torch.where(kind == 1, grey.mean((2, 3), keepdim=True), 0.0)
        blend = torch.where(kind == 2, grey, mean_or_black)
        images = (images - blend).mul_(factor).add_(blend).clamp_(0, 1)
    return images


def lighting(images: Tensor, alpha: Tensor) -> Tensor:
    """PCA lighting (PROTOCOL 3.1): adds vectors * values * alpha to each pixel's colour.

    images (b, 3, h, w) in [0, 1], alpha (b, 3) ~ N(0, 0.1).
    """
    vectors, values = _constant(PCA_VECTORS, images), _constant(PCA_VALUES, images)
    # No matrix product: its rounding may depend on the size of the batch.
    colours = ((alpha * values).unsqueeze(1) * vectors).sum(-1)
    return (images + colours.view(-1, 3, 1, 1)).clamp_(0, 1)


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The central size x size pixels of (..., h, w)."""
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]
