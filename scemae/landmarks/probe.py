"""A small matching test during training: the loss of MAE says little about landmarks."""

import torch

from scemae.data.reader import open_shards
from scemae.landmarks.benchmarks import find_benchmark, load_frames
from scemae.landmarks.features import Head, Trunk
from scemae.landmarks.matching import matching_errors
from scemae.landmarks.pairs import build_pairs

STRIDE = 4  # of cover-and-stride: a quarter of the passes of the real test


class Probe:
    """A few validation pairs, kept ready; with no shards given it has nothing to say."""

    def __init__(self, shards: str | None, couples: int, cache_dir: str | None = None) -> None:
        """Load the first images of `shards` and warp them. Raises ShardError, DataError or ConfigError."""
        self.pairs = None
        if shards is not None:
            frames = load_frames(open_shards(shards, cache_dir), find_benchmark("mafl"), limit=2 * couples)
            self.pairs = build_pairs(frames, couples=couples)

    def errors(self, trunk: Trunk, device: torch.device, head: Head | None = None) -> dict[str, float]:
        """Mean same and different error in 70-px units, of the trunk's features, or a head's. All ranks call it: with ZeRO 3
        the weights are everyone's."""
        if self.pairs is None:
            return {}
        head, side, mode = head or trunk.join, trunk.side(STRIDE), trunk.network.training
        trunk.network.eval()
        found = matching_errors(lambda frames: trunk.maps(frames, STRIDE), self.pairs, device=device,
                                heads={"features": lambda maps: head(maps, side)})["features"]
        trunk.network.train(mode)
        return {"probe_same": float(found.same.mean()), "probe_different": float(found.different.mean())}
