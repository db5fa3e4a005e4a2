"""MoCo v2 (He et al. 2020, Chen et al. 2020), stage 1 of CL (ContrastLandmark, Cheng et al. 2021; PROTOCOL 4.1).

A query q of one view of an image is told from the keys of other images by its own key k, which a momentum encoder makes
of the other view: loss = -log(exp(q.k / T) / (exp(q.k / T) + sum_n exp(q.n / T))), q, k and n of unit length, n the keys
of the last batches, kept in a queue. After each optimizer step the momentum encoder moves to m * itself + (1 - m) * the
trained one.

Head and loss are lightly's. The queue is ours: lightly's is left out of checkpoints, and reads its place off the device
at every step. Several ranks share one queue.
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
    hidden: int = 2048  # of the head, MoCo v2's; CL's count in PROTOCOL 1.3 points to one linear map, as in MoCo v1 [D]
    dim: int = 128  # of queries and keys, MoCo's
    queue: int = 4096  # CL's K, PROTOCOL 4.1 [F]
    temperature: float = 0.07  # CL's T, PROTOCOL 4.1 [F]
    momentum: float = 0.999  # of the momentum encoder, PROTOCOL 4.1 [F]
    companions: int = 32  # images that share BatchNorm's statistics: MoCo's 256 on 8 devices; CL's number of them is [U]


def build(settings: Settings, *, seed: int) -> "MoCo":
    """A freshly initialised MoCo, the same for the same seed. Raises ConfigError for a trunk that timm does not have."""
    torch.manual_seed(seed)
    return MoCo(settings)


def views(
    settings: Settings, *, size: int, scale: tuple[float, float]
) -> Callable[[Batch], tuple[Tensor, ...]]:
    """CL's augmentation twice: two views (b, 3, size, size) and the weights (b,). No flip (PROTOCOL 4.1 [F]).

    Both views are crops of one frame, so that one draw of JPEG noise serves both; CL draws it for each.
    """
    return partial(view_pairs, size=size, scale=scale)


class Queue(nn.Module):
    """The last keys, (size, dim), in the state_dict and with its place on the device; lightly's loss asks it for negatives.

    It begins with random directions, as MoCo's.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(self, keys: Tensor, update: bool = False) -> tuple[Tensor, Tensor]:
        """Keys (b, dim) as they are, and the negatives (dim, size) from before them; `update` puts them in."""
        negatives = self.keys.t().clone()  # a backward pass needs them as they were
        if update:
            self._put(keys.detach())
        return keys, negatives

    @torch.no_grad()
    def _put(self, keys: Tensor) -> None:
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            keys = concat_all_gather(keys.contiguous())
        size = len(self.keys)
        keys = keys[-size:]
        places = (self.place + torch.arange(len(keys), device=keys.device)) % size
        self.keys.index_copy_(0, places, keys.to(self.keys.dtype))
        self.place.copy_((self.place + len(keys)) % size)


class MoCo(nn.Module):
    """The trained encoder `trunk` and `head`, their momentum copies, and the queue.

    Shuffled BatchNorm, on any number of devices: queries are encoded in groups of `companions` neighbours, keys in groups
    of images dealt out in turn, so that a query and its key share few of the images whose statistics normalise them.
    What has weight 0 in an uneven slice (order.py) enters statistics and queue all the same.
    """

    worth_compiling = False  # every group is a pass of its own: at batch 256, 16 ResNet-50s in one graph, minutes of compilation

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
        self.contrast.cross_entropy = nn.CrossEntropyLoss(
            reduction="none"
        )  # each image has a weight of its own

    def forward(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        """Two views (b, 3, s, s) and weights (b,) to the sum over images of weight * loss, a scalar."""
        groups = max(len(first) // self.companions, 1)
        queries = torch.cat(
            [self.head(self.trunk.pooled(part)) for part in first.tensor_split(groups)]
        )
        with torch.no_grad():
            keys = self._keys(second, groups)
        return (self.contrast(queries.float(), keys.float()) * weights).sum()

    def after_step(self) -> None:
        """Move the momentum encoder; once after each optimizer step, however many micro-steps it had."""
        update_momentum(self.trunk, self.trunk_momentum, self.momentum)
        update_momentum(self.head, self.head_momentum, self.momentum)

    def _keys(self, images: Tensor, groups: int) -> Tensor:
        dealt = (torch.arange(len(images), device=images.device) % groups).argsort(stable=True)
        parts = images[dealt].tensor_split(groups)
        return torch.cat([self.head_momentum(self.trunk_momentum.pooled(part)) for part in parts])[
            dealt.argsort()
        ]
