"""DVE's network: one stacked hourglass (Newell et al. 2016), at half the images' resolution."""

from torch import Tensor, nn
from torch.nn import functional as F

from scemae.errors import ConfigError

STRIDE = 2  # pixels of the image per place of the features (PROTOCOL 3.4 [F])


class Bottleneck(nn.Module):
    """A pre-activated residual block: 1x1 to half of `out`, 3x3, 1x1.

    (b, width, h, w) to (b, out, h, w).
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        half = out // 2
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, half, 1),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, out, 1),
        )
        self.shortcut = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.body(feature_map) + self.shortcut(feature_map)


class Level(nn.Module):
    """One resolution of the hourglass: a branch at this one, plus the level at half of it."""

    def __init__(self, width: int, depth: int, blocks: int) -> None:
        super().__init__()
        self.branch, self.down, self.up = (_chain(width, blocks) for _ in range(3))
        self.below = Level(width, depth - 1, blocks) if depth > 1 else _chain(width, blocks)

    def forward(self, feature_map: Tensor) -> Tensor:
        low = self.up(self.below(self.down(F.max_pool2d(feature_map, 2))))
        return self.branch(feature_map) + F.interpolate(low, scale_factor=2.0, mode="nearest")


class Hourglass(nn.Module):
    """Normalised images (b, 3, s, s) to features (b, out, s/2, s/2), not normalised.

    A 7x7 convolution of stride 2, three bottlenecks up to `width` channels, one hourglass of
    `depth` halvings with `blocks` bottlenecks in each place, and 1x1 convolutions. With the
    defaults it has 12,609,472 parameters, DVE's 12.609 M. That it has 4 blocks in each place, and
    no pooling before the hourglass, is deduced from that number and from the stride of 2 (PROTOCOL
    1.3, 3.4 [D]).
    """

    def __init__(self, width: int = 256, depth: int = 4, blocks: int = 4, *, out: int = 64) -> None:
        """Raises ConfigError for a width that is no multiple of 4."""
        super().__init__()
        if width % 4 or depth < 1 or blocks < 1:
            raise ConfigError(
                f"hourglass: found width {width}, depth {depth}, blocks {blocks}; the width must "
                "be a multiple of 4, the others at least 1"
            )
        self.width, self.depth, self.out = width, depth, out
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 4, 7, STRIDE, 3),
            nn.BatchNorm2d(width // 4),
            nn.ReLU(inplace=True),
            Bottleneck(width // 4, width // 2),
            Bottleneck(width // 2, width),
            Bottleneck(width, width),
        )
        self.levels = Level(width, depth, blocks)
        self.tail = nn.Sequential(
            _chain(width, blocks),
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 1),
        )

    def check_size(self, size: int) -> None:
        """Raise ConfigError where images of `size` pixels cannot be halved `depth` times."""
        if size % (STRIDE * 2**self.depth):
            raise ConfigError(
                f"hourglass: found images of {size} px, depth {self.depth} needs a multiple of "
                f"{STRIDE * 2**self.depth}; change model.image_size or the depth"
            )

    def count_parameters(self) -> int:
        """Parameters, as PROTOCOL 1.3 counts them."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, images: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        return self.tail(self.levels(self.stem(images.to(dtype))))


def _chain(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(Bottleneck(width, width) for _ in range(blocks)))
