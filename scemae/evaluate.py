"""`scemae evaluate`: landmark matching (paper 4.1) and detection (paper 4.2) for the whole ladder of features.

    scemae evaluate run_dir=runs/eval backbone=runs/mae projector=runs/carb matching.shards=data/celeba/mafl-test

The ladder: no motion, raw pixels, a random encoder, MAE features, + CARB; all on the same pairs and the same images.
Writes results.json, pairs.npz (the pairs and their hash), matches.npz and detections.npz (predictions, for pictures).
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from scemae import restore, run_folder
from scemae.data.manifest import write_json
from scemae.data.reader import ShardSet, open_shards
from scemae.distributed import choose_device, keep_freed_memory, precision
from scemae.landmarks import features, matching, pairs as pair_protocol, regression, scores
from scemae.landmarks.benchmarks import Frames, find_benchmark, load_frames, normalise_landmarks
from scemae.models.vit import Encoder
from scemae.schema import EvaluateConfig

NO_MOTION, PIXELS, PATCHES, RANDOM = "no motion", "raw pixels", "raw 9x9 patches", "random encoder"
MAE, CARB = "MAE", "MAE + CARB"
MEAN_FACE = "mean face"


def main(config: EvaluateConfig) -> None:
    """Evaluate what the config names; each test's results are in the run folder as soon as it is done."""
    run_dir, device = Path(config.run_dir), choose_device(config.runtime.device)
    if device.type == "cpu":
        keep_freed_memory()
    dtype = precision(config.runtime.precision, device)
    with run_folder.own(run_dir, "evaluate"):
        shards = open_tests(config)
        encoder = projector = None
        facts: dict = {"seed": config.seed}
        if config.backbone:
            encoder, folder = restore.load_encoder(Path(config.backbone))
            encoder, facts["backbone"] = encoder.to(device, dtype), str(folder)
            if config.projector:
                projector, carb, place = restore.load_projector(Path(config.projector), folder)
                projector, facts["projector"], facts["carb"] = projector.to(device), str(place), asdict(carb)
        run_folder.describe(run_dir, "evaluate", config, **facts)
        results: dict = {"precision": str(dtype).removeprefix("torch.")}
        if "matching" in shards:
            results["matching"] = evaluate_matching(config, shards["matching"], encoder, projector, device)
            write_json(run_dir / "results.json", results)
        if "test" in shards:
            results["detection"] = evaluate_detection(config, shards, encoder, projector, device)
            write_json(run_dir / "results.json", results)
    print(table(results))


def open_tests(config: EvaluateConfig) -> dict[str, ShardSet]:
    """The shards of every test, opened and checked before the first begins. Raises ShardError or ConfigError."""
    find_benchmark(config.detection.benchmark)
    places = {"matching": config.matching.shards, "train": config.detection.train, "test": config.detection.test}
    return {name: open_shards(place, config.cache_dir) for name, place in places.items() if place}


def random_like(encoder: Encoder, seed: int) -> Encoder:
    """An encoder of the same shape, freshly initialised: what the architecture alone gives."""
    torch.manual_seed(seed)
    fresh = Encoder(encoder.width, len(encoder.blocks), encoder.blocks[0].attn.num_heads, encoder.patch_size,
                    encoder.grid * encoder.patch_size)
    weight = encoder.patch_embed.weight
    return fresh.to(weight.device, weight.dtype).eval().requires_grad_(False)


def evaluate_matching(config: EvaluateConfig, shards: ShardSet, encoder: Encoder | None,
                      projector: nn.Module | None, device: torch.device) -> dict:
    """The ladder on the pairs of PROTOCOL 3.4: scores, and comparisons of each rung with the others."""
    test, run_dir = config.matching, Path(config.run_dir)
    couples = min(test.couples, len(shards) // 2)
    frames = load_frames(shards, find_benchmark("mafl"), limit=2 * couples)
    pairs = pair_protocol.build_pairs(frames, seed=test.seed, couples=couples)
    pair_protocol.save_pairs(run_dir / "pairs.npz", pairs)

    def errors(name: str, extract: matching.Extract, heads: dict[str, matching.Head] | None = None):
        with tqdm(total=len(pairs), desc=f"matching, {name}", unit="couple", dynamic_ncols=True) as bar:
            return matching.matching_errors(extract, pairs, heads=heads, device=device,
                                            batch=max(config.runtime.batch_size // 3, 1),
                                            progress=lambda done, _: bar.update(done - bar.n))

    found = {NO_MOTION: matching.no_motion(pairs), PIXELS: errors(PIXELS, matching.pixels)["features"],
             PATCHES: errors(PATCHES, matching.patches)["features"]}
    if encoder is not None:
        rung = features.backbone(random_like(encoder, config.seed), config.stride)
        found[RANDOM] = errors(RANDOM, rung)["features"]
        heads: dict[str, matching.Head] = {MAE: lambda maps: maps}
        if projector is not None:
            heads[CARB] = projector
        found |= errors(MAE, features.backbone(encoder, config.stride), heads)
    parts = ("same", "different", "same_predicted", "different_predicted")
    np.savez_compressed(run_dir / "matches.npz", **{f"{name}/{part}": getattr(value, part)
                                                    for name, value in found.items() for part in parts})
    return {"shards": test.shards, "data_digest": shards.manifest.digest(), "seed": test.seed, "couples": len(pairs),
            "source_options": shards.manifest.options, "couples_of_one_identity": pairs.same_identity,
            "pairs_hash": pairs.hash, "stride": config.stride,
            "methods": {name: asdict(scores.score_matching(value)) for name, value in found.items()},
            "comparisons": _comparisons(found)}


def _comparisons(found: dict[str, matching.MatchingErrors]) -> list[dict]:
    """Each method against each that stands before it in the ladder, on the same pairs."""
    names = list(found)
    return [{"methods": [first, second], "kind": kind, **asdict(comparison), "is_decided": comparison.is_decided}
            for i, first in enumerate(names) for second in names[:i]
            for kind, comparison in scores.compare_matching(found[first], found[second]).items()]


def evaluate_detection(config: EvaluateConfig, shards: dict[str, ShardSet], encoder: Encoder | None,
                       projector: nn.Module | None, device: torch.device) -> dict:
    """Landmark regression on all annotations, per method: mean error in % of the inter-ocular distance."""
    test, benchmark = config.detection, find_benchmark(config.detection.benchmark)
    test_set = load_frames(shards["test"], benchmark)
    train_set = load_frames(shards["train"], benchmark, limit=test.limit)
    settings = regression.RegressionConfig(epochs=test.epochs, batch=test.batch_size, lr=test.lr, kernel=test.kernel,
                                           init_std=test.init_std, seed=config.seed)
    found = {MEAN_FACE: regression.mean_face_errors(train_set.landmarks, test_set.landmarks, benchmark.eyes)}
    drawn: dict[str, Tensor] = {}
    if encoder is not None:
        for name, extract, widths in _detection_ladder(config, encoder, projector):
            known = [_cached(name, extract, part, device, config.runtime.batch_size) for part in (train_set, test_set)]
            for rung, width in widths.items():
                train_maps, test_maps = (maps[:, :width] for maps in known)
                regressor = _fit(rung, train_maps, train_set, settings, device)
                drawn[rung] = regression.predict(regressor, test_maps, device=device)
                truth = normalise_landmarks(test_set.landmarks)
                found[rung] = regression.iod_errors(drawn[rung], truth, benchmark.eyes).mean(axis=1)
            del known, train_maps, test_maps  # before the next are made: gigabytes
    np.savez_compressed(Path(config.run_dir) / "detections.npz", keys=np.array(test_set.keys),
                        **{f"{name}/predicted": value.numpy() for name, value in drawn.items()})
    return {"benchmark": benchmark.name, "train_images": len(train_set), "test_images": len(test_set),
            "test_shards": test.test, "is_subset": shards["test"].manifest.options.get("subset"), "stride": test.stride,
            "schedule": asdict(settings), "paper_targets": benchmark.targets,
            "methods": {name: asdict(scores.score_detection(value, benchmark)) for name, value in found.items()}}


def _detection_ladder(config: EvaluateConfig, encoder: Encoder,
                      projector: nn.Module | None) -> list[tuple[str, matching.Extract, dict[str, int]]]:
    """What to extract once, and which leading channels each rung reads: stage 1 alone, and both stages joined."""
    stride = config.detection.stride
    first = features.backbone(encoder, stride)

    def joined(frames: Tensor) -> Tensor:
        maps = first(frames)
        return regression.join_stages(maps, projector(maps)) if projector is not None else _unit(maps)

    rungs = {MAE: encoder.width}
    if projector is not None:
        rungs[CARB] = encoder.width + projector.out
    blank = features.backbone(random_like(encoder, config.seed), stride)
    return [(RANDOM, lambda frames: _unit(blank(frames)), {RANDOM: encoder.width}), (MAE, joined, rungs)]


def _unit(maps: Tensor) -> Tensor:
    return nn.functional.normalize(maps, dim=1)


def _cached(name: str, extract: matching.Extract, frames: Frames, device: torch.device, batch: int) -> Tensor:
    with tqdm(total=len(frames), desc=f"features, {name}", unit="image", dynamic_ncols=True) as bar:
        return regression.cache_features(extract, frames.images, batch=batch, device=device,
                                         progress=lambda done, _: bar.update(done - bar.n))


def _fit(name: str, maps: Tensor, frames: Frames, settings: regression.RegressionConfig,
         device: torch.device) -> regression.LandmarkRegressor:
    with tqdm(total=settings.epochs, desc=f"regressor, {name}", unit="epoch", dynamic_ncols=True) as bar:
        def show(epoch: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4f}")
            bar.update()

        return regression.train_regressor(maps, normalise_landmarks(frames.landmarks), settings, device=device,
                                          progress=show)


def table(results: dict) -> str:
    """The results as text: a line per method."""
    lines, show = [], _interval
    if found := results.get("matching"):
        lines += [f"matching: {found['couples']} couples, mean error in pixels of the 70-px frame [95% interval]",
                  f"  {'':16} {'same identity':>22} {'different identity':>22}"]
        lines += [f"  {name:16} {show(score['same']):>22} {show(score['different']):>22}"
                  for name, score in found["methods"].items()]
    if found := results.get("detection"):
        lines += [f"detection: {found['benchmark']}, {found['train_images']} training and {found['test_images']} test "
                  f"images, {found['schedule']['epochs']} epochs, % of the inter-ocular distance"]
        lines += [f"  {name:16} {show(score['error']):>22}" for name, score in found["methods"].items()]
    return "\n".join(lines)


def _interval(estimate: dict) -> str:
    return f"{estimate['mean']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
