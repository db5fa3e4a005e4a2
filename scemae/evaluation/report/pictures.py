"""The pictures of a report: a trained model's results on a few test faces, drawn by
face_figures.py.

Where a picture cannot be made, the page says why; numbers never depend on one. Images are (b, 3, h,
w) in [0, 1].
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from scemae.config.locations import masked
from scemae.config.schema.training import Carb
from scemae.data.augment import MEAN, STD, normalise
from scemae.data.geometry import CROP, INPUT
from scemae.errors import DataError, RunFolderError
from scemae.evaluation import drawing
from scemae.evaluation.landmarks import features
from scemae.evaluation.landmarks.benchmark_frames import denormalise_landmarks, normalise_landmarks
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.landmarks.embedding import spread
from scemae.evaluation.landmarks.pairs import DIFFERENT, SOURCE, Pairs
from scemae.evaluation.landmarks.position import PARTS, split_features
from scemae.evaluation.landmarks.regression import iod_errors
from scemae.evaluation.report import face_figures
from scemae.evaluation.report.clickable import clickable
from scemae.evaluation.report.face_figures import AttentionMaps, Reconstruction
from scemae.evaluation.report.source import (
    OTHER_SAMPLES,
    Source,
    best_median_worst,
    chosen_couples,
    saved_matches,
)
from scemae.methods.carb import selection_options
from scemae.models import losses
from scemae.models.carb import select, third
from scemae.models.mae import MaskedAutoencoder
from scemae.models.vit import Encoder, patchify, unpatchify

QUERIES = (0, 2, 3)  # landmarks of the similarity maps: left eye, nose, left corner of the mouth


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
    return _draw_maps(source, source.heads)


def _position(source: Source) -> tuple[str, dict]:
    """Where the last method finds points by its whole features, their content and their place."""
    name = list(source.part("content")["methods"])[-1]
    if name not in source.heads:
        raise RunFolderError(source.absent["backbone"])
    whole = source.heads[name]
    means = torch.from_numpy(source.arrays("contents.npz", [f"{name}/means"])[f"{name}/means"])

    def part_of(part: str) -> Callable[[Tensor], Tensor]:
        return lambda maps: split_features(whole(maps), means, part)

    return _draw_maps(source, {name: whole} | {f"{part} only": part_of(part) for part in PARTS})


def _draw_maps(source: Source, heads: Mapping[str, Callable[[Tensor], Tensor]]) -> tuple[str, dict]:
    """Three landmarks of the median couple's reference, searched for on the other face."""
    pairs, encoder, queries = source.pairs, source.autoencoder.encoder, list(QUERIES)
    couple = len(pairs) // 2  # the median one
    found = similarity_maps(heads, encoder, pairs, couple, source.stride)
    maps = {name: value[queries] for name, value in found.items()}
    shares = {name: spread(value) for name, value in maps.items()}
    reference, target = (_crop(pairs.views[couple, view]) for view in (SOURCE, DIFFERENT))
    query, truth = (
        (pairs.landmarks[couple, view, queries] - CROP).numpy() for view in (SOURCE, DIFFERENT)
    )
    image = drawing.similarity(reference, target, query, truth, maps, shares)
    return image, {
        "couple": chosen_couples(source)[couple],
        "landmarks": queries,
        "share_above_middle": shares,
    }


def _matches(source: Source) -> tuple[str, dict]:
    pairs, methods = source.pairs, list(source.part("matching")["methods"])
    saved, chosen = saved_matches(source), chosen_couples(source)
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
    "position": _position,
    "similarity": _similarity,
    "clickable": clickable,
    "matches": _matches,
    "detections": _detections,
}


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
    heads: Mapping[str, Callable[[Tensor], Tensor]],
    encoder: Encoder,
    pairs: Pairs,
    couple: int,
    stride: int,
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
