"""The LDA of patch tokens (ours, PROTOCOL 7), compared with scipy and with its words spelt out."""

import numpy as np
import pytest
import scipy.linalg
import torch

from scemae.models import lda

GRID, WIDTH = 6, 12


def tokens(count, seed=0):
    """Maps (count, WIDTH, GRID, GRID) with a mean of their own at each place, in a skewed basis."""
    some = torch.Generator().manual_seed(seed)
    places = torch.randn(1, WIDTH, GRID, GRID, generator=torch.Generator().manual_seed(7))
    basis = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(8))
    maps = places + torch.randn(count, WIDTH, GRID, GRID, generator=some)
    return torch.einsum("od,bdhw->bohw", basis, maps)


def counted(maps, first, second):
    scatter = lda.Scatter(WIDTH)
    for part in maps.split(3):
        scatter.add_faces(part)
    for one, other in zip(first.split(50), second.split(50), strict=True):
        scatter.add_pairs(one, other)
    return scatter


def unit(matrix):
    return matrix / np.trace(matrix)


def test_the_scatters_are_those_of_all_tokens_at_once():
    maps, pairs = tokens(10), torch.randn(2, 130, WIDTH)
    found = counted(maps, *pairs)
    rows = maps.permute(0, 2, 3, 1).double().numpy()  # b h w d
    assert np.allclose(found.mean, rows.mean((0, 1, 2)), atol=1e-4)
    assert np.allclose(found.total, np.cov(rows.reshape(-1, WIDTH).T, bias=True), atol=1e-3)
    content = (rows - rows.mean(0)).reshape(-1, WIDTH)
    moved = (pairs[0] - pairs[1]).double().numpy()
    within = unit(content.T @ content) + unit(moved.T @ moved)
    assert np.allclose(found.within, within, atol=1e-4)


@pytest.mark.parametrize("dim", [1, 5, WIDTH])
def test_directions_are_scipys_generalised_eigenvectors_strongest_first(dim):
    found = counted(tokens(20), *torch.randn(2, 200, WIDTH))
    within, total = found.within, found.total
    mine = lda.discriminants(within, total, dim).numpy()
    shrunk = within + lda.SHRINKAGE * within.trace() / WIDTH * torch.eye(WIDTH)
    _, theirs = scipy.linalg.eigh(total.numpy(), shrunk.numpy())
    for row, column in zip(mine, theirs.T[::-1], strict=False):
        cosine = row @ column / np.linalg.norm(row) / np.linalg.norm(column)
        assert abs(cosine) == pytest.approx(1, abs=1e-6)
    there = mine @ shrunk.numpy() @ mine.T
    assert np.allclose(there, there[0, 0] * np.eye(dim), atol=1e-8)
    assert (mine**2).sum(1).mean() == pytest.approx(1 / 3)


def test_what_differs_between_crops_or_faces_is_left_out():
    """Two dimensions tell points apart; four change with the crop, four with the face, by more."""
    some = torch.Generator().manual_seed(0)
    point = 3 * torch.randn(GRID * GRID, 2, generator=some)

    def seen(faces, crops):
        parts = [
            point.expand(len(faces), -1, -1),
            crops[:, None].expand(-1, len(point), -1),
            faces[:, None].expand(-1, len(point), -1),
            0.1 * torch.randn(len(faces), len(point), 2, generator=some),
        ]
        return torch.cat(parts, dim=2)  # b n d

    faces, one, two = (5 * torch.randn(200, 4, generator=some) for _ in range(3))
    scatter = lda.Scatter(WIDTH)
    maps = seen(faces, torch.zeros(200, 4)).transpose(1, 2).unflatten(2, (GRID, GRID))
    scatter.add_faces(maps)
    scatter.add_pairs(seen(faces, one).flatten(0, 1), seen(faces, two).flatten(0, 1))
    weight = lda.discriminants(scatter.within, scatter.total, 2).square()
    assert weight[:, :2].sum() > 0.99 * weight.sum()


def test_shared_points_have_the_same_place_in_the_image():
    """Maps that hold the coordinates of their own patches in the image."""
    boxes = torch.tensor([[0, 0, 96, 96], [10, 30, 60, 80], [5, 5, 50, 40.0]])
    others = torch.tensor([[0, 0, 96, 96], [20, 20, 70, 60], [60, 50, 30, 30.0]])

    def coordinates(boxes):
        steps = (torch.arange(GRID) + 0.5) / GRID
        y = boxes[:, 0, None] + steps * boxes[:, 2, None]
        x = boxes[:, 1, None] + steps * boxes[:, 3, None]
        return torch.stack(
            [y[:, :, None].expand(-1, -1, GRID), x[:, None].expand(-1, GRID, -1)], dim=1
        )

    first, second = lda.shared_points(coordinates(boxes), coordinates(others), boxes, others)
    assert torch.allclose(first, second, atol=1e-3)
    wanted = 0
    for box, other in zip(boxes.tolist(), others.tolist(), strict=True):
        top, left, height, width = other
        half_y, half_x = height / GRID / 2, width / GRID / 2  # of a patch of the other crop
        for row in range(GRID):
            for column in range(GRID):
                y, x = (box[a] + (i + 0.5) / GRID * box[2 + a] for a, i in ((0, row), (1, column)))
                inside = top + half_y - 1e-3 <= y <= top + height - half_y + 1e-3
                wanted += inside and left + half_x - 1e-3 <= x <= left + width - half_x + 1e-3
    assert len(first) == wanted and wanted > GRID * GRID
