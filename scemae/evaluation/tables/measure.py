"""What the tables are made of, in units that are measured once and kept: a killed run goes on, and ranks share them.

    RUN_DIR/measured/0123456789abcdef.npz        one unit's arrays, committed by one rename; the name is the hash of all that
                                                they depend on: weights, data, settings

A unit is a stretch of the matching test, or one benchmark with all that reads its features: detection, few shots, the
vectors of figure 5. Whichever rank is free takes the next.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from scemae.config.schema.evaluation import TablesConfig
from scemae.distributed.process_group import Place, data_threads
from scemae.errors import RunFolderError
from scemae.evaluation.landmarks import regression
from scemae.evaluation.landmarks.benchmarks import normalise_landmarks
from scemae.evaluation.landmarks.embedding import sample_landmarks, tsne_silhouettes
from scemae.evaluation.landmarks.feature_cache import Cached, cache_maps
from scemae.evaluation.landmarks.few_shot import FewShotConfig, few_shot_errors
from scemae.evaluation.landmarks.matching import matching_errors
from scemae.evaluation.landmarks.pairs import Pairs
from scemae.evaluation.landmarks.regression import RegressionConfig, iod_errors
from scemae.evaluation.landmarks.regressor_file import save_regressor
from scemae.evaluation.landmarks.testsets import TestSet
from scemae.evaluation.subjects import DETECTION, EMBEDDING, FEW_SHOT, MATCHING, Line, Subject
from scemae.files import arrays, disk
from scemae.process.progress import progress_bar
from scemae.runs.checkpoints import checkpoint
from scemae.runs.generations import Generation
from scemae.runs.run_folder import find_reason

VERSION = 1  # of what the same facts give

Arrays = dict[str, np.ndarray]
Told = Callable[[int], object]  # of so many images or epochs done


@dataclass
class Unit:
    """Something to measure: where it is kept, what it is called, how much work it is, and how it is done."""

    path: Path
    title: str
    work: Callable[[Told], Arrays]
    size: int  # what `Told` adds up to, 0 where nobody knows
    needs: Path | None = None  # another unit's file

    @property
    def is_done(self) -> bool:
        return self.path.exists()


class Measure:
    """Makes the units of a tables run."""

    def __init__(self, config: TablesConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.folder = Path(config.run_dir) / "measured"
        self.kept: tuple[Shared | None, list[torch.Tensor]] = (
            None,
            [],
        )  # whose test maps are in memory

    def matching(self, subject: Subject, pairs: Pairs) -> list[Unit]:
        """The matching test of one subject, in chunks of couples."""
        chunk, lines = self.config.matching.chunk, subject.of(MATCHING)
        facts = {
            "test": MATCHING,
            "pairs": pairs.hash,
            "stride": self.config.stride,
            "chunk": chunk,
        }
        return [
            Unit(
                self._path(subject, lines, {**facts, "start": start}),
                f"matching, {subject.title}",
                partial(
                    self._match, subject, lines, pairs, range(start, min(start + chunk, len(pairs)))
                ),
                min(chunk, len(pairs) - start),
            )
            for start in range(0, len(pairs) if lines else 0, chunk)
        ]

    def benchmark(self, subject: Subject, name: str, data: TestSet, embedded: bool) -> list[Unit]:
        """All that reads the features of one data set. `embedded`: figure 5 is of its test images."""
        config = self.config
        units = []
        detected = subject.of(DETECTION) if data.train is not None and self.asked(name) else []
        shown = (
            subject.of(FEW_SHOT)
            if data.train is not None and name == config.few_shot.benchmark
            else []
        )
        drawn = subject.of(EMBEDDING) if embedded else []
        facts = {
            "data": data.digest,
            "benchmark": name,
            "stride": config.detection.stride,
            "seed": config.seed,
        }
        if detected:
            settings = {
                **asdict(config.detection),
                "benchmarks": None,
                "train_on": None,
                "hold_out": None,
            }
            units.append((DETECTION, detected, {**facts, **settings}))
        if shown:
            units.append((FEW_SHOT, shown, {**facts, **asdict(config.few_shot)}))
        if drawn:
            units.append((EMBEDDING, drawn, {**facts, "images": config.embedding.images}))
        shared = Shared(self, subject, data)
        found = [
            Unit(
                self._path(subject, lines, {"test": test, **said}),
                f"{test}, {subject.title}, {data.benchmark.title}",
                partial(getattr(shared, WORK[test]), lines),
                0,
            )
            for test, lines, said in units
        ]
        if drawn:
            vectors = found[-1].path
            settings = asdict(config.embedding)
            found += [
                Unit(
                    self._path(subject, [line], {"test": "repeats", **facts, **settings}),
                    f"t-SNE, {subject.title} {line.name}",
                    partial(self._embed, line, vectors),
                    config.embedding.repeats,
                    vectors,
                )
                for line in drawn
            ]
        return found

    def asked(self, name: str) -> bool:
        return self.config.detection.benchmarks is None or name in self.config.detection.benchmarks

    def _path(self, subject: Subject, lines: list[Line], facts: dict) -> Path:
        known = {
            "version": VERSION,
            "weights": subject.digest,
            "lines": [line.name for line in lines],
            "precision": str(self.dtype),
            **facts,
        }
        return self.folder / f"{checkpoint.hash_of(known)[:20]}.npz"

    def _match(
        self, subject: Subject, lines: list[Line], pairs: Pairs, couples: range, told: Told
    ) -> Arrays:
        subject.to(self.device, self.dtype)
        trunk, stride = subject.trunk, self.config.stride
        side = trunk.side(stride, matching=True)
        part = replace(
            pairs,
            views=pairs.views[couples.start : couples.stop],
            landmarks=pairs.landmarks[couples.start : couples.stop],
        )
        batch, before = subject.couples_at_once(self.config.runtime.batch_size, side), 0

        def progress(done: int, total: int) -> None:
            nonlocal before
            told(done - before)
            before = done

        found = matching_errors(
            lambda frames: trunk.maps(frames, stride),
            part,
            batch=batch,
            device=self.device,
            heads={line.name: lambda maps, line=line: line.head(maps, side) for line in lines},
            progress=progress,
        )
        parts = ("same", "different", "same_predicted", "different_predicted")
        return {
            f"{name}/{part}": getattr(value, part)
            for name, value in found.items()
            for part in parts
        }

    def _embed(self, line: Line, vectors: Path, told: Told) -> Arrays:
        config = self.config.embedding
        saved = arrays.read(
            vectors,
            [f"{line.name}/vectors", "labels"],
            error=RunFolderError,
            remedy="remove it, and it is measured again",
        )
        found, labels = saved[f"{line.name}/vectors"], saved["labels"]
        result = tsne_silhouettes(
            found,
            labels,
            repeats=config.repeats,
            seed=self.config.seed,
            perplexity=config.perplexity,
            jobs=data_threads("auto"),
            progress=lambda *_: told(1),
        )
        return {f"{line.name}/{key}": np.asarray(value) for key, value in vars(result).items()}


class Shared:
    """One subject on one data set: the maps of the test images are made once for every unit that reads them."""

    def __init__(self, measure: Measure, subject: Subject, data: TestSet) -> None:
        self.measure, self.subject, self.data = measure, subject, data

    @property
    def stride(self) -> int:
        return self.measure.config.detection.stride

    def maps(self, split: str, limit: int | None = None) -> list[torch.Tensor]:
        """The trunk's maps of a split; those of the test images are kept until another subject or data set asks."""
        measure = self.measure
        if split == "test" and measure.kept[0] is self:
            return measure.kept[1]
        measure.kept, images = (None, []), self.data.frames(split, limit).images
        self.subject.to(measure.device, measure.dtype)
        with progress_bar(
            total=len(images),
            unit="image",
            leave=False,
            desc=f"features, {self.subject.title}, {self.data.benchmark.title} {split}",
        ) as bar:
            found = cache_maps(
                self.subject.trunk,
                images,
                self.stride,
                batch=measure.config.runtime.batch_size,
                device=measure.device,
                progress=bar.update,
            )
        if split == "test":
            measure.kept = self, found
        return found

    def seen(self, maps: list[torch.Tensor], line: Line) -> Cached:
        return Cached(maps, line.head, self.subject.trunk.side(self.stride), self.measure.device)

    def detect(self, lines: list[Line], told: Told) -> Arrays:
        """Table 2: a regressor for each line, its predictions and errors on the test images, per landmark."""
        config, benchmark = self.measure.config, self.data.benchmark
        asked = config.detection
        settings = RegressionConfig(
            epochs=asked.epochs,
            batch=asked.batch_size,
            lr=asked.lr,
            kernel=asked.kernel,
            init_std=asked.init_std,
            seed=config.seed,
        )
        train, test = self.data.frames("train", asked.limit), self.data.frames("test")
        maps = {"train": self.maps("train", asked.limit), "test": self.maps("test")}
        found: Arrays = {}
        for line in lines:
            regressor = regression.train_regressor(
                self.seen(maps["train"], line),
                normalise_landmarks(train.landmarks),
                settings,
                device=self.measure.device,
                progress=lambda *_: told(1),
            )
            save_regressor(
                Path(config.run_dir) / "regressors" / slug(self.subject, line, benchmark.name),
                regressor,
                benchmark.name,
                settings,
                self.subject.weights(line),
                stride=self.stride,
            )
            predicted = regression.predict(
                regressor, self.seen(maps["test"], line), device=self.measure.device
            )
            found[f"{line.name}/predicted"] = predicted.numpy()
            found[f"{line.name}/errors"] = iod_errors(
                predicted, normalise_landmarks(test.landmarks), benchmark.eyes
            )
        return found

    def few_shots(self, lines: list[Line], told: Told) -> Arrays:
        """Table 3: errors (counts, seeds, images) of each line."""
        asked, trunk, measure = self.measure.config.few_shot, self.subject.trunk, self.measure
        settings = FewShotConfig(
            tuple(asked.counts),
            tuple(asked.seeds),
            asked.images_per_epoch,
            asked.epochs,
            asked.batch_size,
            asked.lr,
            asked.weight_decay,
            init_std=asked.init_std,
            views=asked.views,
        )
        train, test, maps = self.data.frames("train"), self.data.frames("test"), self.maps("test")
        side = trunk.side(self.stride)

        def extract(frames: torch.Tensor) -> dict[str, torch.Tensor]:
            made = trunk.maps(frames, self.stride)
            return {line.name: line.head(made, side) for line in lines}

        found = few_shot_errors(
            extract,
            train,
            {line.name: self.seen(maps, line) for line in lines},
            test.landmarks,
            eyes=self.data.benchmark.eyes,
            config=settings,
            device=measure.device,
            progress=lambda _, count: told(count),
        )
        errors = {f"{name}/errors": one.errors for name, one in found.items()}
        return {**errors, "chosen": np.array(json.dumps(next(iter(found.values())).chosen))}

    def vectors(self, lines: list[Line], told: Told) -> Arrays:
        """Figure 5: the feature at each landmark of the first test images, and which landmark it is."""
        images = self.measure.config.embedding.images
        frames, found = self.data.frames("test"), {}
        maps = [part[:images] for part in self.maps("test")]
        landmarks = frames.landmarks[:images]
        for line in lines:
            pairs = zip(self.seen(maps, line).split(16), landmarks.split(16))
            parts = [sample_landmarks(features.cpu(), points) for features, points in pairs]
            found[f"{line.name}/vectors"] = torch.cat(parts).flatten(0, 1).numpy()
        return {**found, "labels": np.tile(np.arange(landmarks.shape[1]), len(landmarks))}


def slug(subject: Subject, line: Line, benchmark: str) -> str:
    """The file name of a regressor."""
    return (
        "-".join([*f"{subject.title} {line.name}".split(), Path(benchmark).stem]) + ".safetensors"
    )


WORK = {DETECTION: "detect", FEW_SHOT: "few_shots", EMBEDDING: "vectors"}


def do(units: list[Unit], generation: Generation, place: Place, patience: float = 1.0) -> None:
    """Measure every unit that is not there yet; ranks share them, and all return when the last is done.

    A rank claims a unit by a file in this start's own folder, so that claims of a rank that died count no more. Raises
    LaunchError or LostRankError where another rank ends without doing what it claimed.
    """
    claims = generation.folder / "claims"
    disk.make_folders(claims, generation.folder)
    left = [unit for unit in units if not unit.is_done]
    bar = progress_bar(
        show=place.is_first,
        total=len(units),
        initial=len(units) - len(left),
        unit="unit",
        desc="measured",
    )
    while left:
        for unit in list(_takeable(left, claims)):
            bar.set_postfix_str(unit.title)
            _measure(unit, is_shown=place.is_first)
        done = [unit for unit in left if unit.is_done]
        left = [unit for unit in left if not unit.is_done]
        bar.update(len(done))
        if left and not done:
            _check_others(generation, place)
            time.sleep(patience)
    bar.close()


def _takeable(left: list[Unit], claims: Path) -> Iterator[Unit]:
    """Units that this rank has just claimed, one after the other."""
    for unit in left:
        if unit.is_done or (unit.needs is not None and not unit.needs.exists()):
            continue
        try:
            disk.create(claims / unit.path.name).close()
        except FileExistsError:
            continue
        yield unit


def _measure(unit: Unit, *, is_shown: bool) -> None:
    with progress_bar(
        show=is_shown, total=unit.size or None, desc=unit.title, leave=False, position=1
    ) as bar:
        arrays = unit.work(bar.update)
    disk.make_folders(unit.path.parent, unit.path.parent.parent)  # measured/ of the run folder
    with disk.replacing(unit.path) as file:
        np.savez_compressed(file, title=json.dumps(unit.title), **arrays)


def _check_others(generation: Generation, place: Place) -> None:
    if any(generation.folder.glob("failed-*.txt")):
        raise find_reason(generation.folder, place.rank, RuntimeError("another rank failed"))
