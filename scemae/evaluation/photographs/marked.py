"""Photographs with points on them, as one PNG: queried points as rings, found points as dots."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from scemae.data.framing import Box
from scemae.evaluation.drawing import FIVE, INK, POINTS
from scemae.files import disk

SIDE, TOP, GAP = 620, 30, 12  # pixels: side of a panel, height of its title, between panels
UNUSUAL = "#c0392b"
MARGIN = 0.05  # shown around the box, as a share of its side


@dataclass
class Panel:
    """One photograph, its box, and points (l, 2) on it in its pixels."""

    image: Image.Image
    box: Box
    points: np.ndarray
    title: str
    is_found: bool  # dots, else rings
    labels: list[str]  # beside each point; none where empty
    is_unusual: bool = False  # its frame is unlike training pictures: red, and named in the title


def draw(panels: list[Panel], path: Path) -> None:
    """Write `figure_of` panels. Raises OSError."""
    figure = figure_of(panels)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk.replacing(path) as file:
        figure.savefig(file, format="png")


def figure_of(panels: list[Panel]) -> Figure:
    """Panels side by side; a point has one colour in all."""
    width, height = len(panels) * (SIDE + GAP) - GAP, SIDE + TOP
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    for i, panel in enumerate(panels):
        axes = figure.add_axes((i * (SIDE + GAP) / width, 0, SIDE / width, SIDE / height))
        _draw_panel(axes, panel)
        title, colour = panel.title, INK
        if panel.is_unusual:
            title, colour = f"{title} (unusual frame)", UNUSUAL
        figure.text(
            (i * (SIDE + GAP) + 2) / width, 1 - 20 / height, title, fontsize=10, color=colour
        )
    return figure


def point_colours(count: int) -> list:
    """A colour for each of `count` points, all different."""
    return (
        list(FIVE[:count])
        if count <= len(FIVE)
        else [tuple(colour) for colour in colormaps["turbo"](np.linspace(0.05, 0.95, count))]
    )


def _draw_panel(axes: Axes, panel: Panel) -> None:
    around = round(panel.box.side * MARGIN)
    left, top, right, bottom = (
        panel.box.corners[0] - around,
        panel.box.corners[1] - around,
        panel.box.corners[2] + around,
        panel.box.corners[3] + around,
    )
    shown = panel.image.crop((left, top, right, bottom)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    axes.imshow(
        np.asarray(shown),
        extent=(left - 0.5, right - 0.5, bottom - 0.5, top - 0.5),
        interpolation="nearest",
    )
    axes.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))
    axes.axis("off")
    x0, y0, x1, y1 = panel.box.seen
    ink = "black", UNUSUAL if panel.is_unusual else "white"
    for colour, width in zip(ink, (2.4, 1.0)):
        axes.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                fill=False,
                edgecolor=colour,
                linewidth=width,
                linestyle=(0, (4, 3)),
                alpha=0.7,
            )
        )
    _draw_points(axes, panel)


def _draw_points(axes: Axes, panel: Panel) -> None:
    size = 13 if len(panel.points) <= 30 else 7
    colours, (x, y) = point_colours(len(panel.points)), panel.points.T
    if panel.is_found:
        axes.scatter(
            x, y, s=(size * POINTS) ** 2, c=colours, edgecolors="white", linewidths=1.1, zorder=4
        )
    else:
        for ink, width in (("black", 3.4), (colours, 1.8)):
            axes.scatter(
                x,
                y,
                s=(size * POINTS) ** 2,
                facecolors="none",
                edgecolors=ink,
                linewidths=width,
                zorder=4,
            )
    for place, label in zip(panel.points, panel.labels):
        axes.annotate(
            label,
            place,
            xytext=(6, 5),
            textcoords="offset points",
            fontsize=7.5,
            color="white",
            zorder=5,
            path_effects=[patheffects.withStroke(linewidth=2, foreground="black")],
            annotation_clip=True,
        )
