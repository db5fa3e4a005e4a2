"""How often `detect` and `match` warn of a bad frame, and how often they are wrong.

    python -m bench framing --run runs/mae --shards data/celeba/mafl-test
    python -m bench framing --run runs/mae --shards data/celeba/mafl-test --boxes photos/boxes.csv

Pictures that the run was not trained on are framed well, then with the box moved, made larger or
smaller, and turned; where the box leaves an aligned picture, its border is repeated. Beside them
stand pictures without the object. With --boxes also photographs with their own background, which
lie beside the file (file,left,top,right,bottom: the box that frames them well). Writes
framing.json and framing.md.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench import machine
from scemae.data.framing import Box, frame_of, square_of
from scemae.data.geometry import FRAME
from scemae.data.picture import decode_image, read_picture
from scemae.data.storage.shard_set import open_shards
from scemae.distributed.process_group import choose_device
from scemae.evaluation.photographs import boxes, photograph_features
from scemae.faces.butterflies import draw_butterfly
from scemae.runs import given

SHIFTS = (0.1, 0.2, 0.3, 0.4)  # of the side of the box
SIZES = (0.5, 0.7, 1.5, 2.0)  # of the object in the frame
DIRECTIONS = 8  # random ones, of which the one that stays in the picture best is used
INSIDE = 0.95  # share of the box that should lie in the picture
OTHERS = 100  # pictures of each kind without the object
BATCH = 50


def main(argv: list[str]) -> int:
    """Measure and write framing.json and framing.md."""
    options = parse(argv)
    trained = photograph_features.of_given(given.find(options.run), choose_device(options.device))
    record = trained.usual_frames()
    rows = []
    for source, kind, frames in collected(options):
        rated = [one for part in frames.split(BATCH) for one in record.rate(trained.tokens(part))]
        shares = np.array([one.less_usual_than for one in rated])
        rows.append(
            {
                "pictures": source,
                "frame": kind,
                "n": len(rated),
                "warned %": 100 * float(np.mean([one.is_unusual for one in rated])),
                "beyond 95 of 100, %": 100 * float(np.mean(shares > 0.95)),
                "median of 100": 100 * float(np.median(shares)),
            }
        )
    machine.write("framing", options.out, rows, {"run": str(options.run), **machine.facts()})
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench framing", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="the trained model")
    parser.add_argument("--shards", required=True, help="pictures that it was not trained on")
    parser.add_argument("--boxes", type=Path, help="boxes of photographs beside this file")
    parser.add_argument("--count", type=int, default=300, help="pictures of the shards (300)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default=machine.OUT)
    return parser.parse_args(argv)


def collected(options: argparse.Namespace) -> Iterator[tuple[str, str, Tensor]]:
    """The source, the kind and the frames (n, 3, 136, 136) of each row."""
    rng = np.random.default_rng(0)
    shards = open_shards(options.shards)
    places = np.linspace(0, len(shards) - 1, min(options.count, len(shards))).astype(int)
    images = [Image.fromarray(decode_image(shards.jpeg(int(i)))) for i in places]
    yield from of_kinds("held-out", [bordered(image) for image in images], rng)
    if options.boxes:
        folder = options.boxes.parent
        photographs = [
            (image := read_picture(folder / name), square_of(image.size, found[0], name))
            for name, found in boxes.read_boxes(options.boxes).items()
        ]
        yield from of_kinds("photographs", photographs, rng)
        empty = [frame for one in photographs if (frame := elsewhere(*one, rng)) is not None]
        if empty:
            yield "photographs", "no object", torch.stack(empty)
    for kind, frames in without_object(rng).items():
        yield "others", kind, frames


def bordered(image: Image.Image) -> tuple[Image.Image, Box]:
    """A picture with its border repeated on all sides, and the box of its own frame in it."""
    box, wide = square_of(image.size, None, "-"), max(image.size)
    pixels = np.pad(np.asarray(image), ((wide, wide), (wide, wide), (0, 0)), "edge")
    return Image.fromarray(pixels), Box(box.left + wide, box.top + wide, box.side)


def of_kinds(
    source: str, pictures: list[tuple[Image.Image, Box]], rng: np.random.Generator
) -> Iterator[tuple[str, str, Tensor]]:
    """The frames of pictures with their right boxes, in each kind of framing."""
    found: dict[str, list[Tensor]] = {}
    for image, box in pictures:
        for kind, frame in framed(image, box, rng).items():
            found.setdefault(kind, []).append(frame)
    for kind, frames in found.items():
        yield source, kind, torch.stack(frames)


def framed(image: Image.Image, box: Box, rng: np.random.Generator) -> dict[str, Tensor]:
    """The frame of one picture, well and badly framed in each way."""
    right = frame_of(image, box)
    found = {"well framed": right}
    angles = rng.uniform(0, 2 * math.pi, DIRECTIONS)
    for share in SHIFTS:
        moved = [_moved(box, share * math.cos(a), share * math.sin(a)) for a in angles]
        best = max(moved, key=lambda one: min(inside(one, image.size), INSIDE))
        found[f"moved by {share:.0%}"] = frame_of(image, best)
    for size in SIZES:
        side = round(box.side / size)
        shift = (box.side - side) // 2
        found[f"object x{size:g}"] = frame_of(image, Box(box.left + shift, box.top + shift, side))
    for turns, degrees in ((int(rng.choice([1, 3])), 90), (2, 180)):
        found[f"turned by {degrees}"] = right.rot90(turns, (1, 2))
    return found


def _moved(box: Box, x: float, y: float) -> Box:
    return Box(box.left + round(x * box.side), box.top + round(y * box.side), box.side)


def inside(box: Box, size: tuple[int, int]) -> float:
    """The share of a box that lies in a picture of this size."""
    x0, y0, x1, y1 = box.corners
    width, height = min(x1, size[0]) - max(x0, 0), min(y1, size[1]) - max(y0, 0)
    return max(width, 0) * max(height, 0) / box.side**2


def elsewhere(image: Image.Image, box: Box, rng: np.random.Generator) -> Tensor | None:
    """A frame that shows nothing of what the right box shows; None where there is no room."""
    for _ in range(200):
        side = round(box.side * rng.uniform(0.5, 1.2))
        left, top = (round(rng.uniform(0, max(length - side, 1))) for length in image.size)
        one = Box(left, top, side)
        shift = (side - box.side) / 2  # of the middle
        gap = max(abs(left - box.left + shift), abs(top - box.top + shift))
        if gap > 0.71 * (side + box.side) / 2 and inside(one, image.size) >= INSIDE:
            return frame_of(image, one)
    return None


def without_object(rng: np.random.Generator) -> dict[str, Tensor]:
    """Frames of butterflies, and of no object at all."""
    blobs = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(OTHERS)]
    smooth = [_tensor(Image.fromarray(one).resize((FRAME, FRAME), 3)) for one in blobs]
    noise = rng.integers(0, 256, (OTHERS, 3, FRAME, FRAME), dtype=np.uint8)
    grey = torch.linspace(0, 255, OTHERS).to(torch.uint8).view(-1, 1, 1, 1)
    return {
        "butterflies": torch.stack([_butterfly(i) for i in range(OTHERS)]),
        "smooth colours": torch.stack(smooth),
        "noise": torch.from_numpy(noise),
        "one grey": grey.expand(-1, 3, FRAME, FRAME),
    }


def _butterfly(index: int) -> Tensor:
    image = Image.fromarray(draw_butterfly(index, 0)[0])
    return frame_of(image, square_of(image.size, None, "-"))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
