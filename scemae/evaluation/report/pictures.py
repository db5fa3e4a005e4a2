"""The pictures of a report: a trained model's results on a few test faces, drawn by
face_figures.py.

Where a picture cannot be made, the page says why; numbers never depend on one. Images are (b, 3, h,
w) in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from scemae.config.load import load_config
from scemae.config.locations import masked
from scemae.config.schema.training import Carb
from scemae.data.augment import MEAN, STD, normalise
from scemae.data.decode import decode
from scemae.data.geometry import CROP, FRAME, INPUT
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.errors import DataError, RunFolderError
from scemae.evaluation import drawing
from scemae.evaluation.evaluate import CARB, MAE
from scemae.evaluation.landmarks import features
from scemae.evaluation.landmarks.benchmarks import (
    Frames,
    denormalise_landmarks,
    find_benchmark,
    load_frames,
    normalise_landmarks,
)
from scemae.evaluation.landmarks.embedding import spread
from scemae.evaluation.landmarks.pairs import DIFFERENT, SOURCE, Pairs, warp_views
from scemae.evaluation.landmarks.regression import iod_errors
from scemae.evaluation.report import face_figures
from scemae.evaluation.report.face_figures import AttentionMaps, Reconstruction
from scemae.files import arrays, documents
from scemae.methods import registry
from scemae.methods.carb import selection_options
from scemae.methods.mae import load_autoencoder
from scemae.models import losses
from scemae.models.carb import select, third
from scemae.models.mae import MaskedAutoencoder
from scemae.models.vit import Encoder, patchify, unpatchify

FACES = 6  # in the pictures of reconstructions and attention
OTHER_SAMPLES = (
    "{}: holds other samples than those that were evaluated; put those back, or run "
    "`scemae evaluate` again"
)
QUERIES = (0, 2, 3)  # landmarks of the similarity maps: left eye, nose, left corner of the mouth


@dataclass
class Source:
    """The runs and shards behind the pictures; each part is loaded when first needed."""

    run_dir: Path
    results: dict  # of results.json; empty for a run of training
    backbone: Path | None  # checkpoints
    projector: Path | None
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
    def heads(self) -> dict[str, nn.Module]:
        """Identity for the backbone's features, and the projector where there is one."""
        heads: dict[str, nn.Module] = {MAE: nn.Identity()}
        if self.projector is not None and self.backbone is not None:
            encoder = self.autoencoder.encoder
            trained = registry.load_stage_2(self.projector, self.backbone, encoder)
            heads[CARB] = cast(nn.Module, trained.module.projector)
        return heads

    @cached_property
    def settings(self) -> Carb:
        if self.carb:
            return documents.convert(
                self.carb, Carb, f"{self.run_dir}: the settings of carb", error=RunFolderError
            )
        eta = 0.25 if self.autoencoder.encoder.width == 768 else 0.1  # paper 4: B, and T and S
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
        """The couples of `_chosen_couples`, warped again by the warps in pairs.npz."""
        found = self.part("matching")
        saved = self.arrays("pairs.npz", ["seed", "keys", "warps", "landmarks"])
        frames = self.frames(found["shards"], "mafl", limit=2 * found["couples"])
        where = {key: i for i, key in enumerate(frames.keys)}
        rows = [2 * couple + i for couple in _chosen_couples(self) for i in (0, 1)]
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
        """The results of "matching" or "detection". Raises RunFolderError if the run has none."""
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


def _reconstructions(source: Source) -> tuple[str, dict]:
    model = source.autoencoder
    images, keys = source.faces
    found = reconstruct(model, images)
    return face_figures.reconstructions(found), {
        "keys": keys,
        "errors": found.errors.tolist(),
        "flat": found.flat.tolist(),
        "norm_pix": model.norm_pix,
    }


def _attention(source: Source) -> tuple[str, dict]:
    encoder, carb = source.autoencoder.encoder, source.settings
    images, keys = source.faces
    found = attend(encoder, images, carb)
    count = found.selection.ids.shape[1] - carb.clusters
    return face_figures.attention(found), {
        "keys": keys,
        "eta": carb.eta,
        "clusters": carb.clusters,
        "attentive": count,
        "patches": encoder.grid**2,
        "trained": source.carb is not None,
    }


def _similarity(source: Source) -> tuple[str, dict]:
    pairs, encoder, queries = source.pairs, source.autoencoder.encoder, list(QUERIES)
    couple = len(pairs) // 2  # the median one
    maps = {
        name: value[queries]
        for name, value in similarity_maps(
            source.heads, encoder, pairs, couple, source.stride
        ).items()
    }
    shares = {name: spread(value) for name, value in maps.items()}
    reference, target = (_crop(pairs.views[couple, view]) for view in (SOURCE, DIFFERENT))
    query, truth = (
        (pairs.landmarks[couple, view, queries] - CROP).numpy() for view in (SOURCE, DIFFERENT)
    )
    image = drawing.similarity(reference, target, query, truth, maps, shares)
    return image, {
        "couple": _chosen_couples(source)[couple],
        "landmarks": queries,
        "share_above_middle": shares,
    }


def _matches(source: Source) -> tuple[str, dict]:
    pairs, methods = source.pairs, list(source.part("matching")["methods"])
    saved, chosen = _saved_matches(source), _chosen_couples(source)
    rows = [
        (
            *(_crop(views[view]) for view in (SOURCE, DIFFERENT)),
            *((points[view] - CROP).numpy() for view in (SOURCE, DIFFERENT)),
        )
        for views, points in zip(pairs.views, pairs.landmarks)
    ]
    predicted = [[saved[f"{name}/different_predicted"][i] for name in methods] for i in chosen]
    errors = [[float(saved[f"{name}/different"][i].mean()) for name in methods] for i in chosen]
    image = face_figures.matches(
        rows, ["best", "median", "worst"][: len(chosen)], methods, predicted, errors
    )
    return image, {
        "couples": chosen,
        "ranked_by": methods[-1],
        "methods": methods,
        "errors": errors,
    }


def _saved_matches(source: Source) -> dict[str, np.ndarray]:
    return source.arrays(
        "matches.npz",
        [
            f"{name}/{part}"
            for name in source.part("matching")["methods"]
            for part in ("different", "different_predicted")
        ],
    )


def _chosen_couples(source: Source) -> list[int]:
    """The best, the median and the worst couple of the last method in the ladder, on different
    identities.
    """
    last = list(source.part("matching")["methods"])[-1]
    return best_median_worst(_saved_matches(source)[f"{last}/different"].mean(axis=1))


def _detections(source: Source) -> tuple[str, dict]:
    found = source.part("detection")
    names = list(found["methods"])
    saved = source.arrays("detections.npz")
    methods = [name for name in names if f"{name}/predicted" in saved]
    if not methods:
        raise RunFolderError(source.absent["backbone"])
    frames = source.frames(found["test_shards"], found["benchmark"])
    if frames.keys != saved["keys"].tolist():
        raise DataError(OTHER_SAMPLES.format(masked(found["test_shards"])))
    truth, eyes = normalise_landmarks(frames.landmarks), find_benchmark(found["benchmark"]).eyes
    points = [torch.from_numpy(saved[f"{name}/predicted"]) for name in methods]
    predicted = torch.stack(points)  # m n l 2
    errors = np.stack([iod_errors(value, truth, eyes).mean(axis=1) for value in predicted])  # m n
    chosen = best_median_worst(errors[-1], each=2)
    groups = [f"{word} {i + 1}" for word in ("best", "median", "worst") for i in range(2)]
    image = face_figures.detections(
        _crop(frames.images[chosen]),
        groups[: len(chosen)],
        methods,
        (frames.landmarks[chosen] - CROP).numpy(),
        (denormalise_landmarks(predicted[:, chosen]) - CROP).numpy(),
        errors[:, chosen],
    )
    return image, {
        "keys": [frames.keys[i] for i in chosen],
        "ranked_by": methods[-1],
        "methods": methods,
        "errors": errors[:, chosen].tolist(),
    }


def _crop(frames: Tensor) -> Tensor:
    """The central 96 pixels of uint8 frames (..., 136, 136), in [0, 1]."""
    return frames[..., CROP:-CROP, CROP:-CROP].float() / 255


PICTURES: dict[str, Callable[[Source], tuple[str, dict]]] = {
    "reconstructions": _reconstructions,
    "attention": _attention,
    "similarity": _similarity,
    "matches": _matches,
    "detections": _detections,
}


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


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, images: Tensor, seed: int = 0) -> Reconstruction:
    """Hide patches of images (b, 3, s, s) by seeded noise, and predict them (paper 3.1).

    With norm_pix the prediction is standardised: each patch gets the mean and spread of the true
    patch back, which flatters the prediction, as the page says.
    """
    p, patches = model.encoder.patch_size, patchify(normalise(images), model.encoder.patch_size)
    noise = torch.rand(patches.shape[:2], generator=torch.Generator().manual_seed(seed))
    predicted, masked = model.reconstruct(normalise(images), noise)
    if model.norm_pix:
        spread_of_patch = (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        predicted = predicted * spread_of_patch + patches.mean(-1, keepdim=True)
    hidden = masked.unsqueeze(-1)
    colours = rearrange(patches, "b n (q c) -> b n q c", c=3).mean(2) * ~hidden
    colour = colours.sum(1) / (~hidden).sum(1)  # b c
    flat = repeat(colour, "b c -> b n (q c)", n=patches.shape[1], q=p * p)
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    pasted = unpatchify(torch.where(hidden, predicted, patches), p) * std + mean
    return Reconstruction(
        images,
        unpatchify(patchify(images, p).masked_fill(hidden, 0.88), p),
        pasted.clamp(0, 1),
        losses.reconstruction(predicted, patches, masked, False),
        losses.reconstruction(flat, patches, masked, False),
    )


@torch.no_grad()
def attend(encoder: Encoder, images: Tensor, carb: Carb) -> AttentionMaps:
    """Eq. 1 and the selection of stage 2, for images (b, 3, s, s)."""
    early = third(encoder, normalise(images), carb.layer, carb.heads)
    return AttentionMaps(
        images,
        early.similarity,
        select(encoder, early, **selection_options(carb)),
        carb.clusters,
        encoder.grid,
    )


@torch.no_grad()
def similarity_maps(
    heads: dict[str, nn.Module], encoder: Encoder, pairs: Pairs, couple: int, stride: int
) -> dict[str, Tensor]:
    """The cosine of each source landmark with each pixel of the other person's face, (l, 96, 96)
    per head.

    The arg-max of such a map is the answer of the matcher of PROTOCOL 4.5.
    """
    views = pairs.views[couple][[SOURCE, DIFFERENT]].float() / 255
    maps, found = features.backbone(encoder, stride)(views), {}
    x, y = (pairs.landmarks[couple, SOURCE] - CROP).round().clamp(0, INPUT - 1).long().unbind(-1)
    for name, head in heads.items():
        large = F.interpolate(
            head(maps).float(), size=(INPUT, INPUT), mode="bilinear", align_corners=False
        )
        source, target = F.normalize(large, dim=1)
        found[name] = torch.einsum("dl,dhw->lhw", source[:, y, x], target)
    return found


def best_median_worst(errors: np.ndarray, each: int = 1) -> list[int]:
    """Rows of the `each` smallest, middle and largest errors (n,), in ascending order."""
    order = np.argsort(errors, kind="stable")
    if len(order) <= 3 * each:
        return order.tolist()
    middle = (len(order) - each) // 2
    return np.concatenate([order[:each], order[middle : middle + each], order[-each:]]).tolist()
