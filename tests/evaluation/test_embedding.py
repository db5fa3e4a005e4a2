"""Features at landmarks, similarity maps, t-SNE and Silhouette Coefficients against slow loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scemae.errors import CheckpointError, ConfigError
from scemae.evaluation.landmarks.embedding import (
    sample_landmarks,
    similarity_maps,
    spread,
    tsne_silhouettes,
)
from scemae.evaluation.landmarks.matching import match


def clusters(apart: float, each: int = 15, kinds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """`each` vectors of every kind, about centres that are `apart` times as far as they scatter."""
    random, labels = np.random.default_rng(0), np.tile(np.arange(kinds), each)
    return apart * np.eye(8)[labels] + random.standard_normal((len(labels), 8)), labels


def slow_silhouette(points, labels, distance):
    """Rousseeuw's definition, one point at a time: (b - a) / max(a, b)."""
    values = []
    for i, own in enumerate(labels):
        means = {}
        for kind in set(labels):
            others = [
                distance(points[i], points[j])
                for j in range(len(points))
                if labels[j] == kind and j != i
            ]
            means[kind] = sum(others) / len(others)
        a = means.pop(own)
        b = min(means.values())
        values.append((b - a) / max(a, b))
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def embedded():
    vectors, labels = clusters(4)
    return vectors, labels, tsne_silhouettes(vectors, labels, repeats=2, seed=0, perplexity=5)


@pytest.mark.parametrize("side", [12, 48, 96])
def test_a_landmarks_vector_is_the_upsampled_map_at_its_pixel(side):
    random = torch.Generator().manual_seed(side)
    features, landmarks = (
        torch.randn(2, 7, side, side, generator=random),
        torch.rand(2, 4, 2, generator=random) * 136,
    )
    found = sample_landmarks(features, landmarks)
    large = F.interpolate(features, size=(96, 96), mode="bilinear", align_corners=False)
    for i in range(2):
        for j, (x, y) in enumerate((landmarks[i] - 20).round().long().clamp(0, 95).tolist()):
            torch.testing.assert_close(found[i, j], large[i, :, y, x])


def test_the_peak_of_a_similarity_map_is_the_match():
    source, target = torch.randn(2, 3, 9, 24, 24, generator=torch.Generator().manual_seed(1))
    points = torch.randint(0, 96, (3, 5, 2)).float()
    maps = similarity_maps(source, target, points)
    best = maps.flatten(2).argmax(2)
    assert maps.shape == (3, 5, 96, 96) and maps.abs().max() <= 1 + 1e-5
    assert torch.equal(
        torch.stack([best % 96, best // 96], 2).float(), match(source, target, points)
    )


def test_a_similarity_map_holds_cosines():
    source, target = torch.randn(2, 1, 9, 96, 96, generator=torch.Generator().manual_seed(1))
    found = similarity_maps(source, target, torch.tensor([[[30.0, 70.0]]]))
    torch.testing.assert_close(
        found[0, 0, 12, 5], F.cosine_similarity(source[0, :, 70, 30], target[0, :, 12, 5], 0)
    )


def test_a_sharp_map_has_a_small_spread():
    maps = torch.zeros(2, 10, 10)
    maps[0, 0, 0] = 1
    maps[1, :5] = 1
    assert spread(maps) == pytest.approx([0.01, 0.5])


def test_coefficients_equal_the_slow_definition(embedded):
    vectors, labels, found = embedded

    def cosine(u, v):
        return 1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v)

    assert found.coefficients[0] == pytest.approx(
        slow_silhouette(found.points, labels, lambda u, v: np.linalg.norm(u - v)), abs=1e-5
    )
    assert found.of_vectors == pytest.approx(slow_silhouette(vectors, labels, cosine), abs=1e-5)


def test_each_repeat_starts_elsewhere_and_the_first_is_kept(embedded):
    found = embedded[2]
    assert found.points.shape == (45, 2) and found.coefficients.shape == (2,)
    assert found.coefficients[0] != found.coefficients[1]


def test_a_run_repeats_exactly_in_any_number_of_processes(embedded):
    vectors, labels, found = embedded
    reported = []
    again = tsne_silhouettes(
        vectors, labels, repeats=3, seed=0, perplexity=5, jobs=2, advance=reported.append
    )
    assert np.array_equal(again.coefficients[:2], found.coefficients) and np.array_equal(
        again.points, found.points
    )
    assert reported == [1, 1, 1]


def test_well_separated_landmarks_score_higher(embedded):
    vectors, labels = clusters(0.5)
    mixed = tsne_silhouettes(vectors, labels, repeats=1, seed=0, perplexity=5)
    assert (
        mixed.coefficients.max() < embedded[2].coefficients.min()
        and mixed.of_vectors < embedded[2].of_vectors
    )


def test_the_length_of_a_vector_does_not_count(embedded):
    vectors, labels, found = embedded
    longer = tsne_silhouettes(
        vectors * np.exp2(labels)[:, None], labels, repeats=1, seed=0, perplexity=5
    )
    assert longer.coefficients[0] == found.coefficients[0] and longer.of_vectors == pytest.approx(
        found.of_vectors
    )


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(perplexity=45), "45 vectors"),
        (dict(repeats=0), "0 repeats"),
        (dict(labels=np.zeros(45)), "1 kinds"),
        (dict(labels=np.zeros(44)), "needed \\(n, d\\)"),
        (dict(vectors=np.full((45, 8), np.nan)), "not finite"),
    ],
)
def test_what_cannot_be_embedded_is_refused(change, words):
    vectors, labels = clusters(4)
    asked = dict(vectors=vectors, labels=labels, repeats=1, seed=0) | change
    with pytest.raises((ConfigError, CheckpointError), match=words):
        tsne_silhouettes(asked.pop("vectors"), asked.pop("labels"), **asked)
