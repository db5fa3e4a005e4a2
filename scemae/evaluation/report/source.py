"""The runs and shards behind the pictures of a report, loaded when first needed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from scemae.config.load import load_config
from scemae.config.locations import masked
from scemae.config.schema.training import Carb
from scemae.data.decode import decode
from scemae.data.geometry import FRAME
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.errors import DataError, RunFolderError
from scemae.evaluation import subjects
from scemae.evaluation.evaluate import MAE, name_of
from scemae.evaluation.landmarks.benchmark_frames import Frames, load_frames
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.landmarks.features import Head
from scemae.evaluation.landmarks.pairs import Pairs, warp_views
from scemae.evaluation.subject import MATCHING
from scemae.files import arrays, documents
from scemae.methods.mae import load_autoencoder
from scemae.models.carb import paper_eta
from scemae.models.mae import MaskedAutoencoder

FACES = 6  # in the pictures of reconstructions and attention
OTHER_SAMPLES = (
    "{}: holds other samples than those that were evaluated; put those back, or run "
    "`scemae evaluate` again"
)


@dataclass
class Source:
    """The runs and shards behind the pictures; each part is loaded when first needed."""

    run_dir: Path
    results: dict  # of results.json; empty for a run of training
    backbone: Path | None  # checkpoints
    projectors: list[Path]  # one for each row of the ladder after the backbone's
    absent: dict[str, str]  # why there is no "backbone", "matching" or "detection", in a sentence
    carb: dict | None  # settings of stage 2; None: the paper's
    shards: str  # faces to show
    cache_dir: str | None
    stride: int
    may_copy: bool = True  # shards named by a URL may be copied into cache_dir
    _frames: dict[tuple, Frames] = field(default_factory=dict)

    def _open(self, location: str) -> ShardSet:
        return open_shards(location, self.cache_dir, may_copy=self.may_copy)

    @cached_property
    def autoencoder(self) -> MaskedAutoencoder:
        if self.backbone is None:
            raise RunFolderError(self.absent["backbone"])
        return load_autoencoder(self.backbone)[0].eval().requires_grad_(False)

    @cached_property
    def heads(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Identity for the backbone's features, and the projectors by the names of their rows."""
        heads: dict[str, Callable[[Tensor], Tensor]] = {MAE: nn.Identity()}
        if self.backbone is None:
            return heads
        subject = subjects.from_backbone(self.backbone, self.projectors)
        for line in subject.of(MATCHING)[1:]:
            heads[name_of(subject, line)] = partial(_projected, line.head)
        return heads

    @cached_property
    def settings(self) -> Carb:
        if self.carb:
            return documents.convert(
                self.carb, Carb, f"{self.run_dir}: the settings of carb", error=RunFolderError
            )
        eta = paper_eta(self.autoencoder.encoder.width)
        return load_config("correspond", ["run_dir=-", "backbone=-", f"carb.eta={eta}"]).carb

    @cached_property
    def faces(self) -> tuple[Tensor, list[str]]:
        encoder = self.autoencoder.encoder
        return decode_faces(self._open(self.shards), encoder.grid * encoder.patch_size)

    def frames(self, location: str, benchmark: str, limit: int | None = None) -> Frames:
        """Evaluation frames, cached for the other pictures."""
        shards = self._open(location)
        key = location, benchmark, min(limit or len(shards), len(shards))
        if key not in self._frames:
            self._frames[key] = load_frames(shards, find_benchmark(benchmark), limit=limit)
        return self._frames[key]

    @cached_property
    def pairs(self) -> Pairs:
        """The couples of `chosen_couples`, warped again by the warps in pairs.npz."""
        found = self.part("matching")
        saved = self.arrays("pairs.npz", ["seed", "keys", "warps", "landmarks"])
        frames = self.frames(found["shards"], "mafl", limit=2 * found["couples"])
        where = {key: i for i, key in enumerate(frames.keys)}
        rows = [2 * couple + i for couple in chosen_couples(self) for i in (0, 1)]
        keys = saved["keys"][rows].tolist()
        digest = self._open(found["shards"]).manifest.digest()
        if digest != found["data_digest"] or set(keys) - set(where):
            raise DataError(OTHER_SAMPLES.format(masked(found["shards"])))
        chosen, warps = [where[key] for key in keys], torch.from_numpy(saved["warps"][rows])
        first, second, points_1, points_2 = warp_views(
            frames.images[chosen], frames.landmarks[chosen], warps
        )
        views, landmarks = (
            torch.stack([one[0::2], two[0::2], two[1::2]], dim=1)
            for one, two in ((first, second), (points_1, points_2))
        )
        return Pairs(int(saved["seed"]), keys, warps, views, landmarks, 0)

    def part(self, name: str) -> dict:
        """The results of "matching", "content" or "detection". Raises RunFolderError if the run has
        none.
        """
        if name not in self.results:
            raise RunFolderError(self.absent[name])
        return self.results[name]

    def arrays(self, name: str, wanted: list[str] | None = None) -> dict[str, np.ndarray]:
        """The wanted (or all) arrays of an .npz file of evaluate. Raises RunFolderError where they
        are not there.
        """
        return arrays.read(
            self.run_dir / name, wanted, error=RunFolderError, remedy="run `scemae evaluate` again"
        )


def _projected(head: Head, maps: Tensor) -> Tensor:
    """A head's features (b, dim, h, w) of the backbone's one map (b, d, h, w)."""
    return head([maps], maps.shape[-1])


def saved_matches(source: Source) -> dict[str, np.ndarray]:
    return source.arrays(
        "matches.npz",
        [
            f"{name}/{part}"
            for name in source.part("matching")["methods"]
            for part in ("different", "different_predicted")
        ],
    )


def chosen_couples(source: Source) -> list[int]:
    """The best, the median and the worst couple of the last method in the ladder, on different
    identities.
    """
    last = list(source.part("matching")["methods"])[-1]
    return best_median_worst(saved_matches(source)[f"{last}/different"].mean(axis=1))


def decode_faces(shards: ShardSet, size: int, wanted: int = FACES) -> tuple[Tensor, list[str]]:
    """`wanted` faces spread over `shards`, the central `size` pixels of their 136 frame, and their
    keys.

    Raises ShardError where a sample cannot be read, DataError where it is no image.
    """
    chosen = sorted({i * (len(shards) - 1) // (wanted - 1) for i in range(wanted)})
    try:
        frames = np.stack([decode(shards.jpeg(i), FRAME) for i in chosen])
    except ValueError as error:
        raise DataError(
            f"{shards.folder}: holds something that is no image ({error}); give other shards"
        ) from error
    margin = (FRAME - size) // 2
    images = rearrange(torch.from_numpy(frames), "b h w c -> b c h w").float() / 255
    cropped = images[..., margin : margin + size, margin : margin + size]
    return cropped, [shards.keys[i] for i in chosen]


def best_median_worst(errors: np.ndarray, each: int = 1) -> list[int]:
    """Rows of the `each` smallest, middle and largest errors (n,), in ascending order."""
    order = np.argsort(errors, kind="stable")
    if len(order) <= 3 * each:
        return order.tolist()
    middle = (len(order) - each) // 2
    return np.concatenate([order[:each], order[middle : middle + each], order[-each:]]).tolist()
