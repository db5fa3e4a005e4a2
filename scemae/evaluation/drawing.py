"""The figures of a report: arrays in, an inline SVG (curves) or a PNG data URI (faces) out.

Colours are Okabe and Ito's, which people of every colour vision can tell apart; maps are viridis.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from scemae.data.geometry import INPUT
from scemae.models.carb import Selection

BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#56b4e9",
    "#cc79a7",
    "#f0e442",
)
FIVE = (
    BLUE,
    SKY,
    YELLOW,
    RED,
    PURPLE,
)  # left eye, right eye, nose, left and right corner of the mouth
INK, PALE = "#1d2430", "#8a93a3"
ZOOM, GAP = 2, 10  # pixels of a figure per pixel of a face; between faces
POINTS = 0.72  # typographic points per pixel of a figure, at 100 dots per inch
DRAWN = 300  # points of a curve; longer ones are averaged
CURVES = {
    "loss": "loss",
    "lr": "learning rate",
    "images_per_second": "images per second",
    "probe_same": "probe, same (px)",
    "probe_different": "probe, different (px)",
}


@dataclass
class Reconstruction:
    """What the masked autoencoder makes of b faces; errors are mean squares over the hidden patches, of pixels in
    units of the data's standard deviation."""

    original: Tensor  # (b, 3, s, s)
    masked: Tensor  # (b, 3, s, s): hidden patches grey
    predicted: Tensor  # (b, 3, s, s): hidden patches predicted, the visible ones as they are
    errors: Tensor  # (b,)
    flat: Tensor  # (b,): the errors of painting each hidden patch in the mean colour of the visible ones


@dataclass
class Attention:
    """What stage 2 chooses on b faces (paper 3.2): `similarity` (b, n) of Eq. 1, and the selection of Eq. 2 and 3, in
    which the last `clusters` tokens are the centres."""

    original: Tensor  # (b, 3, s, s)
    similarity: Tensor
    selection: Selection
    clusters: int
    grid: int


def read_curves(rows: list[dict]) -> dict[str, dict]:
    """The curves that the lines of metrics.jsonl hold: steps and values of at most `DRAWN` points, each the mean of as
    many neighbours, and the last value as it is."""
    found = {}
    for key in CURVES:
        if points := {row["step"]: row[key] for row in rows if key in row}:
            steps, values = (
                np.array_split(np.array(list(part), float), min(len(points), DRAWN))
                for part in (points.keys(), points.values())
            )
            found[key] = {
                "steps": [float(part.mean()) for part in steps],
                "values": [float(part.mean()) for part in values],
                "last": list(points.values())[-1],
            }
    return found


def curves(found: dict[str, dict]) -> str:
    """Small multiples of what `read_curves` found, as inline SVG; titles give the last value."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "scemae", "font.size": 8}):
        figure = Figure(figsize=(2.3 * len(found), 1.7), layout="constrained")
        for axes, (key, curve) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items()):
            steps = curve["steps"]
            axes.plot(
                steps,
                curve["values"],
                color=BLUE,
                linewidth=1.4,
                marker="o" if len(steps) < 12 else None,
                markersize=3,
            )
            axes.set_title(
                f"{CURVES[key]}: {curve['last']:.4g}", loc="left", fontsize=8.5, color=INK
            )
            axes.margins(y=0.15)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
            axes.tick_params(colors=PALE, labelsize=7, length=2)
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color("#c9ced6")
            axes.grid(axis="y", color="#eceef2", linewidth=0.8)
            axes.set_axisbelow(True)
        text = io.StringIO()
        figure.savefig(
            text,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
            transparent=True,
        )
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


class Sheet:
    """A table of square pictures, with words above its columns and left of its rows, to draw upon."""

    def __init__(
        self, rows: list[list[Tensor]], columns: list[str], names: list[str], *, left: int = 0
    ) -> None:
        """rows of (3, s, s) pictures in [0, 1]; `left` pixels for the names of rows."""
        tiles = torch.stack([torch.stack(row) for row in rows])
        count, across, _, side, _ = tiles.shape
        self.zoom, self.side, self.left = ZOOM * INPUT / side, ZOOM * INPUT, left
        self.top = 11 + 15 * (1 + max(word.count("\n") for word in columns)) if any(columns) else 4
        width, height = left + across * (self.side + GAP), self.top + count * (self.side + GAP)
        large = F.interpolate(
            tiles.flatten(0, 1), size=(self.side, self.side), mode="bicubic", align_corners=False
        )
        canvas = np.ones((height, width, 3), np.float32)
        for i, tile in enumerate(large.clamp(0, 1).permute(0, 2, 3, 1).numpy()):
            x, y = self.origin(*divmod(i, across))
            canvas[y : y + self.side, x : x + self.side] = tile
        self.figure = Figure(figsize=(width / 100, height / 100), dpi=100)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest")
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")
        for j, word in enumerate(columns):
            self.axes.text(
                self.origin(0, j)[0], self.top - 8, word, fontsize=10, color=INK, linespacing=1.05
            )
        for i, word in enumerate(names):
            self.axes.text(
                2, self.origin(i, 0)[1] + self.side / 2, word, fontsize=10, color=INK, va="center"
            )

    def origin(self, row: int, column: int) -> tuple[int, int]:
        """The left upper corner of a picture."""
        return self.left + column * (self.side + GAP), self.top + row * (self.side + GAP)

    def points(self, row: int, column: int, landmarks: np.ndarray) -> np.ndarray:
        """Landmarks (l, 2) of a picture, pixel centres at whole numbers, as places on the sheet."""
        return np.asarray(landmarks, float) * self.zoom + self.zoom / 2 + self.origin(row, column)

    def within(self, row: int, column: int, artist: Artist) -> None:
        """Let nothing of `artist` show outside a picture."""
        artist.set_clip_path(
            Rectangle(self.origin(row, column), self.side, self.side, transform=self.axes.transData)
        )

    def dots(self, row: int, column: int, landmarks: np.ndarray, *, size: float = 10) -> None:
        """Filled, outlined points in the landmarks' colours."""
        x, y = self.points(row, column, landmarks).T
        self.within(
            row,
            column,
            self.axes.scatter(
                x,
                y,
                s=(size * POINTS) ** 2,
                c=colours(len(x)),
                edgecolors="white",
                linewidths=1.1,
                zorder=4,
            ),
        )

    def rings(self, row: int, column: int, landmarks: np.ndarray, *, size: float = 12) -> None:
        """Open circles in the landmarks' colours, on black so that they show on any skin."""
        x, y = self.points(row, column, landmarks).T
        for colour, width in (("black", 3.0), (colours(len(x)), 1.6)):
            self.axes.scatter(
                x,
                y,
                s=(size * POINTS) ** 2,
                facecolors="none",
                edgecolors=colour,
                linewidths=width,
                zorder=3,
            )

    def errors(self, row: int, column: int, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Where each landmark is (ring), where it was predicted (dot), and the error between (line)."""
        ends = np.stack(
            [self.points(row, column, predicted), self.points(row, column, truth)], axis=1
        )
        large = len(truth) <= len(FIVE)
        for colour, width in (("black", 2.6), (colours(len(truth)), 1.4)):
            lines = LineCollection(ends, colors=colour, linewidths=width, zorder=2)
            self.axes.add_collection(lines)
            self.within(row, column, lines)
        self.rings(row, column, truth, size=12 if large else 4)
        self.dots(row, column, predicted, size=9 if large else 3)

    def outline(self, row: int, column: int, chosen: np.ndarray, colour: str = "white") -> None:
        """The border around the cells of a grid (g, g) that are True."""
        cell, (x, y) = self.side / len(chosen), self.origin(row, column)
        inside = np.pad(chosen, 1)
        across, down = (
            np.argwhere(inside[1:] != inside[:-1]),
            np.argwhere(inside[:, 1:] != inside[:, :-1]),
        )
        lines = [((j - 1, i), (j, i)) for i, j in across] + [((j, i - 1), (j, i)) for i, j in down]
        ends = np.array(lines, float).reshape(-1, 2, 2) * cell + (x, y)
        for ink, width in (("black", 3.0), (colour, 1.4)):
            self.axes.add_collection(
                LineCollection(ends, colors=ink, linewidths=width, zorder=3, capstyle="projecting")
            )

    def squares(self, row: int, column: int, cells: np.ndarray, grid: int, fill: list[str]) -> None:
        """Squares at the centres of cells (k,) of a grid, in the paper's figure 2 the mark of a cluster's centre."""
        cell, (x, y) = self.side / grid, self.origin(row, column)
        self.axes.scatter(
            x + (cells % grid + 0.5) * cell,
            y + (cells // grid + 0.5) * cell,
            marker="s",
            s=(0.72 * cell * POINTS) ** 2,
            c=fill,
            edgecolors="black",
            linewidths=1.3,
            zorder=4,
        )

    def note(self, row: int, column: int, words: str) -> None:
        """A few words in the left lower corner of a picture."""
        x, y = self.origin(row, column)
        self.axes.text(
            x + 5,
            y + self.side - 6,
            words,
            fontsize=8.5,
            color="white",
            va="bottom",
            zorder=5,
            bbox={"facecolor": "black", "alpha": 0.62, "pad": 2, "linewidth": 0},
        )

    def uri(self) -> str:
        """The sheet as a PNG data URI."""
        return png(self.figure)


def colours(count: int) -> list[str]:
    """A colour per landmark: one for each of five, or one for all of more."""
    return list(FIVE[:count]) if count <= len(FIVE) else [SKY] * count


def heat(maps: Tensor) -> Tensor:
    """Maps (b, h, w), each stretched over its own range, as viridis pictures (b, 3, 96, 96); a patch stays a square."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    shown = ((maps - low) / (high - low).clamp_min(1e-12)).numpy()
    picture = torch.from_numpy(colormaps["viridis"](shown)[..., :3]).float().permute(0, 3, 1, 2)
    return F.interpolate(picture, size=(INPUT, INPUT), mode="nearest")


def reconstructions(found: Reconstruction) -> str:
    """Original, masked, predicted: a column per face."""
    rows = [list(part) for part in (found.original, found.masked, found.predicted)]
    sheet = Sheet(rows, [""] * len(found.original), ["original", "visible", "predicted"], left=78)
    for j, (error, flat) in enumerate(zip(found.errors.tolist(), found.flat.tolist())):
        sheet.note(2, j, f"error {error:.2f}, flat {flat:.2f}")
    return sheet.uri()


def attention(found: Attention) -> str:
    """The face with its attentive patches outlined, Sim_cls, and the clusters: a column per face."""
    grid, chosen = found.grid, found.selection
    maps = heat(found.similarity.unflatten(1, (grid, grid)))
    cluster = chosen.slot - (chosen.ids.shape[1] - found.clusters)  # below 0: attentive
    painted = torch.stack(
        [_clusters(*each, found.clusters) for each in zip(found.original, cluster)]
    )
    sheet = Sheet(
        [list(found.original), list(maps), list(painted)],
        [""] * len(maps),
        ["attentive\npatches", "similarity\nto CLS", "clusters"],
        left=78,
    )
    for j, (attentive, centres) in enumerate(
        zip((cluster < 0).numpy(), chosen.ids[:, -found.clusters :].numpy())
    ):
        for row in (0, 1, 2):
            sheet.outline(row, j, attentive.reshape(grid, grid))
        sheet.squares(2, j, centres, grid, _cluster_colours(len(centres)))
    return sheet.uri()


def _cluster_colours(count: int) -> list[str]:
    return [(BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, RED)[i % 7] for i in range(count)]


def _clusters(image: Tensor, cluster: Tensor, clusters: int) -> Tensor:
    """One face, grey, with each inattentive patch tinted in the colour of its cluster (n,), below 0 where attentive."""
    grid = int(len(cluster) ** 0.5)
    tints = torch.tensor([to_rgb(colour) for colour in _cluster_colours(clusters)])[
        cluster.clamp_min(0)
    ]
    tint = F.interpolate(tints.T.reshape(1, 3, grid, grid), size=image.shape[1:], mode="nearest")[0]
    seen = F.interpolate(
        (cluster < 0).float().reshape(1, 1, grid, grid), size=image.shape[1:], mode="nearest"
    )[0]
    grey = image.mean(0, keepdim=True)
    return torch.where(seen > 0, image, 0.5 * grey + 0.5 * tint)


def similarity(
    reference: Tensor,
    target: Tensor,
    query: np.ndarray,
    truth: np.ndarray,
    maps: dict[str, Tensor],
    shares: dict[str, list[float]],
) -> str:
    """For each query a row: the reference with the query, the other face with the truth, and a map per method.

    reference, target (3, 96, 96); query, truth (l, 2) in pixels of the crop; maps (l, 96, 96); shares per map.
    """
    shown = {name: heat(value) for name, value in maps.items()}
    rows = [[reference, target, *(value[i] for value in shown.values())] for i in range(len(query))]
    sheet = Sheet(rows, ["reference, query", "other face, truth", *maps], [])
    for i in range(len(query)):
        x, y = sheet.points(i, 0, query[i : i + 1])[0]
        sheet.axes.scatter(x, y, s=160, marker="+", c="black", linewidths=4, zorder=3)
        sheet.axes.scatter(x, y, s=140, marker="+", c=YELLOW, linewidths=2, zorder=4)
        sheet.rings(i, 1, truth[i : i + 1])
        for j, (name, value) in enumerate(maps.items(), start=2):
            best = int(value[i].flatten().argmax())
            sheet.errors(i, j, np.array([[best % INPUT, best // INPUT]]), truth[i : i + 1])
            sheet.note(
                i, j, f"{value[i].min():.2f} to {value[i].max():.2f}; {shares[name][i]:.0%} of area"
            )
    return sheet.uri()


def matches(
    rows: list[tuple[Tensor, Tensor, np.ndarray, np.ndarray]],
    names: list[str],
    methods: list[str],
    predicted: list[list[np.ndarray]],
    errors: list[list[float]],
) -> str:
    """Pairs as rows (reference, target, points of both), methods as columns, as in the paper's figure 4.

    predicted[row][method] (l, 2) in pixels of the crop; errors the same pairs' mean in 70-px units.
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
    """Faces (n, 3, 96, 96) as columns, methods as rows; truth (n, l, 2), predicted (m, n, l, 2), errors (m, n) %IOD."""
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


def png(figure: Figure) -> str:
    """A figure as a PNG data URI."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
