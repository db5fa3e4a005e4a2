"""`scemae evaluate`: landmark matching (paper 4.1) and detection (paper 4.2) of one run, from no
features to both stages.

    scemae evaluate run_dir=runs/eval run=runs/carb \\
                    matching.shards=data/celeba/mafl-test

It is `scemae tables` for one subject: the same plan and units (evaluation/measuring). Methods in
their order: no motion, raw pixels, a random encoder, MAE features, + CARB; all on the same pairs
and images. Writes results.json, pairs.npz (the pairs and their hash), matches.npz, contents.npz and
detections.npz (predictions, for figures).
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from scemae.config.load import load_config
from scemae.config.locations import masked
from scemae.config.schema.evaluation import (
    DetectionTest,
    EvaluateConfig,
    TablesConfig,
    TablesDetection,
    TablesMatching,
)
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.distributed import tf32
from scemae.distributed.process_group import Place, flush_denormals, process_group
from scemae.evaluation import scores, subjects
from scemae.evaluation.floors import floors
from scemae.evaluation.landmarks import matching, regression
from scemae.evaluation.landmarks.benchmark_frames import load_frames
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.landmarks.matching import ERROR_PARTS, MatchingErrors
from scemae.evaluation.landmarks.pairs import Pairs, build_pairs, save_pairs
from scemae.evaluation.landmarks.position import PARTS
from scemae.evaluation.measuring.measure import regression_settings
from scemae.evaluation.measuring.plan import MeasuringPlan, read_measured
from scemae.evaluation.measuring.testsets import TestSet
from scemae.evaluation.measuring.units import Arrays, measure_units
from scemae.evaluation.subject import (
    CONTENT,
    DETECTION,
    FLOOR,
    MATCHING,
    OURS,
    PLACES,
    Line,
    Subject,
)
from scemae.files import disk
from scemae.models.vit import Encoder
from scemae.process.stop_signals import StopRequest
from scemae.runs import given, run_folder

NO_MOTION, MEAN_FACE = "no motion", "mean face"
MAE = "MAE"  # other rows of ours: MAE + what stage 2 adds


def main(config: EvaluateConfig) -> None:
    """Evaluate what the config names; each test's results are in the run folder as soon as it is
    done.
    """
    StopRequest("measuring; what is measured is kept")
    flush_denormals()
    run_dir = Path(config.run_dir)
    with (
        process_group(config.runtime.device, config.runtime.hang_seconds) as place,
        run_folder.hold(run_dir, place, "evaluate") as generation,
    ):
        shards = open_tests(config)
        chosen, facts = choose_subjects(config)
        plan = plan_evaluation(config, place, chosen, shards)
        if place.is_first:
            run_folder.describe(run_dir, "evaluate", config, **facts)
            if plan.pairs is not None:
                save_pairs(run_dir / "pairs.npz", plan.pairs)
        results: dict = {"precision": str(plan.dtype).removeprefix("torch."), "tf32": tf32.state()}
        for test, gather in TESTS.items():
            units = [unit for unit in plan.units if unit.test in (test, *NEEDED.get(test, ()))]
            if not units:
                continue
            measure_units(units, generation, place)
            if place.is_first:
                results[test] = gather(config, plan, shards)
                disk.write_json(run_dir / "results.json", results)
    if place.is_first:
        print(table(results))


def open_tests(config: EvaluateConfig) -> dict[str, ShardSet]:
    """The shards of every test, opened and checked. Raises ShardError or ConfigError."""
    find_benchmark(config.detection.benchmark)
    places = {
        "matching": config.matching.shards,
        "train": config.detection.train,
        "test": config.detection.test,
    }
    return {name: open_shards(place, config.cache_dir) for name, place in places.items() if place}


def choose_subjects(config: EvaluateConfig) -> tuple[list[Subject], dict]:
    """The floors, then the run, and what provenance.json holds of them. Raises CheckpointError."""
    facts: dict = {"seed": config.seed}
    places = [None if one is None else Path(one) for one in _locations(config)]
    if not any(places):
        return floors(None, config.seed), facts
    chosen = given.of_options(*places, sign="")
    facts["backbone"] = str(chosen.backbone)
    own = subjects.of_given(chosen, [Path(one) for one in config.also])
    if found := own.projections:
        facts["projector"] = str(found[0].folder)
        facts["also"] = [str(one.folder) for one in found[1:]]
        if found[0].carb is not None:
            facts["carb"] = asdict(found[0].carb)
    encoder = own.trunk.network if isinstance(own.trunk.network, Encoder) else None
    return [*floors(encoder, config.seed), own], facts


def _locations(config: EvaluateConfig) -> tuple[str | None, str | None, str | None]:
    return config.run, config.backbone, config.projector


def plan_evaluation(
    config: EvaluateConfig, place: Place, chosen: list[Subject], shards: dict[str, ShardSet]
) -> MeasuringPlan:
    """Matching on `matching.shards`, detection on one benchmark. Raises ShardError, ConfigError."""
    for subject in chosen:
        subject.lines = [line for line in subject.lines if line.test in (MATCHING, DETECTION)]
    benchmark, data, pairs = find_benchmark(config.detection.benchmark), {}, None
    if "test" in shards:
        data[benchmark.name] = TestSet(benchmark, shards["test"], shards["train"])
    if "matching" in shards:
        pairs = _pairs(config, shards["matching"])
    return MeasuringPlan(
        as_tables(config), place, chosen, data, pairs=pairs, missing={}, name_regressor=_file_name
    )


def _pairs(config: EvaluateConfig, shards: ShardSet) -> Pairs:
    couples = min(config.matching.couples, len(shards) // 2)
    frames = load_frames(shards, find_benchmark("mafl"), limit=2 * couples)
    return build_pairs(frames, seed=config.matching.seed, couples=couples)


def as_tables(config: EvaluateConfig) -> TablesConfig:
    """The settings of `scemae tables` that measure the same."""
    tables: TablesConfig = load_config("tables", [f"seed={config.seed}", "run_dir=-"])
    tables.run_dir, tables.stride, tables.runtime = config.run_dir, config.stride, config.runtime
    asked = config.matching
    # One chunk: batches of couples must not depend on where a chunk ends, to the last bit.
    tables.matching = TablesMatching(
        asked.couples, asked.seed, asked.place_images, chunk=asked.couples
    )
    shared = {one.name: getattr(config.detection, one.name) for one in fields(DetectionTest)}
    tables.detection = TablesDetection(
        **shared, benchmarks=[config.detection.benchmark], train_on={}, hold_out={}
    )
    return tables


def name_of(subject: Subject, line: Line) -> str:
    """A method's name in the results."""
    if subject.role == FLOOR:
        return line.name
    if subject.role == OURS:
        return MAE if line.name == "raw" else f"{MAE} + {line.added}"
    return f"{subject.title} {line.name}"


def _file_name(subject: Subject, line: Line, benchmark: str) -> str:
    return name_of(subject, line).replace(" ", "_")


def gather_matching(
    config: EvaluateConfig, plan: MeasuringPlan, shards: dict[str, ShardSet]
) -> dict:
    """The results of matching; matches.npz gets all predictions."""
    pairs, manifest = plan.pairs, shards["matching"].manifest
    assert pairs is not None
    found = {NO_MOTION: matching.no_motion(pairs)} | {
        name_of(one.subject, one.line): one.matching_errors(pairs.hash)
        for one in read_measured(plan, MATCHING)
    }
    _save_arrays(
        Path(config.run_dir) / "matches.npz",
        {
            f"{name}/{part}": getattr(errors, part)
            for name, errors in found.items()
            for part in ERROR_PARTS
        },
    )
    return {
        "shards": masked(config.matching.shards or ""),
        "data_digest": manifest.digest(),
        "seed": config.matching.seed,
        "couples": len(pairs),
        "source_options": manifest.options,
        "couples_of_one_identity": pairs.same_identity,
        "pairs_hash": pairs.hash,
        "stride": config.stride,
        "methods": {name: asdict(scores.score_matching(errors)) for name, errors in found.items()},
        "comparisons": _comparisons(found),
    }


def _comparisons(found: dict[str, MatchingErrors]) -> list[dict]:
    """Each method against each one before it, on the same pairs."""
    return [
        {**_comparison(first, second, comparison), "kind": kind}
        for first, second in _each_before(found)
        for kind, comparison in scores.compare_matching(found[first], found[second]).items()
    ]


def _each_before(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each name with each one before it."""
    return ((one, other) for i, one in enumerate(found) for other in list(found)[:i])


def _comparison(first: str, second: str, found: scores.Comparison) -> dict:
    return {"methods": [first, second], **asdict(found), "is_decided": found.is_decided}


def gather_content(
    config: EvaluateConfig, plan: MeasuringPlan, shards: dict[str, ShardSet]
) -> dict:
    """The position share of each method's features, and its errors on different faces by content
    alone and by position alone; contents.npz gets all predictions.
    """
    errors: dict[str, Arrays] = {}
    predicted: Arrays = {}
    for one in read_measured(plan, CONTENT):
        name = name_of(one.subject, one.line)
        errors[name] = {part: one.values[f"{part}/different"] for part in PARTS}
        predicted |= {f"{name}/{key}": value for key, value in one.arrays.items()}
    places = {name_of(one.subject, one.line): one.arrays for one in read_measured(plan, PLACES)}
    predicted |= {f"{name}/means": found["means"] for name, found in places.items()}
    _save_arrays(Path(config.run_dir) / "contents.npz", predicted)
    return {
        "images": int(next(iter(places.values()))["images"]),
        "train_shards": masked(config.detection.train or ""),
        "methods": {
            name: {
                "position_share": float(found["share"]),
                **{part: asdict(scores.bootstrap(errors[name][part])) for part in PARTS},
            }
            for name, found in places.items()
        },
    }


def gather_detection(
    config: EvaluateConfig, plan: MeasuringPlan, shards: dict[str, ShardSet]
) -> dict:
    """Mean errors in % of the inter-ocular distance, by method; detections.npz gets all
    predictions.
    """
    asked, benchmark = config.detection, find_benchmark(config.detection.benchmark)
    data = plan.data[benchmark.name]
    train, test = data.frames("train", asked.limit), data.frames("test")
    floor = regression.mean_face_errors(train.landmarks, test.landmarks, benchmark.eyes)
    errors, predicted, chosen = {MEAN_FACE: floor}, {}, {}
    for one in read_measured(plan, DETECTION):
        name = name_of(one.subject, one.line)
        errors[name] = one.values[benchmark.name]
        predicted[f"{name}/predicted"] = one.arrays["predicted"]
        if "weight_decay" in one.arrays:  # not in those of an earlier version
            known = ("stage_2_weight", "weight_decay")
            chosen[name] = {key: float(one.arrays[key]) for key in known}
    is_choice = len(asked.stage_2_weights) > 1 or len(asked.weight_decays) > 1
    path = Path(config.run_dir) / "detections.npz"
    _save_arrays(path, {"keys": np.array(test.keys), **predicted})
    return {
        "benchmark": benchmark.name,
        "train_images": len(train),
        "test_images": len(test),
        "test_shards": masked(asked.test or ""),
        "is_subset": shards["test"].manifest.options.get("subset"),
        "stride": asked.stride,
        "schedule": asdict(regression_settings(plan.config.detection, config.seed)),
        "chosen_on_held_out": chosen if is_choice else {},
        "paper_targets": benchmark.targets,
        "methods": {
            name: asdict(scores.score_detection(value, benchmark)) for name, value in errors.items()
        },
        "comparisons": [
            _comparison(first, second, scores.compare(errors[first], errors[second]))
            for first, second in _each_before(errors)
        ],
    }


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    with disk.replacing(path) as file:
        save: Callable = np.savez_compressed  # whose type takes no arrays by name
        save(file, **arrays)


# The functions that gather the results of each test.
Gather = Callable[[EvaluateConfig, MeasuringPlan, dict[str, ShardSet]], dict]
TESTS: dict[str, Gather] = {
    MATCHING: gather_matching,
    CONTENT: gather_content,
    DETECTION: gather_detection,
}
NEEDED = {CONTENT: (PLACES,)}  # units of other tests that a test reads


def table(results: dict) -> str:
    """The results as text: a line per method."""
    lines, show = [], _interval
    if found := results.get("matching"):
        lines += [
            f"matching: {found['couples']} couples, mean error in pixels of the 70-px frame "
            "[95% interval]",
            f"  {'':16} {'same identity':>22} {'different identity':>22}",
        ]
        lines += [
            f"  {name:16} {show(score['same']):>22} {show(score['different']):>22}"
            for name, score in found["methods"].items()
        ]
    if found := results.get("content"):
        lines += [
            f"position and content: place means of {found['images']} training faces",
            f"  {'':16} {'position share':>22} {'different, content':>22} {'position only':>22}",
        ]
        lines += [
            f"  {name:16} {100 * score['position_share']:>20.0f} % {show(score['content']):>22} "
            f"{show(score['position']):>22}"
            for name, score in found["methods"].items()
        ]
    if found := results.get("detection"):
        lines += [
            f"detection: {found['benchmark']}, {found['train_images']} training and "
            f"{found['test_images']} test images, {found['schedule']['epochs']} epochs, "
            "% of the inter-ocular distance"
        ]
        lines += [
            f"  {name:16} {show(score['error']):>22}" for name, score in found["methods"].items()
        ]
    return "\n".join(lines)


def _interval(estimate: dict) -> str:
    return f"{estimate['mean']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
