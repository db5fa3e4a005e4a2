"""A subject: one frozen trunk, and the lines (rows of tables) that are measured on it."""

from dataclasses import dataclass, field

import torch
from torch import nn

from scemae.evaluation.landmarks.features import Head, Trunk
from scemae.evaluation.projection import Projection

# The tests.
MATCHING, DETECTION, FEW_SHOT, EMBEDDING = "matching", "detection", "few-shot", "t-SNE"
# Ours (PROTOCOL 7): the mean feature of each place, and matching with and without it.
PLACES, CONTENT = "places", "content"
LARGEST = 1 << 29  # bytes of features that one batch of the matching test may take
OURS, RIVAL, REFERENCE, FLOOR = "ours", "rival", "reference", "floor"  # the roles of rows


@dataclass
class Line:
    """One row of a table: its test, the head that makes its features, and its marks."""

    test: str
    table: int  # of the paper; 5 is figure 5
    name: str  # unique within its subject and test
    dim: int
    head: Head
    projector: str | None = None  # digest of the projector's weights, where one is used
    variant: str = ""  # the run's name, where two runs have a projector of the same dimension
    hypercolumn: bool | None = None
    cluster: bool | None = None
    lcr: bool | None = None
    prior: float = 0.0  # of landmarks.matching.match
    stage_2: int = 0  # how many of the last channels are stage 2's, where both stages are joined
    added: str = "CARB"  # what stage 2 adds to the backbone: CARB, LDA, or LDA + CARB


@dataclass
class Subject:
    """A method with one trained trunk."""

    method: str  # the paper's name
    role: str
    trunk: Trunk
    digest: str  # of all weights behind it
    backbone: str | None = None  # digest of the trunk's weights
    lines: list[Line] = field(default_factory=list)
    images_seen: int | None = None
    run: str = ""  # name of the stage-1 run, where two subjects would have the same title
    runs: list[str] = field(default_factory=list)
    heads: list[nn.Module] = field(default_factory=list)  # the projectors' networks
    projections: list[Projection] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The name of this subject in tables and progress bars."""
        return " ".join(
            word for word in (self.method, self.trunk.model, self.run and f"({self.run})") if word
        )

    def weights(self, line: Line) -> dict[str, str]:
        """The digests of the weights behind a line's features."""
        return {
            key: value
            for key, value in (("backbone", self.backbone), ("projector", line.projector))
            if value
        }

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the networks to a device; the trunk computes in `dtype`, projectors in fp32."""
        self.trunk.network.to(device, dtype)
        for network in self.heads:
            network.to(device)

    def couples_at_once(self, images: int, side: int) -> int:
        """Couples per batch of the matching test, three images each: at most `images`, within
        LARGEST.
        """
        largest = 12 * max((line.dim for line in self.of(MATCHING)), default=1) * side**2
        return max(min(images // 3, LARGEST // largest), 1)

    def of(self, test: str) -> list[Line]:
        """The lines of one test; those of places and content match by their features alone."""
        if test in (PLACES, CONTENT):
            return [line for line in self.lines if line.test == MATCHING and not line.prior]
        return [line for line in self.lines if line.test == test]
