"""MoCo v2 (He et al. 2020, Chen et al. 2020), stage 1 of CL (ContrastLandmark, Cheng et al. 2021;
PROTOCOL 4.1).

The query q of one view of an image is to resemble its key k, which a momentum encoder computes from
the other view, more than the keys n of other images:

    loss = -log(exp(q.k / T) / (exp(q.k / T) + sum_n exp(q.n / T)))

q, k and n have unit length; the n are the keys of the last batches, kept in a queue. After each
optimizer step the momentum encoder becomes m * itself + (1 - m) * the trained encoder.

Head and loss are lightly's. The queue is ours, because lightly's is not saved in checkpoints and
waits for the device at every step. Several ranks share one queue.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import MoCoProjectionHead
from lightly.models.utils import concat_all_gather, update_momentum
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from scemae.data.pipeline import Batch, view_pairs
from scemae.models.hypercolumn import ResNetTrunk

STAGE, TITLE, ROLE = 1, "CL", "rival"


@dataclass
class Settings:
    """MoCo's numbers."""

    trunk: str = "resnet50"  # CL's, PROTOCOL 4.1 [F]
    # of the head, MoCo v2's; CL's number of parameters in PROTOCOL 1.3 points to MoCo v1's head,
    # one linear map [D]
    hidden: int = 2048
    dim: int = 128  # of queries and keys, MoCo's
    queue: int = 4096  # CL's K, PROTOCOL 4.1 [F]
    temperature: float = 0.07  # CL's T, PROTOCOL 4.1 [F]
    momentum: float = 0.999  # of the momentum encoder, PROTOCOL 4.1 [F]
    companions: int = (
        32  # images that share BatchNorm's statistics: MoCo's 256 on 8 devices; CL's [U]
    )


def build(settings: Settings, *, seed: int) -> "MoCo":
    """A freshly initialised MoCo, the same for the same seed.

    Raises ConfigError for a trunk that timm does not have.
    """
    torch.manual_seed(seed)
    return MoCo(settings)


def views(
    settings: Settings, *, size: int, scale: tuple[float, float]
) -> Callable[[Batch], tuple[Tensor, ...]]:
    """CL's augmentation twice: two views (b, 3, size, size) and the weights (b,).

    No flip (PROTOCOL 4.1 [F]). Both views are crops of one frame, with one draw of JPEG noise; CL
    draws it for each view.
    """
    return partial(view_pairs, size=size, scale=scale)


class Queue(nn.Module):
    """The last keys (size, dim), where lightly's loss gets its negatives.

    The keys are saved in checkpoints, and the position of the oldest is a tensor on the device. The
    queue begins with random directions, as MoCo's.
    """

    keys: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(self, keys: Tensor, update: bool = False) -> tuple[Tensor, Tensor]:
        """Keys (b, dim) unchanged, and the negatives (dim, size).

        update: put the keys in the queue; the negatives returned are those from before.
        """
        negatives = self.keys.t().clone()  # the backward pass needs them unchanged
        if update:
            self._put(keys.detach())
        return keys, negatives

    @torch.no_grad()
    def _put(self, keys: Tensor) -> None:
        """Replace the oldest keys by those of all ranks."""
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            keys = concat_all_gather(keys.contiguous())
        size = len(self.keys)
        keys = keys[-size:]
        places = (self.place + torch.arange(len(keys), device=keys.device)) % size
        self.keys.index_copy_(0, places, keys.to(self.keys.dtype))
        self.place.copy_((self.place + len(keys)) % size)


class MoCo(nn.Module):
    """The trained encoder (`trunk` and `head`), the momentum encoder, and the queue.

    Shuffled BatchNorm, on any number of devices: queries are encoded in groups of `companions`
    consecutive images, keys in groups of images taken in turn, so that a query and its key share
    few of the images whose statistics normalise them. Images of weight 0 in an uneven slice
    (data/order.py) enter statistics and queue too.
    """

    # Each group is a pass: at batch 256, 16 ResNet-50s in one graph take minutes to compile.
    worth_compiling = False

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.momentum, self.companions = settings.momentum, settings.companions
        self.trunk = ResNetTrunk(settings.trunk)
        self.head = MoCoProjectionHead(self.trunk.widths[0], settings.hidden, settings.dim)
        self.trunk_momentum, self.head_momentum = (
            copy.deepcopy(part).requires_grad_(False) for part in (self.trunk, self.head)
        )
        self.contrast = NTXentLoss(settings.temperature)
        self.contrast.memory_bank = Queue(settings.queue, settings.dim)
        # without a mean, since each image has a weight of its own
        self.contrast.cross_entropy = nn.CrossEntropyLoss(reduction="none")

    def forward(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        """The sum over images of weight * loss, a scalar, of two views (b, 3, s, s)."""
        groups = max(len(first) // self.companions, 1)
        parts = first.tensor_split(groups)
        queries = torch.cat([self.head(self.trunk.pooled(part)) for part in parts])
        with torch.no_grad():
            keys = self._keys(second, groups)
        return (self.contrast(queries.float(), keys.float()) * weights).sum()

    def after_step(self) -> None:
        """Move the momentum encoder."""
        update_momentum(self.trunk, self.trunk_momentum, self.momentum)
        update_momentum(self.head, self.head_momentum, self.momentum)

    def _keys(self, images: Tensor, groups: int) -> Tensor:
        """The keys (b, dim) of images, encoded in groups of images taken in turn."""
        shuffle = (torch.arange(len(images), device=images.device) % groups).argsort(stable=True)
        parts = images[shuffle].tensor_split(groups)
        keys = [self.head_momentum(self.trunk_momentum.pooled(part)) for part in parts]
        return torch.cat(keys)[shuffle.argsort()]
