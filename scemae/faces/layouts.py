"""Drawn faces in the layouts of AFLW_M, AFLW_R and 300-W: their crops and their files.

Landmarks inside the program are exact, x then y, and whole numbers are centres of pixels; the files
count as their data set does: from 1 in AFLW_M and 300-W, from 0 in AFLW_R (PROTOCOL 3.2).
"""

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from scipy.io import savemat

from scemae.data.geometry import CELEBA_SIZE
from scemae.faces.geometry import Face
from scemae.faces.people import generator
from scemae.files import disk

FIVE = [
    f"{point}_{axis}"
    for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
    for axis in "xy"
]
# AFLW_M: side of its crops in pixels, folder of its training crops.
M_SIDE, M_TRAIN = 150, "aflw_10122train_cropped"
# Without the date that scipy writes: the same command gives the same bytes.
MAT_HEADER = b"MATLAB 5.0 MAT-file".ljust(116)
# The five points' root-mean-square distance from their centre, as a share of the crop's side.
# AFLW_M: measured in MTFL's test crops (28.5 of 150 pixels, sd 1.9). AFLW_R: chosen here, for
# tighter crops whose points stay in the middle 96 of 136 pixels.
SPREAD = {"aflw_m": 0.19, "aflw_r": 0.235}
# Added to the seed, so that each data set shows other people.
WORLDS = {"aflw_m": 1_000_000, "aflw_r": 2_000_000, "300w": 3_000_000}
# 300-W's folders and how many pictures each has: train, then test (3,148 and 689 together).
FOLDERS = (
    {"afw": 337, "helen/trainset": 2000, "lfpw/trainset": 811},
    {"helen/testset": 330, "lfpw/testset": 224, "ibug": 135},
)


@dataclass(frozen=True)
class Window:
    """A part of a picture, and the `size` (w, h) in pixels that it is scaled to.

    left, top, width and height are in pixels of the picture; edges of pixels are whole numbers.
    """

    left: float
    top: float
    width: float
    height: float
    size: tuple[int, int]

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """This part of pixels (h, w, 3) uint8, scaled; border pixels repeat outside the picture."""
        # Pixels of the picture for each pixel of the crop.
        x, y = self.width / self.size[0], self.height / self.size[1]
        back = np.array([(x, 0, self.left + x / 2 - 0.5), (0, y, self.top + y / 2 - 0.5)])
        return cv2.warpAffine(
            pixels,
            back,
            self.size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )

    def move(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 2) of the picture in pixels of the crop."""
        scale = np.array(self.size) / (self.width, self.height)
        return (points - (self.left, self.top) + 0.5) * scale - 0.5


@dataclass(frozen=True)
class Crop:
    """One written picture: number, file below the folder, size (w, h), exact landmarks.

    five (5, 2), sixty_eight (68, 2): in pixels of the crop.
    """

    index: int
    file: str
    size: tuple[int, int]
    five: np.ndarray
    sixty_eight: np.ndarray


def choose_window(layout: str, face: Face, rng: Generator) -> Window:
    """The part of a picture that the data set `layout` would show: the face a little off centre."""
    if layout == "300w":  # a whole photograph, in one of many sizes
        width, height = rng.uniform((164, 200), CELEBA_SIZE)
        left, top = rng.uniform(0, (CELEBA_SIZE[0] - width, CELEBA_SIZE[1] - height))
        scale = rng.uniform(1.1, 2.6)
        return Window(left, top, width, height, (round(width * scale), round(height * scale)))
    centre = face.landmarks5.mean(axis=0)
    spread = np.sqrt(((face.landmarks5 - centre) ** 2).sum(axis=1).mean())
    side = spread / SPREAD[layout] * np.exp(rng.normal(0, 0.05))
    tight = layout == "aflw_r"
    width, height = side * np.exp(rng.normal(0, 0.03, 2) * tight)  # AFLW_R: not quite square
    shift = rng.normal(0, 0.02 if tight else 0.03, 2) * side
    left, top = centre + 0.5 - (width / 2, height / 2) + shift
    scale = rng.uniform(0.9, 1.6)
    size = (round(width * scale), round(height * scale)) if tight else (M_SIDE, M_SIDE)
    return Window(left, top, width, height, size)


def name_pictures(layout: str, is_test: np.ndarray) -> list[str]:
    """The place of each picture below the folder, by whether (n,) it is one of the test set."""
    totals = np.bincount(is_test, minlength=2)
    places = np.where(is_test, np.cumsum(is_test), np.cumsum(~is_test)) - 1  # within its own set
    return [
        _name(layout, i, test=bool(test), place=int(place), total=int(totals[int(test)]))
        for i, (test, place) in enumerate(zip(is_test, places))
    ]


def write_files(
    layout: str, out: Path, crops: list[Crop], is_test: np.ndarray, *, world: int
) -> None:
    """Write the lists, tables and boxes of `layout` beside its pictures."""
    train, test = (
        [crop for crop, one in zip(crops, is_test) if one == part] for part in (False, True)
    )
    if layout == "aflw_m":
        _write_m(out, train, test)
    elif layout == "aflw_r":
        _write_r(out, train, test, world)
    else:
        _write_w(out, crops)


def misplace(crop: Crop, rng: Generator) -> np.ndarray:
    """The five points (5, 2) with an annotator's errors: the three of the paper's figure 3.

    A translation of all points, a random shift of one, a semantic mismatch (an eye's outer corner
    instead of its centre), and a little noise on all. How often and how far is chosen here: the
    paper only shows pictures of it [U].
    """
    eyes = np.linalg.norm(crop.five[0] - crop.five[1])
    points = crop.five + rng.normal(0, 0.01, (5, 2)) * eyes
    chances, moved = rng.random(3), rng.normal(0, 0.07, 2)
    shifted, which = rng.normal(0, 0.15, 2), int(rng.integers(5))
    if chances[0] < 0.15:
        points += moved * eyes
    if chances[1] < 0.15:
        points[which] += shifted * eyes
    if chances[2] < 0.05:
        points[which % 2] = crop.sixty_eight[(36, 45)[which % 2]]
    return points


def _name(layout: str, index: int, *, test: bool, place: int, total: int) -> str:
    """The file of picture `index`, which is number `place` of `total` in its part of the set."""
    match layout, test:
        case "aflw_m", True:
            return f"MTFL/AFLW/{place + 1:04d}-{_photograph(index)}"
        case "aflw_m", False:
            return f"{M_TRAIN}/output/{place + 1:05d}.jpg"
        case "aflw_r", _:
            return f"output/{'test' if test else 'train'}/{_photograph(index)}"
    folders = FOLDERS[int(test)]
    ends = np.rint(np.cumsum(list(folders.values())) * total / sum(folders.values()))
    folder = list(folders)[np.searchsorted(ends, place, side="right")]
    # ibug's names must begin with "image" (PROTOCOL 3.2); lfpw's do so too.
    prefix = "image_" if folder == "ibug" or folder.startswith("lfpw") else ""
    return f"{folder}/{prefix}{index + 1:05d}_1.jpg"


def _photograph(index: int) -> str:
    return f"image{index + 1:05d}.jpg"


def _write_m(out: Path, train: list[Crop], test: list[Crop]) -> None:
    """AFLW_M. MTFL's four attributes, which nothing here reads, are left out of testing.txt."""
    rows = []
    for i, crop in enumerate(train):
        file, points = crop.file.removeprefix(M_TRAIN + "/"), _join(crop.five + 1, ",")
        rows.append(f"{i},{_photograph(crop.index)},{file},1,{points}")
    _write_lines(
        out / M_TRAIN / "facedata_cropped.csv",
        [",".join(["id", "image_file", "crop_file", "set", *FIVE]), *rows],
    )
    _write_lines(
        out / "MTFL/testing.txt",
        [f" {crop.file.removeprefix('MTFL/')} {_join(crop.five.T + 1, ' ')}" for crop in test],
    )


def _write_r(out: Path, train: list[Crop], test: list[Crop], world: int) -> None:
    """AFLW_R: labels with errors (AFLW_RO), and in corrected.csv the exact ones (AFLW_RC)."""
    for part, crops in (("train", train), ("test", test)):
        labels = np.stack([misplace(crop, generator(world, 8, crop.index)) for crop in crops])
        sizes = np.array([crop.size[::-1] for crop in crops])
        _write_mat(out / f"aflw_{part}_keypoints.mat", {"gt": labels[:, :, ::-1], "hw": sizes})
        _write_lines(
            out / f"aflw_{part}_images.txt", [crop.file.removeprefix("output/") for crop in crops]
        )
    rows = [f"{crop.file.removeprefix('output/')},{_join(crop.five, ',')}" for crop in test]
    _write_lines(out / "corrected.csv", [",".join(["file", *FIVE]), *rows])


def _write_w(out: Path, crops: list[Crop]) -> None:
    """300-W: .pts beside each picture, and face boxes, which are the extent of the points."""
    (out / "Bounding Boxes").mkdir()
    for crop in crops:
        points = [_join(point + 1, " ") for point in crop.sixty_eight]
        _write_lines(
            (out / crop.file).with_suffix(".pts"),
            ["version: 1", "n_points:  68", "{", *points, "}"],
        )
    for folder in (folder for part in FOLDERS for folder in part):
        inside = [crop for crop in crops if Path(crop.file).parent == Path(folder)]
        cells = np.empty((1, len(inside)), object)
        for i, crop in enumerate(inside):
            box = (
                np.concatenate([crop.sixty_eight.min(axis=0), crop.sixty_eight.max(axis=0)])[None]
                + 1
            )
            cells[0, i] = {
                "imgName": Path(crop.file).name,
                "bb_detector": box,
                "bb_ground_truth": box,
            }
        _write_mat(
            out / "Bounding Boxes" / f"bounding_boxes_{folder.replace('/', '_')}.mat",
            {"bounding_boxes": cells},
        )


def _join(values: np.ndarray, between: str) -> str:
    return between.join(f"{value:.6f}" for value in values.ravel())


def _write_mat(path: Path, values: dict) -> None:
    file = io.BytesIO()
    savemat(file, values)
    with disk.create(path) as out:
        out.write(MAT_HEADER + file.getvalue()[len(MAT_HEADER) :])


def _write_lines(path: Path, lines: list[str]) -> None:
    with disk.create(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
