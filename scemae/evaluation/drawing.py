"""What the figures of report and tables share: colours, a sheet of faces to draw on, similarity
maps.

Colours are Okabe and Ito's, which people of every colour vision can tell apart; maps are viridis.
"""

import base64
import io

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from scemae.data.geometry import INPUT

BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
SKY, PURPLE, YELLOW = "#56b4e9", "#cc79a7", "#f0e442"
# Of the left eye, right eye, nose, left and right corner of the mouth.
FIVE = (BLUE, SKY, YELLOW, RED, PURPLE)
INK, PALE = "#1d2430", "#8a93a3"
ZOOM, GAP = 2, 10  # pixels of a figure per pixel of a face; between faces
POINTS = 0.72  # typographic points per pixel of a figure, at 100 dots per inch


class Sheet:
    """A table of square pictures with titles above columns and left of rows; methods draw on it."""

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
        """The upper left corner of a picture, in pixels of the sheet."""
        return self.left + column * (self.side + GAP), self.top + row * (self.side + GAP)

    def points(self, row: int, column: int, landmarks: np.ndarray) -> np.ndarray:
        """Landmarks (l, 2) of a picture, pixel centres at integers, in pixels of the sheet."""
        return np.asarray(landmarks, float) * self.zoom + self.zoom / 2 + self.origin(row, column)

    def within(self, row: int, column: int, artist: Artist) -> None:
        """Clip `artist` to a picture."""
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
        """Open circles in the landmarks' colours, with a black outline that shows on any skin."""
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
        """Each landmark (ring), its prediction (dot), and the error between them (line)."""
        ends = np.stack(
            [self.points(row, column, predicted), self.points(row, column, truth)], axis=1
        )
        large = len(truth) <= len(FIVE)
        for colour, width in (("black", 2.6), (colours(len(truth)), 1.4)):
            lines = LineCollection(list(ends), colors=colour, linewidths=width, zorder=2)
            self.axes.add_collection(lines)
            self.within(row, column, lines)
        self.rings(row, column, truth, size=12 if large else 4)
        self.dots(row, column, predicted, size=9 if large else 3)

    def outline(self, row: int, column: int, chosen: np.ndarray, colour: str = "white") -> None:
        """The border around the cells of a grid (g, g) that are true."""
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
                LineCollection(
                    list(ends), colors=ink, linewidths=width, zorder=3, capstyle="projecting"
                )
            )

    def squares(self, row: int, column: int, cells: np.ndarray, grid: int, fill: list[str]) -> None:
        """Squares at the centres of cells (k,) of a grid: cluster centres, as in the paper's figure
        2.
        """
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
        """A short text in the lower left corner of a picture."""
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
    """A colour per landmark: `FIVE` for up to five, or one colour for all of more."""
    return list(FIVE[:count]) if count <= len(FIVE) else [SKY] * count


def heat(maps: Tensor) -> Tensor:
    """Maps (b, h, w), each over its own range, as unsmoothed viridis pictures (b, 3, 96, 96)."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    shown = ((maps - low) / (high - low).clamp_min(1e-12)).numpy()
    picture = torch.from_numpy(colormaps["viridis"](shown)[..., :3]).float().permute(0, 3, 1, 2)
    return F.interpolate(picture, size=(INPUT, INPUT), mode="nearest")


def similarity(
    reference: Tensor,
    target: Tensor,
    query: np.ndarray,
    truth: np.ndarray,
    maps: dict[str, Tensor],
    shares: dict[str, list[float]],
) -> str:
    """For each query a row: the reference with the query, the other face with the truth, and a map
    per method.

    reference, target (3, 96, 96); query, truth (l, 2) in pixels of the crop; maps (l, 96, 96) and
    shares (area above the middle of the range) per method.
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


def png(figure: Figure) -> str:
    """A figure as a PNG data URI."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
