"""The paper's matching test as a share of this machine's peak for matrix products.

    python -m bench matching [--couples 16] [--model deit_small] [--stride 2] [--out DIR]

1,000 pairs with DeiT-S at stride 2 are 157 TFLOP. The peak is measured in the same run. Weights are
random: speed does not depend on them. Only the encoder's products are counted (models/flops.py);
cover-and-stride, projector, upsampling and search are timed as well.
"""

import argparse
import time
from collections.abc import Callable

import torch

from bench import faces, machine
from bench.repeat import interleave, summary
from scemae.config.load import load_config
from scemae.config.schema.training import Model
from scemae.data.storage.shard_set import open_shards
from scemae.distributed.process_group import choose_device, keep_freed_memory, precision
from scemae.evaluation.landmarks import features
from scemae.evaluation.landmarks.benchmark_frames import load_frames
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.landmarks.matching import matching_errors
from scemae.evaluation.landmarks.pairs import build_pairs
from scemae.models import flops
from scemae.models.projector import Projector
from scemae.models.vit import Encoder
from scemae.training import utilisation

VIEWS = 3  # of a couple: source, same, different


def main(argv: list[str]) -> int:
    """Measure and write matching.json and matching.md."""
    options = parse(argv)
    device = choose_device(options.device)
    dtype = precision(options.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    model = load_config("pretrain", ["run_dir=-", f"model={options.model}"]).model
    match = matching_test(options, model, device, dtype)
    match()
    found = interleave(
        {"peak": lambda: utilisation.peak_flops(device, dtype), "matching": match}, options.repeats
    )
    row = row_of(options, found, work(model, options.stride, 500))
    machine.write(f"matching-{options.precision}", options.out, [row], machine.facts())
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench matching", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--couples", type=int, default=16, help="couples of a round (16)")
    parser.add_argument("--model", default="deit_small")
    parser.add_argument("--stride", type=int, default=2)
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--batch", type=int, default=24, help="images that go through the encoder together (24)"
    )
    parser.add_argument("--out", default=machine.OUT)
    return parser.parse_args(argv)


def work(model: Model, stride: int, couples: int) -> float:
    """Operations of the encoder for so many couples of the matching test."""
    passes = (8 // stride) ** 2
    return flops.encoder(model) * passes * VIEWS * couples


def matching_test(
    options: argparse.Namespace, model: Model, device: torch.device, dtype: torch.dtype
) -> Callable[[], float]:
    """A function that runs the matching test once and returns its operations per second."""
    encoder = (
        Encoder(model.width, model.depth, model.heads)
        .to(device, dtype)
        .eval()
        .requires_grad_(False)
    )
    projector = Projector("linear", model.width, 128).to(device).eval().requires_grad_(False)
    trunk = features.vit_trunk(encoder)
    frames = load_frames(
        open_shards(str(faces.shards(250))), find_benchmark("mafl"), limit=2 * options.couples
    )
    pairs = build_pairs(frames, couples=options.couples)
    operations = work(model, options.stride, len(pairs))

    def match() -> float:
        started = time.perf_counter()
        matching_errors(
            lambda images: trunk.maps(images, options.stride),
            pairs,
            device=device,
            batch=options.batch // VIEWS,
            heads={"": lambda maps: projector(maps[0])},
        )
        return operations / (time.perf_counter() - started)

    return match


def row_of(
    options: argparse.Namespace, found: dict[str, list[float]], whole: float
) -> dict[str, object]:
    """The row of the table. whole: operations of 1,000 pairs."""
    share = [mine / peak for mine, peak in zip(found["matching"], found["peak"], strict=True)]
    return {
        "model": options.model,
        "stride": options.stride,
        "precision": options.precision,
        "TFLOP of 1,000 pairs": whole / 1e12,
        "GFLOP/s": summary(found["matching"])["median"] / 1e9,
        "peak GFLOP/s": summary(found["peak"])["median"] / 1e9,
        "share of peak": f"{summary(share)['median']:.0%}",
        "least": f"{min(share):.0%}",
        "most": f"{max(share):.0%}",
        "minutes for 1,000 pairs": whole / summary(found["matching"])["median"] / 60,
        "repeats": share,
    }
