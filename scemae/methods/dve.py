"""DVE, descriptor vector exchange (Thewlis et al. 2019), in one stage (PROTOCOL 3).

An image is warped twice: what is at u in the first view is at g(u) in the second. The descriptor at
each place of the first is replaced by a mean of an auxiliary image's descriptors, weighted by how
much they resemble it, and that mean must find the place in the second view:

    f^_u = sum_w fa_w softmax_w(f1_u . fa_w)
    loss = mean_u sum_v ||g(u) - v||^a softmax_v(f^_u . f2_v)

f1, f2 and fa are the descriptors of the two views and of the auxiliary image, all of length 20 (the
default of DVE's `dense_correlation_loss_dve`); a = 0.5; distances are in pixels. The auxiliary
image is the first view of the next image of the micro-batch, as in DVE, or the image itself if
there is only one. Evaluation uses the features unchanged; there is no second stage.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scemae.data import randomness, tps_warps
from scemae.data.augment import centre_crop, normalise, to_device
from scemae.data.geometry import FRAME, INPUT
from scemae.data.pipeline import Batch, recoloured
from scemae.errors import ConfigError
from scemae.models.hourglass import STRIDE, Hourglass

STAGE, TITLE, ROLE = 1, "DVE", "rival"


@dataclass
class Settings:
    """DVE's numbers."""

    width: int = 256  # of the hourglass, as all of it from its number of parameters [D]
    depth: int = 4
    blocks: int = 4
    dim: int = 64  # of the descriptors (paper, Table 1)
    length: float = 20.0  # of the descriptors in the loss, DVE's [F]
    power: float = 0.5  # of the distance, DVE's [F]
    # Every second place of the first view, in each direction; DVE's 1 takes 4 times the memory.
    step: int = 2


def build(settings: Settings, *, seed: int) -> "DVE":
    """A freshly initialised DVE, the same for the same seed.

    Raises ConfigError for a depth that does not fit the images.
    """
    torch.manual_seed(seed)
    module = DVE(settings)
    module.trunk.check_size(INPUT)
    return module


def views(
    settings: Settings, *, size: int, scale: tuple[float, float]
) -> Callable[[Batch], tuple[Tensor, ...]]:
    """Both views of each image and where they match (`warped_views`); frames must have 136 px.

    There is no random crop, so `scale` is not used.
    """
    return partial(warped_views, size=size)


def warped_views(batch: Batch, size: int) -> tuple[Tensor, ...]:
    """Two warped, differently coloured, normalised views (b, 3, size, size); meets; weights (b,).

    meets (b, size/2, size/2, 2): for every second pixel of the first view, the x, y in pixels of
    the same point in the second. The second view is warped by W1, the first by W1 and then W2
    (PROTOCOL 3.4, with DVE's training scales [F]). Colours are drawn for each view after the warps;
    outside the warped frame it is black [U]. Raises ConfigError for frames of another size.
    """
    if batch.images.shape[-1] != FRAME:
        raise ConfigError(
            f"data.frame={batch.images.shape[-1]}: DVE warps frames of {FRAME} px; give "
            f"data.frame={FRAME}"
        )
    both, on_top = _warps(batch)  # W1 and W2
    second = tps_warps.resample(batch.images.float() / 255, both)
    first = tps_warps.resample(second, on_top)
    coloured = [
        normalise(recoloured(batch, centre_crop(images, size), view))
        for view, images in enumerate((first, second))
    ]
    margin = (FRAME - size) // 2
    pixels = ((on_top + 1) / 2 * (FRAME - 1) - margin).permute(0, 3, 1, 2)
    meets = centre_crop(pixels, size)[:, :, ::STRIDE, ::STRIDE]
    return *coloured, meets.permute(0, 2, 3, 1).float(), batch.tensor(batch.slice.weights)


def _warps(batch: Batch) -> tuple[Tensor, Tensor]:
    """W1 and W2 of each image, (b, 136, 136, 2).

    Their 412 numbers are copied from the host at once, and one product on the device makes both. In
    float64, as in evaluation, so that a pixel does not depend on the device: 8 MFLOP an image.
    """
    made = []
    for view, name in enumerate(("dve-both", "dve-on-top")):
        normals = batch.normal(randomness.WARP + view * randomness.VIEW, tps_warps.NORMALS)
        made.append(tps_warps.make_warps(normals, tps_warps.SCALES[name]))
    both, on_top = tps_warps.warp_grid(to_device(torch.cat(made), batch.images.device)).chunk(2)
    return both, on_top


class DVE(nn.Module):
    """The hourglass `trunk` under DVE's loss."""

    worth_compiling = False  # 212 convolutions in one graph, as large as BYOL's

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.trunk = Hourglass(settings.width, settings.depth, settings.blocks, out=settings.dim)
        self.length, self.power, self.step = settings.length, settings.power, settings.step

    def forward(self, first: Tensor, second: Tensor, meets: Tensor, weights: Tensor) -> Tensor:
        """The sum over images of weight * loss, a scalar; arguments as from `warped_views`."""
        # one pass, so that both views share BatchNorm's statistics
        features = self.trunk(torch.cat([first, second])).float()
        source, target = (self.length * F.normalize(part, dim=1) for part in features.chunk(2))
        step = self.step
        asked, wanted = (part[:, :, ::step, ::step] for part in (source, meets.permute(0, 3, 1, 2)))
        auxiliary = source.roll(-1, 0)
        per_image = exchange(asked, auxiliary, target, wanted, power=self.power)
        return (per_image * weights).sum()


def exchange(
    source: Tensor, auxiliary: Tensor, target: Tensor, meets: Tensor, *, power: float
) -> Tensor:
    """The loss of each image, (b,), in pixels ** power.

    source (b, d, h', w'): descriptors of the first view; auxiliary and target (b, d, h, w); meets
    (b, 2, h', w'): the x, y in the target's image of the point that each source descriptor shows.
    Place (i, j) of the target stands at pixel (2 j, 2 i), as in DVE.
    """
    parts = source, auxiliary, target, meets
    asked, among, found, wanted = (part.flatten(2).transpose(1, 2) for part in parts)
    exchanged = (asked @ among.transpose(1, 2)).softmax(-1) @ among  # b n d
    p = (exchanged @ found.transpose(1, 2)).softmax(-1)  # b n m
    return (_distance(wanted, target.shape[2:]) ** power * p).sum(-1).mean(1)


def _distance(wanted: Tensor, shape: torch.Size) -> Tensor:
    """Pixels from points (b, n, 2) to all places of a map of this shape, (b, n, h * w)."""
    y, x = torch.meshgrid(
        *(STRIDE * torch.arange(n, device=wanted.device) for n in shape), indexing="ij"
    )
    places = torch.stack([x, y], -1).reshape(1, -1, 2).to(wanted.dtype).expand(len(wanted), -1, -1)
    return torch.cdist(wanted, places, compute_mode="donot_use_mm_for_euclid_dist")
