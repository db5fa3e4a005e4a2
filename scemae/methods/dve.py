"""DVE, descriptor vector exchange (Thewlis et al. 2019), in one stage (PROTOCOL 3).

Of an image there are two warps: what is at u in the first is at g(u) in the second. The descriptor of each place of the
first is exchanged for the auxiliary image's descriptors that resemble it, and these have to find the place in the second:

    f^_u = sum_w fa_w softmax_w(f1_u . fa_w),    loss = mean_u sum_v ||g(u) - v||^a softmax_v(f^_u . f2_v)

with f1, f2 and fa of both warps and of the auxiliary, all of length 20 (so DVE's `dense_correlation_loss_dve` by default),
a = 0.5, distances in pixels. The auxiliary is the first view of the next image of the micro-batch, as in DVE; with one image
alone, its own. The features are evaluated as they are; there is no second stage.
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
    step: int = 2  # every second place of the first view asks, in each direction; DVE's is 1, at 4 times the memory


def build(settings: Settings, *, seed: int) -> "DVE":
    """A freshly initialised DVE, the same for the same seed. Raises ConfigError where it does not fit the images."""
    torch.manual_seed(seed)
    module = DVE(settings)
    module.trunk.check_size(INPUT)
    return module


def views(
    settings: Settings, *, size: int, scale: tuple[float, float]
) -> Callable[[Batch], tuple[Tensor, ...]]:
    """Both warps of each image and where they meet; frames must have 136 px. No random crop, so `scale` is left aside."""
    return partial(warped_views, size=size)


def warped_views(batch: Batch, size: int) -> tuple[Tensor, ...]:
    """Two warped, differently coloured views (b, 3, size, size), normalised; meets (b, size/2, size/2, 2), the x, y in
    pixels of the second view of what every second pixel of the first shows; weights (b,).

    The second view is warped by W1, the first by W1 and, on top, W2 (PROTOCOL 3.4, with DVE's training scales [F]). Colours
    are drawn for each view after the warps, whose outside is black [U]. Raises ConfigError for frames of another size.
    """
    if batch.images.shape[-1] != FRAME:
        raise ConfigError(
            f"data.frame={batch.images.shape[-1]}: DVE warps frames of {FRAME} px; give data.frame={FRAME}"
        )
    both, on_top = _warps(batch)
    second = tps_warps.resample(batch.images.float() / 255, both)
    first = tps_warps.resample(second, on_top)
    coloured = [
        normalise(recoloured(batch, centre_crop(images, size), view))
        for view, images in enumerate((first, second))
    ]
    margin = (FRAME - size) // 2
    meets = centre_crop(((on_top + 1) / 2 * (FRAME - 1) - margin).permute(0, 3, 1, 2), size)[
        :, :, ::STRIDE, ::STRIDE
    ]
    return *coloured, meets.permute(0, 2, 3, 1).float(), batch.tensor(batch.slice.weights)


def _warps(batch: Batch) -> tuple[Tensor, Tensor]:
    """W1 and W2 of each image, (b, 136, 136, 2): their 412 numbers come from the host, in one copy, and one product on the device
    makes both. In float64, as those of the tests, so that no device changes a pixel: 8 MFLOP for an image."""
    made = [
        tps_warps.make_warps(
            batch.normal(randomness.WARP + view * randomness.VIEW, tps_warps.NORMALS),
            tps_warps.SCALES[name],
        )
        for view, name in enumerate(("dve-both", "dve-on-top"))
    ]
    return tps_warps.warp_grid(to_device(torch.cat(made), batch.images.device)).chunk(2)


class DVE(nn.Module):
    """The hourglass `trunk` under the loss of descriptors that are exchanged."""

    worth_compiling = False  # an hourglass of 212 convolutions in one graph, as large as BYOL's

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.trunk = Hourglass(settings.width, settings.depth, settings.blocks, out=settings.dim)
        self.length, self.power, self.step = settings.length, settings.power, settings.step

    def forward(self, first: Tensor, second: Tensor, meets: Tensor, weights: Tensor) -> Tensor:
        """What `warped_views` gives to the sum over images of weight * loss, a scalar."""
        features = self.trunk(
            torch.cat([first, second])
        ).float()  # one pass: both views share BatchNorm's statistics
        source, target = (self.length * F.normalize(part, dim=1) for part in features.chunk(2))
        asking = (
            slice(None),
            slice(None),
            slice(None, None, self.step),
            slice(None, None, self.step),
        )
        per_image = exchange(
            source[asking],
            source.roll(-1, 0),
            target,
            meets.permute(0, 3, 1, 2)[asking],
            power=self.power,
        )
        return (per_image * weights).sum()


def exchange(
    source: Tensor, auxiliary: Tensor, target: Tensor, meets: Tensor, *, power: float
) -> Tensor:
    """The loss of each image, (b,), in pixels ** power.

    source (b, d, h', w') descriptors that ask; auxiliary and target (b, d, h, w); meets (b, 2, h', w') the x, y in the
    target's image of what each source descriptor shows. Place (i, j) of the target stands at pixel (2 j, 2 i), as in DVE.
    """
    asked, among, found, wanted = (
        part.flatten(2).transpose(1, 2) for part in (source, auxiliary, target, meets)
    )
    exchanged = (asked @ among.transpose(1, 2)).softmax(-1) @ among  # b n d
    p = (exchanged @ found.transpose(1, 2)).softmax(-1)  # b n m
    return (_distance(wanted, target.shape[2:]) ** power * p).sum(-1).mean(1)


def _distance(wanted: Tensor, shape: torch.Size) -> Tensor:
    """From points (b, n, 2) to all places of a map: (b, n, h * w) in pixels."""
    y, x = torch.meshgrid(
        *(STRIDE * torch.arange(n, device=wanted.device) for n in shape), indexing="ij"
    )
    places = torch.stack([x, y], -1).reshape(1, -1, 2).to(wanted.dtype).expand(len(wanted), -1, -1)
    return torch.cdist(wanted, places, compute_mode="donot_use_mm_for_euclid_dist")
