"""The picture of the README: generated faces with their landmarks.

scemae faces FOLDER --count 60 --identities 60 --seed 7 && python docs/faces_picture.py FOLDER
"""

import csv
import sys
from pathlib import Path

from PIL import Image, ImageDraw

OUT = Path(__file__).parent / "images" / "faces.jpg"
COLUMNS, GAP, RADIUS = 6, 6, 2.6
COLOURS = ("#00e5ff", "#00e5ff", "#ffea00", "#ff4081", "#ff4081")  # eyes, nose, mouth


def main(folder: Path) -> None:
    """Write OUT: one row of faces as drawn, and one of other faces with five landmarks each."""
    with (folder / "Anno" / "landmarks5_float.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    chosen = rows[: 2 * COLUMNS]
    sheet = Image.new("RGB", (COLUMNS * (178 + GAP) - GAP, 2 * 218 + GAP), "white")
    for place, (name, *values) in enumerate(chosen):
        face = Image.open(folder / "img_align_celeba" / name).convert("RGB")
        if place >= COLUMNS:
            mark(face, [float(value) for value in values])
        row, column = divmod(place, COLUMNS)
        sheet.paste(face, (column * (178 + GAP), row * (218 + GAP)))
    sheet.save(OUT, quality=88, optimize=True)


def mark(face: Image.Image, values: list[float]) -> None:
    """Draw a dot at each of five landmarks, given as x1, y1, x2, y2, ... in pixels."""
    draw = ImageDraw.Draw(face)
    for x, y, colour in zip(values[::2], values[1::2], COLOURS):
        draw.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=colour, outline="black")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
