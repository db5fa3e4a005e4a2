"""`scemae evaluate`: landmark matching (paper 4.1) and detection (paper 4.2) for the whole ladder of features.

    scemae evaluate run_dir=runs/eval backbone=runs/mae projector=runs/carb matching.shards=data/celeba/mafl-test

The ladder: no motion, raw pixels, a random encoder, MAE features, + CARB; all on the same pairs and the same images.
Writes results.json, pairs.npz (the pairs and their hash), matches.npz and detections.npz (predictions, for pictures).
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scemae.config.locations import masked
from scemae.config.schema.evaluation import EvaluateConfig
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.distributed import tf32
from scemae.distributed.process_group import (
    choose_device,
    flush_denormals,
    keep_freed_memory,
    precision,
)
from scemae.evaluation import subjects
from scemae.evaluation.landmarks import matching, regression, scores
from scemae.evaluation.landmarks import pairs as pair_protocol
from scemae.evaluation.landmarks.benchmarks import (
    Frames,
    find_benchmark,
    load_frames,
    normalise_landmarks,
)
from scemae.evaluation.landmarks.feature_cache import Cached, cache_maps
from scemae.evaluation.landmarks.regressor_file import save_regressor
from scemae.evaluation.subjects import DETECTION, MATCHING, Line, Subject
from scemae.files import disk
from scemae.models.vit import Encoder
from scemae.process.progress import progress_bar
from scemae.runs import run_folder

NO_MOTION, MEAN_FACE = "no motion", "mean face"
MAE, CARB = "MAE", "MAE + CARB"


def main(config: EvaluateConfig) -> None:
    """Evaluate what the config names; each test's results are in the run folder as soon as it is done."""
    flush_denormals()
    run_dir, device = Path(config.run_dir), choose_device(config.runtime.device)
    if device.type == "cpu":
        keep_freed_memory()
    dtype = precision(config.runtime.precision, device)
    with run_folder.own(run_dir, "evaluate"):
        shards = open_tests(config)
        ladder, facts = climb(config)
        run_folder.describe(run_dir, "evaluate", config, **facts)
        for subject in ladder:
            subject.to(device, dtype)
        results: dict = {"precision": str(dtype).removeprefix("torch."), "tf32": tf32.state()}
        if "matching" in shards:
            results["matching"] = evaluate_matching(config, shards["matching"], ladder, device)
            disk.write_json(run_dir / "results.json", results)
        if "test" in shards:
            results["detection"] = evaluate_detection(config, shards, ladder, device)
            disk.write_json(run_dir / "results.json", results)
    print(table(results))


def climb(config: EvaluateConfig) -> tuple[list[Subject], dict]:
    """The rungs of the ladder, floors first, and what provenance.json says of them. Raises CheckpointError."""
    facts: dict = {"seed": config.seed}
    if not config.backbone:
        return subjects.floors(None, config.seed), facts
    trunk, folder = subjects.load_trunk(Path(config.backbone))
    facts["backbone"] = str(folder)
    projectors = [Path(config.projector)] if config.projector else []
    own = subjects.from_backbone(folder, projectors)[0]
    if projectors:
        projection = subjects.load_projection(projectors[0], folder, trunk)
        facts |= {
            "projector": str(projection.folder),
            "carb": projection.carb and asdict(projection.carb),
        }
    encoder = own.trunk.network if isinstance(own.trunk.network, Encoder) else None
    return [*subjects.floors(encoder, config.seed), own], {
        key: value for key, value in facts.items() if value is not None
    }


def rung(subject: Subject, line: Line) -> str:
    """What a line is called in the ladder."""
    if subject.role == subjects.FLOOR:
        return line.name
    if subject.role == subjects.OURS:
        return MAE if line.name == "raw" else CARB
    return f"{subject.title} {line.name}"


def open_tests(config: EvaluateConfig) -> dict[str, ShardSet]:
    """The shards of every test, opened and checked before the first begins. Raises ShardError or ConfigError."""
    find_benchmark(config.detection.benchmark)
    places = {
        "matching": config.matching.shards,
        "train": config.detection.train,
        "test": config.detection.test,
    }
    return {name: open_shards(place, config.cache_dir) for name, place in places.items() if place}


def evaluate_matching(
    config: EvaluateConfig, shards: ShardSet, ladder: list[Subject], device: torch.device
) -> dict:
    """The ladder on the pairs of PROTOCOL 3.4: scores, and comparisons of each rung with the others."""
    test, run_dir = config.matching, Path(config.run_dir)
    couples = min(test.couples, len(shards) // 2)
    frames = load_frames(shards, find_benchmark("mafl"), limit=2 * couples)
    pairs = pair_protocol.build_pairs(frames, seed=test.seed, couples=couples)
    pair_protocol.save_pairs(run_dir / "pairs.npz", pairs)
    found = {NO_MOTION: matching.no_motion(pairs)}
    for subject in ladder:
        trunk, lines = subject.trunk, subject.of(MATCHING)
        side = trunk.side(config.stride, matching=True)
        heads = {
            rung(subject, line): lambda maps, line=line: line.head(maps, side) for line in lines
        }
        with progress_bar(
            total=len(pairs), desc=f"matching, {subject.title}", unit="couple"
        ) as bar:
            found |= matching.matching_errors(
                lambda frames: trunk.maps(frames, config.stride),
                pairs,
                heads=heads,
                device=device,
                batch=subject.couples_at_once(config.runtime.batch_size, side),
                progress=lambda done, _: bar.update(done - bar.n),
            )
    parts = ("same", "different", "same_predicted", "different_predicted")
    with disk.replacing(run_dir / "matches.npz") as file:
        np.savez_compressed(
            file,
            **{
                f"{name}/{part}": getattr(value, part)
                for name, value in found.items()
                for part in parts
            },
        )
    return {
        "shards": masked(test.shards),
        "data_digest": shards.manifest.digest(),
        "seed": test.seed,
        "couples": len(pairs),
        "source_options": shards.manifest.options,
        "couples_of_one_identity": pairs.same_identity,
        "pairs_hash": pairs.hash,
        "stride": config.stride,
        "methods": {name: asdict(scores.score_matching(value)) for name, value in found.items()},
        "comparisons": _comparisons(found),
    }


def _comparisons(found: dict[str, matching.MatchingErrors]) -> list[dict]:
    """Each method against each that stands before it in the ladder, on the same pairs."""
    names = list(found)
    return [
        {
            "methods": [first, second],
            "kind": kind,
            **asdict(comparison),
            "is_decided": comparison.is_decided,
        }
        for i, first in enumerate(names)
        for second in names[:i]
        for kind, comparison in scores.compare_matching(found[first], found[second]).items()
    ]


def evaluate_detection(
    config: EvaluateConfig, shards: dict[str, ShardSet], ladder: list[Subject], device: torch.device
) -> dict:
    """Landmark regression on all annotations, per rung: mean error in % of the inter-ocular distance."""
    test, benchmark, run_dir = (
        config.detection,
        find_benchmark(config.detection.benchmark),
        Path(config.run_dir),
    )
    test_set = load_frames(shards["test"], benchmark)
    train_set = load_frames(shards["train"], benchmark, limit=test.limit)
    settings = regression.RegressionConfig(
        epochs=test.epochs,
        batch=test.batch_size,
        lr=test.lr,
        kernel=test.kernel,
        init_std=test.init_std,
        seed=config.seed,
    )
    found = {
        MEAN_FACE: regression.mean_face_errors(
            train_set.landmarks, test_set.landmarks, benchmark.eyes
        )
    }
    drawn: dict[str, Tensor] = {}
    for subject in ladder:
        lines, side = subject.of(DETECTION), subject.trunk.side(test.stride)
        maps = [_cached(subject, part, config, device) for part in (train_set, test_set) if lines]
        for line in lines:
            name, (train_maps, test_maps) = (
                rung(subject, line),
                (Cached(part, line.head, side, device) for part in maps),
            )
            regressor = _fit(name, train_maps, train_set, settings, device)
            drawn[name] = regression.predict(regressor, test_maps, device=device)
            save_regressor(
                run_dir / "regressors" / f"{name.replace(' ', '_')}.safetensors",
                regressor,
                benchmark.name,
                settings,
                subject.weights(line),
                stride=test.stride,
            )
            truth = normalise_landmarks(test_set.landmarks)
            found[name] = regression.iod_errors(drawn[name], truth, benchmark.eyes).mean(axis=1)
        del maps  # before the next are made: gigabytes
    with disk.replacing(run_dir / "detections.npz") as file:
        np.savez_compressed(
            file,
            keys=np.array(test_set.keys),
            **{f"{name}/predicted": value.numpy() for name, value in drawn.items()},
        )
    return {
        "benchmark": benchmark.name,
        "train_images": len(train_set),
        "test_images": len(test_set),
        "test_shards": masked(test.test),
        "is_subset": shards["test"].manifest.options.get("subset"),
        "stride": test.stride,
        "schedule": asdict(settings),
        "paper_targets": benchmark.targets,
        "methods": {
            name: asdict(scores.score_detection(value, benchmark)) for name, value in found.items()
        },
    }


def _cached(
    subject: Subject, frames: Frames, config: EvaluateConfig, device: torch.device
) -> list[Tensor]:
    with progress_bar(total=len(frames), desc=f"features, {subject.title}", unit="image") as bar:
        return cache_maps(
            subject.trunk,
            frames.images,
            config.detection.stride,
            batch=config.runtime.batch_size,
            device=device,
            progress=bar.update,
        )


def _fit(
    name: str,
    maps: Cached,
    frames: Frames,
    settings: regression.RegressionConfig,
    device: torch.device,
) -> regression.LandmarkRegressor:
    with progress_bar(total=settings.epochs, desc=f"regressor, {name}", unit="epoch") as bar:

        def show(epoch: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4f}")
            bar.update()

        return regression.train_regressor(
            maps, normalise_landmarks(frames.landmarks), settings, device=device, progress=show
        )


def table(results: dict) -> str:
    """The results as text: a line per method."""
    lines, show = [], _interval
    if found := results.get("matching"):
        lines += [
            f"matching: {found['couples']} couples, mean error in pixels of the 70-px frame [95% interval]",
            f"  {'':16} {'same identity':>22} {'different identity':>22}",
        ]
        lines += [
            f"  {name:16} {show(score['same']):>22} {show(score['different']):>22}"
            for name, score in found["methods"].items()
        ]
    if found := results.get("detection"):
        lines += [
            f"detection: {found['benchmark']}, {found['train_images']} training and {found['test_images']} test "
            f"images, {found['schedule']['epochs']} epochs, % of the inter-ocular distance"
        ]
        lines += [
            f"  {name:16} {show(score['error']):>22}" for name, score in found["methods"].items()
        ]
    return "\n".join(lines)


def _interval(estimate: dict) -> str:
    return f"{estimate['mean']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
