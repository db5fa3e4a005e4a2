"""`scemae fit SHARDS --run RUN --out DIR`: landmarks of one's own category from few annotated
pictures.

    scemae fit data/cats --run runs/mae --out runs/cats

Writes DIR/regressor.safetensors, which `scemae detect` uses, and DIR/fit.json.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from scemae import __version__
from scemae.distributed.process_group import choose_device, flush_denormals
from scemae.errors import ConfigError
from scemae.evaluation import scores
from scemae.evaluation.floors import floors
from scemae.evaluation.landmarks import local_evidence, local_model, regression
from scemae.evaluation.landmarks.benchmark_frames import normalise_landmarks
from scemae.evaluation.landmarks.cross_validation import make_folds, mean_shape_errors, mirrored
from scemae.evaluation.landmarks.local_evidence import Evidence, Extractor
from scemae.evaluation.landmarks.local_model import LocalModel
from scemae.evaluation.landmarks.regression import image_means, iod_errors
from scemae.evaluation.landmarks.regressor_file import save_regressor
from scemae.evaluation.photographs.annotated_pictures import AnnotatedPictures, open_annotated
from scemae.evaluation.photographs.photograph_features import (
    TrainedFeatures,
    extractor,
    few_shot_line,
    load_features,
)
from scemae.evaluation.subject import Line, Subject
from scemae.files import disk
from scemae.models.vit import Encoder
from scemae.process.progress import progress_bar
from scemae.runs import usual_frames

MEAN, RANDOM, TRAINED = "mean shape", "random encoder", "trained"
Watch = Callable[[float], object]  # called with the share of the work that is done, 0 to 1


@dataclass
class Settings:
    """The options of a fit."""

    stride: int  # of cover-and-stride, in pixels
    views: int  # warps of each picture, beside itself
    seed: int


@dataclass
class Fitted:
    """What `fit` found."""

    result: dict  # what fit.json holds
    model: LocalModel  # of all pictures
    line: Line  # the features that it reads


@dataclass
class Kind:
    """One kind of features that a model is fitted to."""

    name: str
    subject: Subject
    line: Line


def main(given: argparse.Namespace) -> None:
    """Fit, measure and write. Raises ConfigError, DataError, CheckpointError."""
    flush_denormals()
    if given.out.exists() and not given.out.is_dir():
        raise ConfigError(f"--out: {given.out} is a file; give a folder")
    data = open_annotated(given.shards)
    fold = make_folds(data.files, given.folds, given.seed)
    trained = load_features(given.backbone, given.projector, choose_device("auto"), run=given.run)
    settings = Settings(given.stride, given.views, given.seed)
    found = fit(data, trained, fold, settings)
    write(given.out, found, data, trained)
    print(table(found.result))
    print(f"{given.out / 'regressor.safetensors'}: for `scemae detect --regressor`")


def write(out: Path, found: Fitted, data: AnnotatedPictures, trained: TrainedFeatures) -> None:
    """Write OUT/regressor.safetensors and OUT/fit.json. Raises OSError."""
    disk.make_folders(out, out)
    save_regressor(
        out / "regressor.safetensors",
        found.model,
        data.benchmark.name,
        None,
        trained.subject.weights(found.line),
        stride=found.result["stride"],
        points=data.benchmark.points,
        margin=data.benchmark.margin,
        usual=usual_frames.of_few(data.frames.images, trained.tokens),
    )
    disk.write_json(out / "fit.json", {**found.result, "model": trained.model_facts()})


def fit(
    data: AnnotatedPictures,
    trained: TrainedFeatures,
    fold: np.ndarray,
    settings: Settings,
    *,
    with_random: bool = True,
    watch: Watch = lambda share: None,
) -> Fitted:
    """Fit to all pictures, and measure on each without itself.

    with_random: measure the random encoder too. What `watch` raises ends the fit.
    """
    kinds = _kinds(trained, settings.seed)[0 if with_random else -1 :]
    benchmark, frames, device = data.benchmark, data.frames, trained.device
    truth, eyes = normalise_landmarks(frames.landmarks), benchmark.eyes
    errors = {MEAN: mean_shape_errors(frames.landmarks, fold, eyes)}
    tested = _mean_shape_tested(data)
    points = {}
    for i, kind in enumerate(kinds):
        kind.subject.to(device, torch.float32)
        extract = extractor(kind.subject, kind.line, settings.stride)
        ahead = part_of(watch, i, len(kinds))
        evidence = _collect(kind.name, extract, data, fold, settings, device, ahead)
        each = iod_errors(local_model.hold_out(evidence)[: len(frames)].cpu(), truth, eyes)
        errors[kind.name], points[kind.name] = image_means(each), _point_means(each)
        model = local_model.fit(evidence)
        if data.test is not None:
            predicted = local_model.predict(model, extract, data.test.images)
            marks = normalise_landmarks(data.test.landmarks)
            tested[kind.name] = image_means(iod_errors(predicted.cpu(), marks, eyes))
    names = benchmark.points or tuple(map(str, range(benchmark.landmarks)))
    result = {
        "shards": str(data.folder),
        "title": benchmark.title,
        "pictures": len(set(data.files)),
        "objects": len(frames),
        "folds": int(fold.max()) + 1,
        "features": kinds[-1].line.name,
        **asdict(settings),
        "is_mirrored": bool(benchmark.pairs),
        "scale_points": [names[i] for i in eyes],
        "held_out": _scores(errors),
        "test": _scores(tested),
        "points": {
            name: {kind: each[i] for kind, each in points.items()} for i, name in enumerate(names)
        },
        "errors": {
            file: {kind: _number(values[i]) for kind, values in errors.items()}
            for i, file in enumerate(frames.keys)
        },
        "scemae": __version__,
    }
    return Fitted(result, model, kinds[-1].line)


def _kinds(trained: TrainedFeatures, seed: int) -> list[Kind]:
    """The random encoder, where the trunk is a ViT, then the trained features: the projected ones
    where there is a projector (paper 4.2).
    """
    subject = trained.subject
    kinds = [Kind(TRAINED, subject, few_shot_line(subject))]
    if isinstance(subject.trunk.network, Encoder):
        random = floors(subject.trunk.network, seed)[-1]
        kinds.insert(0, Kind(RANDOM, random, few_shot_line(random)))
    return kinds


def _collect(
    name: str,
    extract: Extractor,
    data: AnnotatedPictures,
    fold: np.ndarray,
    settings: Settings,
    device: torch.device,
    watch: Watch,
) -> Evidence:
    """The evidence of all pictures, and of them mirrored where points have partners."""
    frames, pairs = data.frames, data.benchmark.pairs
    train = mirrored(frames, pairs) if pairs else frames
    copies, numbers = len(train) // len(frames), {file: i for i, file in enumerate(data.files)}
    picture = np.array([numbers[file] for file in data.files])
    with progress_bar(total=len(train), desc=name, unit="picture", leave=False) as bar:

        def advance(count: int) -> None:
            bar.update(count)
            watch(bar.n / len(train))

        return local_evidence.collect(
            extract,
            train,
            np.tile(fold, copies),
            np.tile(picture, copies),
            settings.views,
            seed=settings.seed,
            device=device,
            advance=advance,
        )


def part_of(watch: Watch, part: int, parts: int) -> Watch:
    """What to tell of one of several parts of the work, counted from 0."""
    return lambda share: watch((part + share) / parts)


def _mean_shape_tested(data: AnnotatedPictures) -> dict[str, np.ndarray]:
    if data.test is None:
        return {}
    floor = regression.mean_face_errors(
        data.frames.landmarks, data.test.landmarks, data.benchmark.eyes
    )
    return {MEAN: floor}


def _scores(errors: dict[str, np.ndarray]) -> dict:
    """Means with intervals, and the trained features against each floor, on the same pictures."""
    if not errors:
        return {}
    known = {name: values[np.isfinite(values)] for name, values in errors.items()}
    mine = known[TRAINED]
    return {
        "methods": {name: asdict(scores.bootstrap(values)) for name, values in known.items()},
        "comparisons": {
            name: {**asdict(found := scores.compare(mine, values)), "is_decided": found.is_decided}
            for name, values in known.items()
            if name != TRAINED
        },
    }


def _point_means(errors: np.ndarray) -> list[float | None]:
    """The mean error of each point, over errors (n, l)."""
    return [_number(value) for value in image_means(errors.T)]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def table(result: dict) -> str:
    """The results as text: a line for each method."""
    first, second = result["scale_points"]
    lines = [
        f"{result['title']}: {result['objects']} objects in {result['pictures']} pictures; mean "
        f"error in % of the distance {first} - {second} [95% interval]"
    ]
    singly = result["folds"] == result["pictures"]
    how = "each picture left out in turn" if singly else f"{result['folds']} folds"
    for title, part in ((how, result["held_out"]), ("test pictures", result["test"])):
        if not part:
            continue
        lines.append(f"{title}:")
        for name, found in part["methods"].items():
            line = f"  {name:16} {_interval(found):>22}  n={found['n']}"
            if name in part["comparisons"]:
                gap = part["comparisons"][name]
                word = "" if gap["is_decided"] else ", not decided"
                line += f"   trained - {name}: {_interval(gap['difference'])}{word}"
            lines.append(line)
    return "\n".join(lines)


def _interval(estimate: dict) -> str:
    return f"{estimate['mean']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
