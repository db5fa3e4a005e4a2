"""What is made of the annotated pictures: shards, errors by leaving one out, a regressor.

Each is made by the code of `scemae shards build folder --landmarks` and `scemae fit`:

    OUT/points.json                the annotation
    OUT/curve.json                 errors of the fits so far, by the number of annotated pictures
    OUT/shards/                    train, annotated-train, benchmark.yaml
    OUT/fit/regressor.safetensors  for `scemae detect`, and fit.json
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scemae.errors import ConfigError, DataError, ScemaeError
from scemae.evaluation.explore.serve.annotation import Notebook
from scemae.evaluation.explore.serve.job import Watch
from scemae.evaluation.landmarks.benchmarks import BENCHMARK
from scemae.evaluation.landmarks.cross_validation import make_folds
from scemae.evaluation.photographs import fit
from scemae.evaluation.photographs.annotated_pictures import AnnotatedPictures, open_annotated
from scemae.evaluation.photographs.fit import Fitted
from scemae.evaluation.photographs.photograph_features import TrainedFeatures
from scemae.files import disk, documents
from scemae.shards.sources import annotated
from scemae.shards.write import write_split

POINTS, CURVE, SHARDS, FIT = "points.json", "curve.json", "shards", "fit"  # in OUT
STEPS = (3, 5, 7, 10, 15, 20, 30, 50, 100)  # annotated pictures at which a whole curve is measured
WORST = 5  # pictures with the largest errors that the page names


@dataclass
class Curve:
    """The results of fits, by the number of annotated pictures; of one list of points."""

    points: list[str] = field(default_factory=list)
    fits: dict[str, dict[str, Any]] = field(default_factory=dict)


class Workshop:
    """Fits and builds from a notebook into the folder OUT."""

    def __init__(
        self, notebook: Notebook, trained: TrainedFeatures, out: Path, given: argparse.Namespace
    ) -> None:
        """given: the fitting options of `scemae fit`. Reads OUT/curve.json. Raises DataError."""
        self._notebook, self._trained, self.out = notebook, trained, out
        self._settings = fit.Settings(given.stride, given.views, given.seed)
        self._fitted: tuple[Fitted, AnnotatedPictures] | None = None
        path = out / CURVE
        remedy = "take it away"
        self._curve = documents.read_json(path, Curve, remedy=remedy) if path.exists() else Curve()

    @property
    def has_regressor(self) -> bool:
        """Whether there is a fit of this start, to save."""
        return self._fitted is not None

    def curve(self) -> list[dict[str, Any]]:
        """The results for the points of now, by the number of pictures."""
        if self._curve.points != self._notebook.now.points:
            return []
        return [self._curve.fits[key] for key in sorted(self._curve.fits, key=int)]

    def fitting(self, *, is_whole_curve: bool, with_random: bool) -> Callable[[Watch], str]:
        """The work of a fit on all annotated pictures; is_whole_curve: also on the first 3, 5, ...
        of them that were not measured yet. Raises ConfigError for too few pictures.
        """
        done = self._notebook.done()
        make_folds(done, None, self._settings.seed)
        known = {found["pictures"] for found in self.curve()}
        whole, counts = self._notebook.as_own(done), [len(done)]
        if is_whole_curve:
            counts = [n for n in STEPS if n < len(done) and n not in known] + counts

        def work(watch: Watch) -> str:
            for i, count in enumerate(counts):
                self._fit(_first(whole, count), with_random, fit.part_of(watch, i, len(counts)))
            return f"Fitted on {len(done)} pictures."

        return work

    def build(self, watch: Watch) -> str:
        """Write OUT/shards anew, as the command does. Raises ScemaeError."""
        target = self.out / SHARDS
        watch(0.0)
        if target.exists():
            disk.remove_tree(target, self.out)
        lines = self._build(target, self.out / POINTS)
        return f"{target}: {'; '.join(lines)}"

    def save_regressor(self) -> str:
        """Write OUT/fit, as `scemae fit` does. Raises ConfigError where nothing was fitted yet."""
        if self._fitted is None:
            raise ConfigError("found no fit since the start; fit first")
        found, data = self._fitted
        shards = self.out / SHARDS
        found = replace(found, result={**found.result, "shards": str(shards)})
        named = replace(data.benchmark, name=str(shards / BENCHMARK))
        fit.write(self.out / FIT, found, replace(data, benchmark=named), self._trained)
        return f"{self.out / FIT / 'regressor.safetensors'}: for `scemae detect --regressor`"

    def _fit(self, annotation: dict[str, Any], with_random: bool, watch: Watch) -> None:
        watch(0.0)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / POINTS
            disk.write_json(file, annotation)
            try:
                self._build(Path(folder) / SHARDS, file, only=annotated.TRAIN)
                data = open_annotated(Path(folder) / SHARDS)
            except ScemaeError as error:  # the user knows nothing of the temporary folder
                shown = str(error).replace(str(file), str(self.out / POINTS))
                shown = shown.replace(str(Path(folder) / SHARDS), str(self.out / POINTS))
                raise DataError(shown) from error
            fold = make_folds(data.files, None, self._settings.seed)
            found = fit.fit(
                data, self._trained, fold, self._settings, with_random=with_random, watch=watch
            )
        self._fitted = (found, data)
        self._add(annotation["points"], found.result, data.files)

    def _add(self, points: list[str], result: dict[str, Any], files: list[str]) -> None:
        """Put a result into the curve, on the disk too; files: the picture of each sample."""
        if self._curve.points != points:
            self._curve = Curve(points)
        each = zip(files, result["errors"].values(), strict=True)
        errors = {file: one[fit.TRAINED] for file, one in each if one[fit.TRAINED] is not None}
        worst = sorted(errors, key=errors.__getitem__, reverse=True)[:WORST]
        self._curve.fits[str(result["pictures"])] = {
            "pictures": result["pictures"],
            "folds": result["folds"],
            "scale": result["scale_points"],
            "methods": result["held_out"]["methods"],
            "comparisons": result["held_out"]["comparisons"],
            "worst": [[file, errors[file]] for file in worst],
        }
        disk.write_json(self.out / CURVE, asdict(self._curve))

    def _build(self, target: Path, file: Path, only: str | None = None) -> list[str]:
        """Shards of the pictures with the points of a file; a line for each split."""
        wishes = annotated.Wishes([file], title=self.out.resolve().name)
        found = annotated.splits(self._notebook.pictures.root, wishes)
        disk.make_folders(target, target)
        disk.write_text(target / BENCHMARK, found.benchmark)
        lines = []
        for split in found.splits:
            if only is None or split.name == only:
                manifest, _ = write_split(split, target / split.name)
                assert manifest is not None  # there are no parts
                lines.append(f"{split.name} {manifest.samples:,} samples")
        return lines if only else [*lines, *found.notes]


def _first(whole: dict[str, Any], count: int) -> dict[str, Any]:
    """An annotation with the first `count` of its pictures."""
    names = list(whole["pictures"])[:count]
    chosen = {
        key: {name: whole[key][name] for name in names if name in whole[key]}
        for key in ("pictures", "boxes")
    }
    return whole | chosen
