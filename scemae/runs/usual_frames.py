"""Is a picture framed as the training pictures were? How unusual its frame is among theirs.

Training pictures show their objects in one framing: a face in the middle, its eyes a little above.
The sketch of a frame is its map of tokens, averaged to 4x4 places. Two measures of it, both linear
or quadratic and of closed form:

    moved     how much likelier it is a training picture that was moved, made larger or smaller, or
              turned, than one as it is: Gaussians of one covariance (linear discriminants)
    strange   its distance from training pictures: Mahalanobis's in their strongest directions, and
              in all the others together (probabilistic PCA)

Each is scaled by its median and 95 % quantile over training pictures, and the larger one counts.
Both are compared with training pictures that were left out of what they are measured with
(cross-validation), so that "less usual than 98 of 100" holds for new pictures of that kind. Ours,
not the paper's; what else was tried: docs/results/framing.md.

    RUN/framing/CHECKPOINT.safetensors    kept by the first command that needs it
    EXPORT/framing.safetensors            written by `scemae export`
    a regressor of `scemae fit`           holds the record of the pictures that it was fitted on
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pad

from scemae.data.augment import centre_crop
from scemae.data.decode import decode
from scemae.data.geometry import CROP, FRAME, INPUT
from scemae.data.picture import UnusablePicture
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.errors import DataError, ScemaeError
from scemae.files import disk
from scemae.process.progress import progress_bar
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.tensor_file import WrittenFile, fill
from scemae.runs.lineage import read_run

FOLDER, EXPORTED = "framing", "framing.safetensors"
PREFIX = "framing."  # of the tensors' names, in a file of their own or in a regressor's
STRIDE = 8  # of the tokens in pixels: one of each patch
FRAMES = 600  # training pictures that are looked at
MOVED = 150  # of them, those that are moved, resized and turned too
FEWEST = 10  # of pictures that a record can be made of
FOLDS, SINGLY = 5, 30  # up to so many pictures each is left out alone
LEVEL = 0.02  # share of well framed pictures that may be called unusual
PLACES = 4  # of the sketch, each way
# Most directions of a discriminant and of a distance, and how many sketches each needs.
DISCRIMINANT, DISTANCE, FOR_EACH = 400, 64, 6
STRAIGHT, DIAGONAL = CROP, 14  # pixels of shifts: all that the frame has around what is seen
RESIZED = (FRAME, 68, 48)  # sides that are seen instead of 96
BATCH = 50

# Frames (b, 3, 136, 136) uint8 to the tokens (b, n, d) of what networks see of them, on the CPU.
Describe = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Framing:
    """How usual the frame of one picture is among training pictures."""

    less_usual_than: float  # share of the training pictures, 0 to 1
    pictures: int  # how many they are
    is_unusual: bool

    def __str__(self) -> str:
        if self.less_usual_than == 1:
            return f"less usual than all of {self.pictures} training pictures"
        return f"less usual than {100 * self.less_usual_than:.1f} of 100 training pictures"


@dataclass(frozen=True)
class Measures:
    """What sketches (b, 16d) are measured with."""

    mean: Tensor  # (16d,), of the pictures as they are
    directions: Tensor  # (q, 16d), orthonormal, in which they vary most
    variances: Tensor  # (q + 1,), in these, and in each of all the others
    weights: Tensor  # (c, 16d), of the discriminant of each of c ways to move a frame
    offsets: Tensor  # (c,)

    def __call__(self, sketches: Tensor) -> Tensor:
        """The measures (b, 2) of sketches (b, 16d): moved, strange."""
        rest = sketches - self.mean
        inside = rest @ self.directions.T
        outside = rest.square().sum(1) - inside.square().sum(1)
        strange = (inside.square() / self.variances[:-1]).sum(1) + outside / self.variances[-1]
        return torch.stack([(rest @ self.weights.T + self.offsets).amax(1), strange], dim=1)


@dataclass(frozen=True)
class UsualFrames:
    """The record of m training pictures."""

    measures: Measures
    scale: Tensor  # (2, 2), median and spread of each measure over them
    distances: Tensor  # (m,), theirs where they were left out of the measures, ascending

    def distance(self, sketches: Tensor) -> Tensor:
        """The distances (b,) of sketches (b, 16d)."""
        return _larger(self.measures(sketches), self.scale)

    def rate(self, tokens: Tensor) -> list[Framing]:
        """How usual b frames with tokens (b, n, d) are."""
        below = torch.searchsorted(self.distances, self.distance(sketch(tokens))).tolist()
        m = len(self.distances)
        # The chance that a picture of their kind lies so far out is (m - rank + 1) / (m + 1).
        allowed = max(LEVEL * (m + 1), 1)
        return [Framing(rank / m, m, m - rank + 1 <= allowed) for rank in below]

    def tensors(self) -> dict[str, np.ndarray]:
        """What is kept of it in a file."""
        found = {"scale": self.scale, "distances": self.distances, **vars(self.measures)}
        return {PREFIX + name: value.numpy() for name, value in found.items()}


def sketch(tokens: Tensor) -> Tensor:
    """Tokens (b, n, d) of a square map, averaged to 4x4 places: (b, 16d)."""
    side = math.isqrt(tokens.shape[1])
    maps = tokens.transpose(1, 2).unflatten(2, (side, side))
    return adaptive_avg_pool2d(maps, PLACES).flatten(1)


def moved(frames: Tensor) -> list[Tensor]:
    """Frames (b, 3, 136, 136) uint8 in each of 14 wrong ways, without inventing a pixel: shifted,
    resized and turned.
    """
    shifts = [(STRAIGHT, 0), (-STRAIGHT, 0), (0, STRAIGHT), (0, -STRAIGHT)]
    shifts += [(x, y) for x in (DIAGONAL, -DIAGONAL) for y in (DIAGONAL, -DIAGONAL)]
    found = [frames.roll(shift, (2, 3)) for shift in shifts]  # what wraps around is not seen
    for side in RESIZED:
        seen = centre_crop(frames, side).float()
        seen = interpolate(seen, size=(INPUT, INPUT), mode="bilinear", antialias=True)
        found.append(pad(seen.round().clamp(0, 255).to(torch.uint8), (CROP,) * 4))
    return [*found, *(frames.rot90(turns, (2, 3)) for turns in (1, 2, 3))]


def of_frames(frames: Tensor, describe: Describe, most_moved: int = MOVED) -> UsualFrames:
    """The record of pictures (m, 3, 136, 136) uint8, m of FEWEST at least."""
    chosen = torch.linspace(0, len(frames) - 1, min(most_moved, len(frames))).long()
    total = len(frames) + len(chosen) * len(moved(frames[:1]))
    with progress_bar(total=total, desc="what training pictures look like", unit="frame") as bar:

        def sketches(some: Tensor) -> Tensor:
            parts = []
            for part in some.split(BATCH):
                parts.append(sketch(describe(part)))
                bar.update(len(part))
            return torch.cat(parts)

        return measure(
            sketches(frames), torch.stack([sketches(one) for one in moved(frames[chosen])]), chosen
        )


def of_few(frames: Tensor, describe: Describe) -> UsualFrames | None:
    """The record of annotated pictures (m, 3, 136, 136) uint8; None of fewer than FEWEST."""
    return of_frames(frames, describe) if len(frames) >= FEWEST else None


def measure(framed: Tensor, wrong: Tensor, owners: Tensor) -> UsualFrames:
    """The record of sketches (m, 16d) of pictures, and (c, p, 16d) of those pictures `owners` (p,)
    that were moved in c ways. Raises DataError where they are not finite.
    """
    if not (framed.isfinite().all() and wrong.isfinite().all()):
        raise DataError("the features of its training pictures are not finite")
    m = len(framed)
    folds = torch.arange(m) % (m if m <= SINGLY else FOLDS)
    held = torch.empty(m, 2)
    for fold in folds.unique():
        is_kept = folds != fold
        held[~is_kept] = _fit(framed[is_kept], wrong[:, is_kept[owners]])(framed[~is_kept])
    middle = held.median(0).values
    scale = torch.stack([middle, (held.quantile(0.95, 0) - middle).clamp(min=1e-6)])
    return UsualFrames(_fit(framed, wrong), scale, _larger(held, scale).sort().values)


def _larger(measured: Tensor, scale: Tensor) -> Tensor:
    return ((measured - scale[0]) / scale[1]).amax(1)


def _fit(framed: Tensor, wrong: Tensor) -> Measures:
    mean = framed.mean(0)
    directions, variances = _strongest(framed - mean, min(DISTANCE, len(framed) // FOR_EACH))
    return Measures(mean, directions, variances, *_discriminants(framed, wrong))


def _strongest(rest: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """The q directions (q, 16d) in which `rest` (m, 16d) varies most, and variances (q + 1,)."""
    q = min(q, len(rest), rest.shape[1] - 1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        _, values, directions = torch.svd_lowrank(rest, q=q, niter=4)
    inside = values.square() / len(rest)
    others = (rest.square().sum() / len(rest) - inside.sum()) / (rest.shape[1] - q)
    return directions.T, torch.cat([inside, others[None]]).clamp(min=1e-12)


def _discriminants(framed: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (c, 16d) and offsets (c,): the log of how much likelier a sketch, less the mean of
    `framed` (m, 16d), is of each of `wrong` (c, p, 16d).
    """
    gaps = wrong.mean(1) - framed.mean(0)
    rest = torch.cat([framed - framed.mean(0), *(wrong - wrong.mean(1, keepdim=True))])
    most = min(DISCRIMINANT, len(rest) // FOR_EACH)
    strongest, _ = _strongest(torch.cat([rest, gaps]), most)
    basis = torch.linalg.qr(torch.cat([gaps, strongest]).T).Q  # 16d q
    inside, across = rest @ basis, gaps @ basis
    covariance = (inside.T @ inside).double() / len(rest)
    level = 1e-6 * float(covariance.trace()) / len(covariance) + 1e-12
    noise = level * torch.eye(len(covariance)).double()
    weights = torch.linalg.solve(covariance + noise, across.T.double()).T.float()  # c q
    return weights @ basis.T, -(weights * across).sum(1) / 2


def of_checkpoint(folder: Path, describe: Describe) -> UsualFrames:
    """The record of a checkpoint of stage 1: kept in its run, or made of the run's shards and kept.

    describe: by its network. Raises ScemaeError with the reason where there is none.
    """
    run_dir = folder.parent.parent
    path, digest = (
        run_dir / FOLDER / f"{folder.name}.safetensors",
        checkpoint.weights_digest(folder),
    )
    if path.is_file() and (kept := load(path, digest)):
        return kept
    found = of_shards(_shards_of(run_dir), describe)
    try:
        disk.make_folders(path.parent, run_dir)
        save(path, found, digest)
    except OSError:  # a run of somebody else: it is made again next time
        pass
    return found


def _shards_of(run_dir: Path) -> ShardSet:
    """The training pictures of a run, without copying any from a URL."""
    run = read_run(run_dir)
    location = run.config.get("data.shards")
    if not location:
        raise DataError(f"{run_dir}: names no shards that it was trained on")
    return open_shards(location, run.cache_dir, may_copy=False)


def of_shards(shards: ShardSet, describe: Describe) -> UsualFrames:
    """The record of FRAMES pictures, spread evenly over shards. Raises DataError."""
    chosen = np.unique(np.linspace(0, len(shards) - 1, FRAMES).astype(int))
    frames = []
    for i in chosen:
        try:
            frames.append(torch.from_numpy(decode(shards.jpeg(int(i)), FRAME)))
        except UnusablePicture:  # training leaves it out too
            continue
    if len(frames) < FEWEST:
        raise DataError(f"{shards.folder}: found {len(frames)} pictures, {FEWEST} are needed")
    return of_frames(torch.stack(frames).permute(0, 3, 1, 2), describe)


def save(path: Path, record: UsualFrames, digest: str) -> WrittenFile:
    """Write a record; digest: the SHA-256 of its backbone's weights. Raises OSError."""
    with disk.replacing(path) as file:
        size, sha256 = fill(file, record.tensors(), {"backbone": digest})
    return WrittenFile(path.name, size, sha256)


def load(path: Path, digest: str | None = None) -> UsualFrames | None:
    """The record in a file; None where the file has none, or that of other weights than `digest`.

    Raises DataError for a file that is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if digest is not None and (file.metadata() or {}).get("backbone") != digest:
                return None
            found = {
                name.removeprefix(PREFIX): file.get_tensor(name)
                for name in file.keys()
                if name.startswith(PREFIX)
            }
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path) from error
    return _checked(path, found) if found else None


def _checked(path: Path, found: dict[str, Tensor]) -> UsualFrames:
    try:
        scale, distances = found.pop("scale"), found.pop("distances")
        record = UsualFrames(Measures(**found), scale, distances)
        measured = record.distance(record.measures.mean[None])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(path) from error
    if distances.ndim != 1 or len(distances) < FEWEST or not measured.isfinite().all():
        raise _damaged(path)
    return record


def _damaged(path: Path) -> ScemaeError:
    return DataError(f"{path}: holds no record of framing that can be read; remove it")
