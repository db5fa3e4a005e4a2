"""Write a folder of drawn faces in a data set's layout: `scemae faces OUT --count 4000`."""

import argparse
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from scemae.errors import ConfigError, DataError
from scemae.faces import butterflies, layouts
from scemae.faces.draw import draw_face
from scemae.faces.geometry import Face, pose_face
from scemae.faces.layouts import FIVE, Crop
from scemae.faces.people import Moment, draw_moment, draw_person, generator
from scemae.files import disk
from scemae.process.progress import progress_bar

CHUNK = 32


def identity_of(index: int, identities: int, seed: int) -> int:
    """The identity (from 1) on picture `index` (from 0).

    Each series of `identities` pictures shows every person once.
    """
    turn, place = divmod(index, identities)
    return int(generator(seed, 4, turn).permutation(identities)[place]) + 1


def make_face(index: int, identity: int, seed: int) -> tuple[np.ndarray, Face, Moment]:
    """Picture `index` (from 0) of the world `seed`.

    Returns pixels (218, 178, 3) uint8 RGB, its geometry and its moment.
    """
    rng = generator(seed, 2, index)
    person = draw_person(seed, identity)
    moment = draw_moment(rng, person)
    face = pose_face(person, moment)
    return draw_face(face, person, moment, rng), face, moment


def write_face(task: tuple[int, int], folder: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Write picture (index, identity) as JPEG; returns its 5 and 68 landmarks."""
    index, identity = task
    pixels, face, moment = make_face(index, identity, seed)
    write_jpeg(folder / name(index), pixels, moment.quality)
    return face.landmarks5, face.landmarks68


def write_crop(task: tuple[int, int, str], out: Path, layout: str, seed: int) -> Crop:
    """Draw picture (index, identity, file) of the world `seed` into `out`, cropped for `layout`."""
    index, identity, file = task
    pixels, face, moment = make_face(index, identity, seed)
    window = layouts.choose_window(layout, face, generator(seed, 7, index))
    write_jpeg(out / file, window.cut(pixels), moment.quality)
    return Crop(
        index, file, window.size, window.move(face.landmarks5), window.move(face.landmarks68)
    )


def write_jpeg(path: Path, pixels: np.ndarray, quality: int) -> None:
    """Write pixels (h, w, 3) uint8 RGB."""
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    with disk.create(path) as file:
        file.write(jpeg.tobytes())


def name(index: int) -> str:
    """CelebA's file name of picture `index` (from 0)."""
    return f"{index + 1:06d}.jpg"


def write_faces(
    out: Path,
    *,
    count: int,
    identities: int,
    seed: int,
    workers: int,
    layout: str = "celeba",
    progress: bool = True,
) -> None:
    """Draw `count` pictures of `identities` people into `out`.

    layout: celeba, aflw_m, aflw_r, 300w, or butterflies, which have no identities. Picture i
    depends on `seed`, `layout`, i and `identities` alone, never on `count` or `workers`. The lists
    are written last: a folder without them is not complete. Raises ConfigError for impossible
    numbers and DataError where `out` is not an empty folder.
    """
    is_faces = layout != "butterflies"
    check_numbers(count, identities if is_faces else min(count, 10), seed, workers)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out} exists and is not an empty folder; name a new one or empty it first"
        )
    draw = partial(draw_all, workers=workers, progress=progress)
    if not is_faces:
        butterflies.write_butterflies(out, count, seed, draw)
        return
    world = seed + layouts.WORLDS.get(layout, 0)
    owners = assign_identities(count, identities, world)
    partition = split_identities(identities, world)[owners]
    write = _write_celeba if layout == "celeba" else partial(_write_layout, layout=layout)
    write(out, owners, partition, seed=world, draw=draw)


def _write_celeba(
    out: Path, owners: np.ndarray, partition: np.ndarray, *, seed: int, draw: Callable
) -> None:
    """CelebA's layout, and the exact landmarks: Anno/landmarks5_float.csv, Anno/landmarks68.csv."""
    folder = out / "img_align_celeba"
    folder.mkdir(parents=True)
    drawn = draw(
        partial(write_face, folder=folder, seed=seed),
        [(i, int(owner)) for i, owner in enumerate(owners)],
    )
    landmarks = [np.stack(points) for points in zip(*drawn, strict=True)]
    write_lists(out, owners, partition, seed=seed, landmarks=landmarks)


def _write_layout(
    out: Path, owners: np.ndarray, partition: np.ndarray, *, layout: str, seed: int, draw: Callable
) -> None:
    """Another benchmark's layout: people of partition 0 (80 %) to train on, the others to test."""
    files = layouts.name_pictures(layout, partition > 0)
    for folder in sorted({(out / file).parent for file in files}):
        folder.mkdir(parents=True, exist_ok=True)
    tasks = [
        (i, int(owner), file) for i, (owner, file) in enumerate(zip(owners, files, strict=True))
    ]
    crops = draw(partial(write_crop, out=out, layout=layout, seed=seed), tasks)
    layouts.write_files(layout, out, crops, partition > 0, world=seed)


def check_numbers(count: int, identities: int, seed: int, workers: int) -> None:
    """Refuse numbers from which no data set can be made."""
    if count < 20:
        raise ConfigError(f"count is {count}; at least 20 pictures are needed to fill all splits")
    if not 10 <= identities <= count:
        raise ConfigError(
            f"identities is {identities}; it must lie between 10 and the count of pictures, {count}"
        )
    if workers < 1 or seed < 0:
        raise ConfigError(
            f"workers is {workers} and seed is {seed}; use at least one worker and a seed of 0 or "
            "more"
        )


def assign_identities(count: int, identities: int, seed: int) -> np.ndarray:
    """`identity_of` for pictures 0..count-1, (count,) int."""
    turns = range(-(-count // identities))
    return np.concatenate([generator(seed, 4, turn).permutation(identities) + 1 for turn in turns])[
        :count
    ]


def draw_all(paint: Callable, tasks: list[tuple], *, workers: int, progress: bool) -> list:
    """The results of `paint` for all tasks, one picture each, in their order."""
    bar = partial(progress_bar, show=progress, total=len(tasks), unit="face")
    if workers == 1:
        return list(bar(map(paint, tasks)))
    with get_context("spawn").Pool(workers, cv2.setNumThreads, (1,)) as pool:
        return list(bar(pool.imap(paint, tasks, chunksize=CHUNK)))


def split_identities(identities: int, seed: int) -> np.ndarray:
    """Partition (identities + 1,) of each identity: 80 % 0, 10 % 1, 10 % 2; place 0 is unused."""
    part, tenth = np.zeros(identities + 1, int), max(2, round(identities / 10))
    order = generator(seed, 5).permutation(identities) + 1
    part[order[:tenth]], part[order[tenth : 2 * tenth]] = 2, 1
    return part


def choose_mafl(
    owners: np.ndarray, partition: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of MAFL's training and testing lists, both in file order.

    partition (count,) of each picture. Testing shows people of partition 2, never one person twice
    in a row, so that consecutive couples always show two people (PROTOCOL 3.4). It has max(8, 5 %)
    of the pictures, at most 1,000, or fewer where partition 2 has fewer; training has 10 % of them,
    at most 19,000, of other people.
    """
    count = len(owners)
    testing: list[int] = []
    for index in np.flatnonzero(partition == 2).tolist():
        if not testing or owners[testing[-1]] != owners[index]:
            testing.append(index)
    wanted = min(len(testing), 1000, max(8, count // 20))
    others = np.flatnonzero(partition != 2)
    training = generator(seed, 6).permutation(others)[: min(19000, max(2, count // 10))]
    return np.sort(training), np.array(testing[: wanted - wanted % 2])


def write_lists(
    out: Path, owners: np.ndarray, partition: np.ndarray, *, seed: int, landmarks: list[np.ndarray]
) -> None:
    """Write CelebA's and MAFL's lists and the two tables of exact landmarks."""
    names = [name(i) for i in range(len(owners))]
    five, sixty_eight = (points.reshape(len(names), -1) for points in landmarks)
    training, testing = choose_mafl(owners, partition, seed)
    whole = np.rint(five).astype(int)
    rounded = [
        f"{n}  " + " ".join(f"{v:>3d}" for v in row) for n, row in zip(names, whole, strict=True)
    ]
    header = ["file", *(f"{axis}{k}" for k in range(68) for axis in "xy")]
    lists = {
        "MAFL/training.txt": [names[i] for i in training],
        "MAFL/testing.txt": [names[i] for i in testing],
        "Eval/list_eval_partition.txt": [f"{n} {p}" for n, p in zip(names, partition, strict=True)],
        "Anno/identity_CelebA.txt": [f"{n} {p}" for n, p in zip(names, owners, strict=True)],
        "Anno/landmarks68.csv": [",".join(header), *table(names, sixty_eight)],
        "Anno/landmarks5_float.csv": [",".join(["file", *FIVE]), *table(names, five)],
        "Anno/list_landmarks_align_celeba.txt": [str(len(names)), " ".join(FIVE), *rounded],
    }
    for path, lines in lists.items():
        (out / path).parent.mkdir(exist_ok=True)
        with disk.create(out / path) as file:
            file.write(("\n".join(lines) + "\n").encode())


def table(names: list[str], values: np.ndarray) -> list[str]:
    """Comma-separated rows: a name and its numbers with two decimals."""
    return [
        f"{n}," + ",".join(f"{v:.2f}" for v in row) for n, row in zip(names, values, strict=True)
    ]


def main(args: argparse.Namespace) -> None:
    """Command line of the generator."""
    write_faces(
        args.out,
        count=args.count,
        identities=args.identities,
        seed=args.seed,
        workers=args.workers,
        layout=args.layout,
    )
