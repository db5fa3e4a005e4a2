"""A small matching test during training: MAE's loss says little about landmarks, and CARB's little
about its settings.

    probe_same        landmarks of v1(A) found in v2(A), another warp of the same image
    probe_different   landmarks of v1(A) found in v2(B), of another person
    probe_content     the same without the mean feature of each place (ours, position.py), which is
                      taken over the views of the first couples: it moves when nothing else does
    probe_cycle       no labels (ours): a grid on v1(A), found in v2(B) and from there in v2(A),
                      where the warps give the true place

All are mean errors in 70-px units. Features that depend on the position alone have a probe_cycle
equal to the motion of the warps: 3.7 on CelebA's val. A weak backbone has a larger one, so there
the score could improve by ignoring the face: above that value it is no objective.

Couples are of different people; the official test (pairs.py) takes neighbours in file order. The
trunk of stage 2 is frozen, so its maps of the views are computed once, for all runs:

    BACKBONE_RUN/tokens/pairs-0123456789abcdef    maps of all views in fp16 and their points
                                                  (files/mapped_arrays.py)
"""

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scemae.config.locations import masked
from scemae.data import tps_warps
from scemae.data.geometry import CROP
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.distributed import tf32
from scemae.distributed.process_group import Place
from scemae.errors import ConfigError, FileError
from scemae.evaluation.landmarks import matching
from scemae.evaluation.landmarks.benchmark_frames import Frames, load_frames
from scemae.evaluation.landmarks.benchmarks import Benchmark, find_benchmark
from scemae.evaluation.landmarks.feature_cache import cache_maps
from scemae.evaluation.landmarks.features import Head, Trunk
from scemae.evaluation.landmarks.pairs import SOURCE, Pairs, render_pairs
from scemae.evaluation.landmarks.probe_errors import ContentMatches, match_couples, score
from scemae.files import disk
from scemae.files.mapped_arrays import Arrays, path_of, read_arrays, write_arrays

STRIDE = 4  # of cover-and-stride: a quarter of the passes of the real test
BATCH = 16  # couples, three views each, that go through the trunk and the head together
VERSION = 1  # to be raised when the same facts give other maps: they then go to another file
BENCHMARK = "mafl"
# The grid of probe_cycle, in pixels of the crop: brows to chin of an aligned face. Our choice.
GRID_X, GRID_Y = range(24, 73, 12), range(30, 79, 12)


class Probe:
    """Couples of different people; without shards `errors` returns nothing."""

    def __init__(self, shards: str | None, couples: int, cache_dir: str | None = None) -> None:
        """Choose the first couples of `shards`; no image is decoded yet.

        Raises ShardError, and ConfigError where there are too few couples or the shards are a test
        set.
        """
        self._shards: ShardSet | None = None
        self._views: Pairs | None = None
        self._maps: list[Tensor] | None = None  # of all views, once read from the file
        # (c, 3, l + g, 2): landmarks and grid, in pixels of the 136 frame
        self._points: Tensor | None = None
        if shards is None:
            return
        self._shards, self._benchmark = open_shards(shards, cache_dir), find_benchmark(BENCHMARK)
        _refuse_test_set(self._shards)
        self._chosen = choose_couples(map(self._identity, range(len(self._shards))), couples)
        if len(self._chosen) < 2 * couples:
            raise ConfigError(
                f"{masked(shards)}: found {len(self._shards):,} images, which make "
                f"{len(self._chosen) // 2} couples of different people, {couples} are needed; "
                "lower loop.probe_pairs or give more people"
            )

    def load(self) -> None:
        """Decode and warp the images, so that an unusable one is reported at the start. Raises
        ShardError.
        """
        if self._shards is not None and self._points is None:
            self._views = render(self._shards, self._benchmark, self._chosen)
            self._points = self._views.landmarks

    def keep(
        self,
        trunk: Trunk,
        place: Place,
        folder: Path,
        backbone: str,
        note: Callable[[], None] = lambda: None,
    ) -> None:
        """Read the maps of a frozen trunk from the file in `folder`, or compute and write them.

        From then on `errors` runs only a head. Any number of processes may do this at once.
        backbone: the digest of the trunk's weights. `note` is called while maps are computed. Where
        the folder cannot be written, this process keeps the maps in memory and says so. Raises
        ShardError, CheckpointError.
        """
        if self._shards is None:
            return
        facts, started = self.facts(trunk, backbone), time.perf_counter()
        path = path_of(folder, "pairs", facts)
        found, was_there = read_arrays(path, facts), path.exists()
        if found is None:
            made, problem = self._make(trunk, place.device, note), ""
            try:
                write_arrays(path, facts, made)
            except (OSError, FileError) as error:
                why = getattr(error, "strerror", None) or error
                problem = f"; not kept, so that each run does it again: {why}"
            if place.is_first:
                seconds = time.perf_counter() - started
                damaged = " (the file was damaged)" if was_there else ""
                print(
                    f"probe: maps of {len(self._chosen) // 2} couples for {path} computed in "
                    f"{seconds:.1f} s{damaged}{problem}",
                    file=sys.stderr,
                    flush=True,
                )
            found = read_arrays(path, facts) or made
        held = {name: torch.from_numpy(part) for name, part in found.items()}
        self._points = held.pop("points")
        self._maps, self._views = list(held.values()), None

    def facts(self, trunk: Trunk, backbone: str) -> dict[str, Any]:
        """All facts that the kept maps depend on."""
        assert self._shards is not None
        keys = [self._shards.keys[i] for i in self._chosen]
        warps = draw_warps(len(keys)).numpy().astype("<f8").tobytes()
        return {
            "version": VERSION,
            "backbone": backbone,
            "data": self._shards.manifest.digest(),
            "keys": keys,
            "warps": disk.digest(warps),
            "grid": grid_points().flatten().tolist(),
            "stride": STRIDE,
            "benchmark": [self._benchmark.frame, self._benchmark.offset],
            "precision": str(next(trunk.network.parameters()).dtype).removeprefix("torch."),
        }

    @torch.no_grad()
    def errors(
        self, trunk: Trunk, device: torch.device, head: Head | None = None
    ) -> dict[str, float]:
        """Mean same, different, content and cycle error in 70-px units, of the trunk's features or
        a head's.

        All ranks call it, as with ZeRO 3 each holds a part of the weights. Maps are rounded to fp16
        whether they come from the file or not, so that both give the same numbers. Raises
        CheckpointError where features are not finite.
        """
        if self._shards is None:
            return {}
        self.load()
        assert self._points is not None
        head, side, landmarks = head or trunk.join, trunk.side(STRIDE), self._benchmark.landmarks
        mode, answers, by_content = trunk.network.training, [], ContentMatches()
        trunk.network.eval()
        with tf32.refused():
            for first in range(0, len(self._points), BATCH):
                points = (self._points[first : first + BATCH] - CROP).to(device)
                made = head(self._maps_of(trunk, device, first), side)
                maps = matching.checked(made, 3 * len(points)).unflatten(0, (-1, 3))
                answers.append(match_couples(maps, points[:, SOURCE], landmarks).cpu())
                by_content.add(maps, points[:, SOURCE, :landmarks])
            found = torch.cat(answers), by_content.found()
        trunk.network.train(mode)
        return score(*found, self._points - CROP)

    def _maps_of(self, trunk: Trunk, device: torch.device, first: int) -> list[Tensor]:
        """The trunk's maps of the couples from `first` on, rounded to fp16."""
        if self._maps is not None:
            return [part[3 * first : 3 * (first + BATCH)].to(device).float() for part in self._maps]
        assert self._views is not None
        views = self._views.views[first : first + BATCH].to(device).flatten(0, 1).float() / 255
        return [part.half().float() for part in trunk.maps(views, STRIDE)]

    def _make(self, trunk: Trunk, device: torch.device, note: Callable[[], None]) -> Arrays:
        self.load()
        assert self._views is not None and self._points is not None
        mode = trunk.network.training
        trunk.network.eval()
        maps = cache_maps(
            trunk,
            self._views.views.flatten(0, 1),
            STRIDE,
            batch=3 * BATCH,
            device=device,
            advance=lambda _: note(),
        )
        trunk.network.train(mode)
        return {
            "points": self._points.numpy(),
            **{f"maps-{i}": part.cpu().numpy() for i, part in enumerate(maps)},
        }

    def _identity(self, i: int) -> int:
        assert self._shards is not None
        found = self._shards.annotation(i).get("identity")
        return -1 if found is None else found


def choose_couples(identities: Iterable[int], couples: int) -> list[int]:
    """The first couples of images of different people, as A and B of the first, A and B of the
    second, ...

    Consecutive images make a couple, as in the official test, except that an image waits for the
    next one of another person. An identity of -1 is unknown and counts as another person. Fewer
    where images run out.
    """
    chosen: list[int] = []
    waiting: list[tuple[int, int]] = []  # index and identity of images of one person
    for i, identity in enumerate(identities):
        if waiting and (identity < 0 or identity != waiting[0][1]):
            chosen += [waiting.pop(0)[0], i]
        else:
            waiting.append((i, identity))
        if len(chosen) >= 2 * couples:
            break
    return chosen


def render(shards: ShardSet, benchmark: Benchmark, chosen: list[int]) -> Pairs:
    """The views of the images `chosen` of `shards`, two for each couple; grid points follow the
    landmarks.
    """
    frames = load_frames(shards, benchmark, limit=max(chosen) + 1)
    grid = (grid_points() + CROP).expand(len(frames), -1, -1)
    marked = Frames(
        frames.images, torch.cat([frames.landmarks, grid], dim=1), frames.keys, frames.identities
    )
    return render_pairs(marked, chosen, draw_warps(len(chosen)), seed=0)


def draw_warps(images: int) -> Tensor:
    """Two warps for each image, (images, 2, 103, 2): those that `build_pairs` draws from seed 0."""
    return tps_warps.draw_warps(2 * images, seed=0).reshape(images, 2, tps_warps.COEFFICIENTS, 2)


def grid_points() -> Tensor:
    """The points (g, 2) where probe_cycle starts, before warping, in pixels of the crop."""
    return torch.tensor([[x, y] for y in GRID_Y for x in GRID_X], dtype=torch.float32)


def _refuse_test_set(shards: ShardSet) -> None:
    if "test" in shards.manifest.split.lower():
        where = shards.folder.parent
        raise ConfigError(
            f"probe_shards: found the split {shards.manifest.split} in {shards.folder}; the probe "
            f"steers training and sweeps, so it must not see the test set; give {where / 'val'} "
            f"or {where / 'mafl-train'}"
        )
