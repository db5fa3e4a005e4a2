"""Similarity maps around landmarks (paper figure 1), and t-SNE of the features at landmarks with
its Silhouette Coefficient (paper figure 5).
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import normalize
from torch import Tensor

from scemae.data.geometry import CROP, INPUT
from scemae.errors import CheckpointError, ConfigError, LaunchError
from scemae.evaluation.landmarks.matching import look_up
from scemae.evaluation.landmarks.tsne import tsne
from scemae.process.workers import follow_parent

COMPONENTS = 50  # of PCA before t-SNE: common practice, for speed; the paper does not say [U]


@dataclass
class Embeddings:
    """n landmark vectors in the plane, and their Silhouette Coefficients: -1 to 1, higher is
    better.
    """

    points: np.ndarray  # (n, 2) float32: t-SNE's first repeat
    labels: np.ndarray  # (n,): the number of its landmark
    coefficients: np.ndarray  # (repeats,): of the points of each repeat, by Euclidean distance
    of_vectors: float  # of the vectors themselves, by cosine distance: does not depend on t-SNE


def sample_landmarks(features: Tensor, landmarks: Tensor) -> Tensor:
    """The features (b, l, d) at landmarks (b, l, 2), in pixels of the 136 frame, of maps (b, d, h,
    w).

    The maps cover the 96 crop. As in the matcher, landmarks are rounded and kept inside the crop.
    """
    return look_up(features, landmarks - CROP)


@torch.no_grad()
def similarity_maps(source: Tensor, target: Tensor, points: Tensor) -> Tensor:
    """The cosine (b, l, 96, 96) of the source's feature at each point with all of the target's
    (paper figure 1).

    source and target (b, d, h, w) cover the crop; points (b, l, 2), x and y in its pixels. The
    arg-max of such a map is the matcher's answer.
    """
    queries = F.normalize(look_up(source, points), dim=2)
    large = F.interpolate(target.float(), size=(INPUT, INPUT), mode="bilinear", align_corners=False)
    return torch.einsum("bld,bdhw->blhw", queries, F.normalize(large, dim=1))


def spread(similarity: Tensor) -> list[float]:
    """The share of each map (l, h, w) above the middle of its range: small for a sharp map."""
    flat = similarity.flatten(1)
    middle = (flat.amin(1) + flat.amax(1)) / 2
    return (flat > middle[:, None]).float().mean(1).tolist()


def tsne_silhouettes(
    vectors: np.ndarray,
    labels: np.ndarray,
    *,
    repeats: int,
    seed: int,
    perplexity: float = 30,
    jobs: int = 1,
    advance: Callable[[int], object] = lambda repeats: None,
) -> Embeddings:
    """t-SNE of vectors (n, d) `repeats` times from different random starts, and their Silhouette
    Coefficients.

    Paper 4.3: 100 times for 1,000 test images. Choices of ours [U]: the coefficient is of the
    embedded points; vectors are scaled to length one, as only angles count in matching; then PCA to
    `COMPONENTS`; perplexity 30. `jobs` processes of one thread each share the repeats: the result
    does not depend on their number, and the first repeats of a longer run are the same.
    `advance(1)` is called after each repeat, which takes 22 s of one core for 5,000 points. Raises
    ConfigError where there are too few vectors, CheckpointError where they are not finite.
    """
    _check(vectors, labels, repeats, perplexity)
    unit = normalize(vectors.astype(np.float32))
    reduced = PCA(min(COMPONENTS, *unit.shape), random_state=0).fit_transform(unit)
    starts = np.random.SeedSequence(seed).generate_state(repeats).tolist()
    processes, found, first = min(jobs, repeats), [], None
    spawn, one = multiprocessing.get_context("spawn"), partial(tsne, reduced, perplexity)
    try:
        with ProcessPoolExecutor(processes, spawn, follow_parent) as pool:
            for points in pool.map(one, starts) if processes > 1 else map(one, starts):
                first = points if first is None else first
                found.append(silhouette_score(points, labels))
                advance(1)
    except BrokenProcessPool as error:
        raise LaunchError(
            f"t-SNE: one of {processes} processes died, perhaps for lack of memory; run the same "
            "command again, it goes on where it stood"
        ) from error
    assert first is not None  # repeats >= 1 was checked
    of_vectors = float(silhouette_score(unit, labels, metric="cosine"))
    return Embeddings(first, labels, np.array(found), of_vectors)


def _check(vectors: np.ndarray, labels: np.ndarray, repeats: int, perplexity: float) -> None:
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1]:
        raise ConfigError(
            f"t-SNE: found vectors {vectors.shape} and labels {labels.shape}, needed (n, d) and "
            "(n,)"
        )
    if repeats < 1 or not 0 < perplexity < len(vectors):
        raise ConfigError(
            f"t-SNE: found {len(vectors)} vectors, {repeats} repeats and perplexity "
            f"{perplexity:g}, needed more vectors than the perplexity and at least one repeat; "
            "give more images or lower the perplexity"
        )
    if not 2 <= len(np.unique(labels)) < len(labels):
        raise ConfigError(
            f"t-SNE: found {len(np.unique(labels))} kinds of landmarks in {len(labels)} vectors, "
            "needed two or more kinds and several vectors of one; give more images"
        )
    if not np.isfinite(vectors).all():
        raise CheckpointError(
            "t-SNE: the features are not finite; the checkpoint is of a run that diverged, take an "
            "earlier one"
        )
