"""Figures of faces in a report: arrays in, a PNG data URI out. Faces are (3, s, s) in [0, 1]."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb
from torch import Tensor

from scemae.evaluation.drawing import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, YELLOW, Sheet, heat
from scemae.models.carb import Selection


@dataclass
class Reconstruction:
    """A masked autoencoder's predictions of b faces.

    Errors are means of squares over the hidden patches, in standard deviations of the data.
    """

    original: Tensor  # (b, 3, s, s)
    masked: Tensor  # (b, 3, s, s): hidden patches grey
    predicted: Tensor  # (b, 3, s, s): hidden patches predicted, the visible ones as they are
    errors: Tensor  # (b,)
    flat: Tensor  # (b,): errors of filling hidden patches with the mean colour of the visible ones


@dataclass
class AttentionMaps:
    """Eq. 1 on b faces, and the tokens that stage 2 selects by Eq. 2 and 3 (paper 3.2)."""

    original: Tensor  # (b, 3, s, s)
    similarity: Tensor  # (b, n) of Eq. 1
    selection: Selection
    clusters: int  # the last tokens of the selection are the centres
    grid: int


def reconstructions(found: Reconstruction) -> str:
    """Original, masked and predicted as rows, faces as columns."""
    rows = [list(part) for part in (found.original, found.masked, found.predicted)]
    sheet = Sheet(rows, [""] * len(found.original), ["original", "visible", "predicted"], left=78)
    for j, (error, flat) in enumerate(zip(found.errors, found.flat, strict=True)):
        sheet.note(2, j, f"error {float(error):.2f}, flat {float(flat):.2f}")
    return sheet.uri()


def attention(found: AttentionMaps) -> str:
    """Attentive patches, Eq. 1 and clusters as rows, faces as columns."""
    grid, chosen = found.grid, found.selection
    maps = heat(found.similarity.unflatten(1, (grid, grid)))
    cluster = chosen.slot - (chosen.ids.shape[1] - found.clusters)  # b n, below 0: attentive
    faces = list(found.original)
    tinted = [tint(*each, found.clusters) for each in zip(faces, cluster, strict=True)]
    names = ["attentive\npatches", "similarity\nto CLS", "clusters"]
    sheet = Sheet([faces, list(maps), tinted], [""] * len(maps), names, left=78)
    centres = chosen.ids[:, -found.clusters :].numpy()
    for j, attentive in enumerate((cluster < 0).numpy()):
        for row in (0, 1, 2):
            sheet.outline(row, j, attentive.reshape(grid, grid))
        sheet.squares(2, j, centres[j], grid, _cluster_colours(found.clusters))
    return sheet.uri()


def _cluster_colours(count: int) -> list[str]:
    return [(BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, RED)[i % 7] for i in range(count)]


def tint(image: Tensor, cluster: Tensor, clusters: int) -> Tensor:
    """A face (3, s, s) with its inattentive patches grey and tinted in the colour of their cluster.

    cluster (n,) of each patch, below 0 where it is attentive.
    """
    grid, size = int(len(cluster) ** 0.5), image.shape[1:]
    colours = torch.tensor([to_rgb(colour) for colour in _cluster_colours(clusters)])
    tints = colours[cluster.clamp_min(0)].T.reshape(1, 3, grid, grid)
    attentive = (cluster < 0).float().reshape(1, 1, grid, grid)
    tinted = F.interpolate(tints, size=size, mode="nearest")[0]
    shown = F.interpolate(attentive, size=size, mode="nearest")[0]
    grey = image.mean(0, keepdim=True)
    return torch.where(shown > 0, image, 0.5 * grey + 0.5 * tinted)


def matches(
    rows: list[tuple[Tensor, Tensor, np.ndarray, np.ndarray]],
    names: list[str],
    methods: list[str],
    predicted: list[list[np.ndarray]],
    errors: list[list[float]],
) -> str:
    """Pairs as rows (reference, target, points of both), methods as columns, as in the paper's
    figure 4.

    predicted[row][method] (l, 2) is in pixels of the crop; errors are the pairs' means in 70-px
    units.
    """
    sheet = Sheet(
        [[reference] + [target] * len(methods) for reference, target, _, _ in rows],
        ["reference", *methods],
        names,
        left=64,
    )
    for i, (_, _, source, truth) in enumerate(rows):
        sheet.dots(i, 0, source)
        for j in range(len(methods)):
            sheet.errors(i, j + 1, predicted[i][j], truth)
            sheet.note(i, j + 1, f"{errors[i][j]:.2f} px")
    return sheet.uri()


def detections(
    faces: Tensor,
    groups: list[str],
    methods: list[str],
    truth: np.ndarray,
    predicted: np.ndarray,
    errors: np.ndarray,
) -> str:
    """Faces (n, 3, 96, 96) as columns, methods as rows; truth (n, l, 2), predicted (m, n, l, 2),
    errors (m, n) %IOD.
    """
    sheet = Sheet(
        [list(faces)] * len(methods),
        groups,
        [name.replace(" ", "\n", 1) for name in methods],
        left=76,
    )
    for i in range(len(methods)):
        for j in range(len(faces)):
            sheet.errors(i, j, predicted[i, j], truth[j])
            sheet.note(i, j, f"{errors[i, j]:.1f}%")
    return sheet.uri()
