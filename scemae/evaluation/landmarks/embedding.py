"""The features at landmarks themselves: how like each of them a face's other places are, and how they part in t-SNE.

Paper figure 1 (similarity maps) and figure 5 with its Silhouette Coefficient.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits
from torch import Tensor

from scemae.data.geometry import CROP, INPUT
from scemae.errors import CheckpointError, ConfigError
from scemae.evaluation.landmarks.matching import look_up

COMPONENTS = 50  # of PCA before t-SNE: common practice, for speed; the paper does not say [U]


@dataclass
class Embeddings:
    """n landmark vectors in the plane, and how well their kinds part: Silhouette Coefficients, -1 to 1, higher is better."""

    points: np.ndarray  # (n, 2) float32: t-SNE's first repeat
    labels: np.ndarray  # (n,): which landmark each is
    coefficients: np.ndarray  # (repeats,): of the points of each repeat, by Euclidean distance
    of_vectors: float  # of the vectors themselves, by cosine distance: does not depend on t-SNE


def sample_landmarks(features: Tensor, landmarks: Tensor) -> Tensor:
    """The feature (b, l, d) at each of landmarks (b, l, 2) in pixels of the 136 frame, in maps (b, d, h, w) of the 96 crop.

    Looked up as the matcher looks up its queries: landmarks are rounded, and kept inside the crop.
    """
    return look_up(features, landmarks - CROP)


@torch.no_grad()
def similarity_maps(source: Tensor, target: Tensor, points: Tensor) -> Tensor:
    """The cosine (b, l, 96, 96) of the source's feature at each point with the target's at every pixel (paper figure 1).

    source and target (b, d, h, w) cover the crop; points (b, l, 2), x and y in its pixels. The matcher's answer is such a
    map's arg-max.
    """
    queries = F.normalize(look_up(source, points), dim=2)
    large = F.interpolate(target.float(), size=(INPUT, INPUT), mode="bilinear", align_corners=False)
    return torch.einsum("bld,bdhw->blhw", queries, F.normalize(large, dim=1))


def spread(similarity: Tensor) -> list[float]:
    """The share of each map (l, h, w) that lies above the middle of its range: a sharp map has a small one."""
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
    """t-SNE of vectors (n, d) `repeats` times, each from its own random start, and the Silhouette Coefficient of each.

    Paper 4.3: 100 times for 1,000 test images. Not said there [U], and chosen here: the coefficient is of the embedded
    points; vectors are brought to length one, as only angles count in matching; then PCA to `COMPONENTS`; perplexity 30.
    `jobs` repeats at a time, each in a process with one thread: the result does not depend on `jobs`, and is the same as the
    first repeats of a longer run. `progress(done, repeats)` is told. 22 s of one core each for 5,000 points. Raises
    ConfigError where there are too few vectors, CheckpointError where they are not finite.
    """
    _check(vectors, labels, repeats, perplexity)
    unit = normalize(vectors.astype(np.float32))
    reduced = PCA(min(COMPONENTS, *unit.shape), random_state=0).fit_transform(unit)
    starts = np.random.SeedSequence(seed).generate_state(repeats).tolist()
    coefficients, first = [], None
    # One thread: sums over several are added in another order, and t-SNE makes another picture of the difference.
    with (
        threadpool_limits(1),
        parallel_config("loky", n_jobs=min(jobs, repeats), inner_max_num_threads=1),
    ):
        for points in Parallel(return_as="generator")(
            delayed(
                TSNE(
                    init="random", perplexity=perplexity, random_state=start, n_jobs=1
                ).fit_transform
            )(reduced)
            for start in starts
        ):
            first = points if first is None else first
            coefficients.append(silhouette_score(points, labels))
            advance(1)
    if jobs > 1:
        get_reusable_executor().shutdown()  # else its processes outlive ours, and hold the pipe that we print into
    return Embeddings(
        first,
        labels,
        np.array(coefficients),
        float(silhouette_score(unit, labels, metric="cosine")),
    )


def _check(vectors: np.ndarray, labels: np.ndarray, repeats: int, perplexity: float) -> None:
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1]:
        raise ConfigError(
            f"t-SNE: found vectors {vectors.shape} and labels {labels.shape}, needed (n, d) and (n,)"
        )
    if repeats < 1 or not 0 < perplexity < len(vectors):
        raise ConfigError(
            f"t-SNE: found {len(vectors)} vectors, {repeats} repeats and perplexity {perplexity:g}, needed "
            "more vectors than the perplexity and a repeat at least; give more images or lower the perplexity"
        )
    if not 2 <= len(np.unique(labels)) < len(labels):
        raise ConfigError(
            f"t-SNE: found {len(np.unique(labels))} kinds of landmarks in {len(labels)} vectors, needed two "
            "or more kinds and several vectors of one; give more images"
        )
    if not np.isfinite(vectors).all():
        raise CheckpointError(
            "t-SNE: the features are not finite; the checkpoint is of a run that diverged, take an "
            "earlier one"
        )
