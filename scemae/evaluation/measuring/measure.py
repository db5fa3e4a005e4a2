"""The tests of one subject as units of work: matching in chunks of couples, and per benchmark
detection, few-shot detection and the vectors and t-SNE of figure 5, which share the features of the
test images.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scemae.config.dotted import recorded
from scemae.config.schema.evaluation import TablesConfig, TablesDetection
from scemae.distributed.process_group import data_threads
from scemae.errors import RunFolderError
from scemae.evaluation.landmarks import regression
from scemae.evaluation.landmarks.benchmark_frames import normalise_landmarks
from scemae.evaluation.landmarks.embedding import sample_landmarks, tsne_silhouettes
from scemae.evaluation.landmarks.feature_cache import Cached, cache_maps
from scemae.evaluation.landmarks.features import Head
from scemae.evaluation.landmarks.few_shot import few_shot_errors
from scemae.evaluation.landmarks.few_shot_views import FewShotConfig
from scemae.evaluation.landmarks.matching import ERROR_PARTS, matching_errors
from scemae.evaluation.landmarks.pairs import Pairs
from scemae.evaluation.landmarks.regression import RegressionConfig, iod_errors
from scemae.evaluation.landmarks.regressor_choice import fit_best, list_choices
from scemae.evaluation.landmarks.regressor_file import save_regressor
from scemae.evaluation.measuring.testsets import TestSet
from scemae.evaluation.measuring.units import Advance, Arrays, Unit
from scemae.evaluation.subject import DETECTION, EMBEDDING, FEW_SHOT, MATCHING, Line, Subject
from scemae.files import arrays, disk
from scemae.process.progress import progress_bar

VERSION = 2  # to be raised when the same facts give other numbers
NameRegressor = Callable[[Subject, Line, str], str]  # subject, line, benchmark -> file name
Heads = dict[str, Head]  # by the name of their arrays


class Measure:
    """Makes the units of a run of `scemae tables` or `scemae evaluate`, and measures them."""

    def __init__(
        self,
        config: TablesConfig,
        device: torch.device,
        dtype: torch.dtype,
        name_regressor: NameRegressor,
    ) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.name_regressor = name_regressor
        self.folder = Path(config.run_dir) / "measured"
        # The one subject and data set whose maps of the test images are in memory, and the maps.
        self.test_maps: tuple[SubjectOnData | None, list[torch.Tensor]] = (None, [])

    def matching_units(self, subject: Subject, pairs: Pairs) -> list[Unit]:
        """The matching test of one subject, in chunks of couples."""

        def heads() -> Heads:
            return {line.name: line.head for line in subject.of(MATCHING)}

        return self.units_of_couples(subject, pairs, MATCHING, heads)

    def units_of_couples(
        self,
        subject: Subject,
        pairs: Pairs,
        test: str,
        heads: Callable[[], Heads],
        facts: dict[str, Any] | None = None,
        needs: Path | None = None,
    ) -> list[Unit]:
        """Matching by the heads that `heads` makes when a unit is measured, in chunks of couples.

        facts: what the errors depend on besides subject, pairs and stride; needs: as in `Unit`.
        """
        chunk, lines, units = self.config.matching.chunk, subject.of(test), []
        known = {"test": test, "pairs": pairs.hash, "stride": self.config.stride, **(facts or {})}
        for start in range(0, len(pairs) if lines else 0, chunk):
            couples = range(start, min(start + chunk, len(pairs)))
            path = self.path(subject, lines, {**known, "chunk": chunk, "start": start})
            work = partial(self._match, subject, heads, pairs, couples)
            title = f"{test}, {subject.title}"
            units.append(Unit(path, title, work, len(couples), test, "mafl", needs))
        return units

    def benchmark_units(self, subject: Subject, name: str, data: TestSet) -> list[Unit]:
        """All that reads the features of one data set. Figure 5 is of MAFL's test images."""
        config = self.config
        facts = {
            "data": data.digest,
            "benchmark": name,
            "stride": config.detection.stride,
            "seed": config.seed,
        }
        shared, units = SubjectOnData(self, subject, data), []

        def add(test: str, work: Callable[[list[Line], Advance], Arrays], settings: dict) -> None:
            if lines := subject.of(test):
                path = self.path(subject, lines, {"test": test, **facts, **settings})
                title = f"{test}, {subject.title}, {data.benchmark.title}"
                units.append(Unit(path, title, partial(work, lines), 0, test, name))

        if data.train is not None and self.is_requested(name):
            unused = {"benchmarks": None, "train_on": None, "hold_out": None}
            add(DETECTION, shared.detect, {**recorded(config.detection), **unused})
        if data.train is not None and name == config.few_shot.benchmark:
            add(FEW_SHOT, shared.few_shots, asdict(config.few_shot))
        if name == "mafl" and subject.of(EMBEDDING):
            add(EMBEDDING, shared.vectors, {"images": config.embedding.images})
            vectors = units[-1].path
            units += [
                self._tsne_unit(subject, line, vectors, facts) for line in subject.of(EMBEDDING)
            ]
        return units

    def is_requested(self, name: str) -> bool:
        """Whether detection is to be measured on a benchmark."""
        return self.config.detection.benchmarks is None or name in self.config.detection.benchmarks

    def _tsne_unit(self, subject: Subject, line: Line, vectors: Path, facts: dict) -> Unit:
        settings = asdict(self.config.embedding)
        path = self.path(subject, [line], {"test": "repeats", **facts, **settings})
        title = f"{EMBEDDING}, {subject.title} {line.name}"
        work = partial(self._embed, line, vectors)
        return Unit(path, title, work, self.config.embedding.repeats, EMBEDDING, "mafl", vectors)

    def path(self, subject: Subject, lines: list[Line], facts: dict) -> Path:
        """The file of a unit: its name is a hash of all that the unit's arrays depend on."""
        known = {
            "version": VERSION,
            "weights": subject.digest,
            "lines": [line.name for line in lines],
            "precision": str(self.dtype),
            **facts,
        }
        return self.folder / f"{disk.json_digest(known)[:20]}.npz"

    def _match(
        self,
        subject: Subject,
        heads: Callable[[], Heads],
        pairs: Pairs,
        couples: range,
        advance: Advance,
    ) -> Arrays:
        subject.to(self.device, self.dtype)
        trunk, stride = subject.trunk, self.config.stride
        side = trunk.side(stride, matching=True)
        chosen = slice(couples.start, couples.stop)
        found = matching_errors(
            lambda frames: trunk.maps(frames, stride),
            replace(pairs, views=pairs.views[chosen], landmarks=pairs.landmarks[chosen]),
            batch=subject.couples_at_once(self.config.runtime.batch_size, side),
            device=self.device,
            heads={name: partial(_apply_head, head, side) for name, head in heads().items()},
            priors={line.name: line.prior for line in subject.of(MATCHING)},
            advance=advance,
        )
        return {
            f"{name}/{part}": getattr(errors, part)
            for name, errors in found.items()
            for part in ERROR_PARTS
        }

    def _embed(self, line: Line, vectors: Path, advance: Advance) -> Arrays:
        config = self.config.embedding
        saved = arrays.read(
            vectors,
            [f"{line.name}/vectors", "labels"],
            error=RunFolderError,
            remedy="remove it, and it is measured again",
        )
        result = tsne_silhouettes(
            saved[f"{line.name}/vectors"],
            saved["labels"],
            repeats=config.repeats,
            seed=self.config.seed,
            perplexity=config.perplexity,
            jobs=data_threads("auto"),
            advance=advance,
        )
        return {f"{line.name}/{key}": np.asarray(value) for key, value in vars(result).items()}


class SubjectOnData:
    """One subject on one data set: the maps of the test images are made once for all units that
    read them.
    """

    def __init__(self, measure: Measure, subject: Subject, data: TestSet) -> None:
        self.measure, self.subject, self.data = measure, subject, data
        self.stride = measure.config.detection.stride

    def maps(self, split: str, limit: int | None = None) -> list[torch.Tensor]:
        """The trunk's maps of a split; those of the test images are kept until others are asked
        for.
        """
        measure = self.measure
        if split == "test" and measure.test_maps[0] is self:
            return measure.test_maps[1]
        measure.test_maps = None, []  # before the next are made: gigabytes
        images = self.data.frames(split, limit).images
        self.subject.to(measure.device, measure.dtype)
        title = f"features, {self.subject.title}, {self.data.benchmark.title} {split}"
        with progress_bar(total=len(images), unit="image", leave=False, desc=title) as bar:
            found = cache_maps(
                self.subject.trunk,
                images,
                self.stride,
                batch=measure.config.runtime.batch_size,
                device=measure.device,
                advance=bar.update,
            )
        if split == "test":
            measure.test_maps = self, found
        return found

    def features(self, maps: list[torch.Tensor], line: Line) -> Cached:
        """The features of one line, made of the trunk's maps when they are asked for."""
        return Cached(maps, line.head, self.subject.trunk.side(self.stride), self.measure.device)

    def detect(self, lines: list[Line], advance: Advance) -> Arrays:
        """Table 2: a regressor for each line, its predictions and errors on the test images, per
        landmark.
        """
        config, device = self.measure.config, self.measure.device
        settings = regression_settings(config.detection, config.seed)
        benchmark, limit = self.data.benchmark, config.detection.limit
        train, test = self.data.frames("train", limit), self.data.frames("test")
        train_maps, test_maps = self.maps("train", limit), self.maps("test")
        truth = normalise_landmarks(test.landmarks)
        found: Arrays = {}
        for line in lines:
            weights, decays = config.detection.stage_2_weights, config.detection.weight_decays
            regressor, chosen = fit_best(
                self.features(train_maps, line),
                normalise_landmarks(train.landmarks),
                settings,
                stage_2=line.stage_2,
                choices=list_choices(weights, decays, line.stage_2),
                eyes=benchmark.eyes,
                device=device,
                progress=lambda epoch, loss: advance(1),
            )
            save_regressor(
                self._regressor_path(line),
                regressor,
                benchmark.name,
                replace(settings, weight_decay=chosen.weight_decay),
                self.subject.weights(line),
                stride=self.stride,
            )
            predicted = regression.predict(regressor, self.features(test_maps, line), device=device)
            for name, value in vars(chosen).items():
                found[f"{line.name}/{name}"] = np.array(value)
            found[f"{line.name}/predicted"] = predicted.numpy()
            found[f"{line.name}/errors"] = iod_errors(predicted, truth, benchmark.eyes)
        return found

    def _regressor_path(self, line: Line) -> Path:
        name = self.measure.name_regressor(self.subject, line, self.data.benchmark.name)
        return Path(self.measure.config.run_dir) / "regressors" / f"{name}.safetensors"

    def few_shots(self, lines: list[Line], advance: Advance) -> Arrays:
        """Table 3: errors (counts, seeds, images) of each line."""
        asked, trunk = self.measure.config.few_shot, self.subject.trunk
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
            {line.name: self.features(maps, line) for line in lines},
            test.landmarks,
            eyes=self.data.benchmark.eyes,
            config=settings,
            device=self.measure.device,
            progress=lambda _, count: advance(count),
        )
        errors = {f"{name}/errors": one.errors for name, one in found.items()}
        return {**errors, "chosen": np.array(json.dumps(next(iter(found.values())).chosen))}

    def vectors(self, lines: list[Line], advance: Advance) -> Arrays:
        """Figure 5: the feature at each landmark of the first test images, and which landmark it
        is.
        """
        images = self.measure.config.embedding.images
        landmarks, found = self.data.frames("test").landmarks[:images], {}
        maps = [part[:images] for part in self.maps("test")]
        for line in lines:
            batches = zip(self.features(maps, line).split(16), landmarks.split(16), strict=True)
            parts = [sample_landmarks(features.cpu(), points) for features, points in batches]
            found[f"{line.name}/vectors"] = torch.cat(parts).flatten(0, 1).numpy()
        return {**found, "labels": np.tile(np.arange(landmarks.shape[1]), len(landmarks))}


def regression_settings(detection: TablesDetection, seed: int) -> RegressionConfig:
    """The regressor's settings as the config asks for them."""
    return RegressionConfig(
        epochs=detection.epochs,
        batch=detection.batch_size,
        lr=detection.lr,
        kernel=detection.kernel,
        init_std=detection.init_std,
        seed=seed,
    )


def _apply_head(head: Head, side: int, maps: list[torch.Tensor]) -> torch.Tensor:
    return head(maps, side)
