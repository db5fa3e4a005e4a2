"""python -m bench stage2: an epoch of CARB with and without the token store, and of CL.

  python -m bench stage2 [--model deit_small] [--shards SHARDS | --faces 600] [--device cpu]

store     `scemae correspond`: tokens from the store, projector and loss by DeepSpeed
without   views, the frozen backbone and the selection in every step, then the same step
CL        the same views through ResNet-50's hypercolumn, projector and loss

All at the recipe's batch of 32, in turns. Also: the cost of filling the store, from images and from
the store of the third block; after how many epochs that cost is recovered; bytes per image; and
cover-and-stride's share of the peak.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from bench import faces, machine, training_step
from bench.peers import contrast_landmark
from bench.repeat import interleave, ratio, summary
from scemae.config.load import load_config
from scemae.config.schema.training import CorrespondConfig
from scemae.data.order import Order, Slice
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.distributed import engine as engines
from scemae.distributed.process_group import Place, precision, process_group
from scemae.evaluation.landmarks import features
from scemae.methods import carb, mae
from scemae.methods.carb import selection_options
from scemae.models import flops
from scemae.models.carb import select, third
from scemae.models.vit import Encoder
from scemae.training import utilisation
from scemae.training.feed import Feed, trunk_views
from scemae.training.record_file import RecordFile
from scemae.training.token_fill import Fill
from scemae.training.token_store import TokenStore, open_tokens

CELEBA = 146_501  # images, without MAFL (PROTOCOL 1.4)
Block = Callable[[], float]


def main(argv: list[str]) -> int:
    """Measure and write stage2.json and .md, stage2-store, stage2-sizes and stage2-expand."""
    parser = argparse.ArgumentParser(
        "python -m bench stage2",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        default="deit_small",
        help="deit_tiny, deit_small, deit_base or demo (deit_small)",
    )
    parser.add_argument("--shards", type=Path)
    parser.add_argument(
        "--faces", type=int, default=600, help="generated faces, where no shards are given (600)"
    )
    parser.add_argument(
        "--views", type=int, default=2, help="views that are filled to measure filling (2)"
    )
    parser.add_argument(
        "--images", type=int, default=384, help="images of each block without the store (384)"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default=machine.OUT)
    options = parser.parse_args(argv)
    shards = open_shards(str(options.shards or faces.shards(options.faces)))
    with tempfile.TemporaryDirectory() as folder, process_group(options.device) as place:
        config = settings(options, Path(folder), place)
        encoder = backbone(options.model, place, config)
        facts = machine.facts() | {
            "model": options.model,
            "batch": config.optim.global_batch_size,
            "images": len(shards),
        }
        store, rows = filling(config, encoder, shards, place)
        machine.write(
            "stage2",
            options.out,
            epochs(options, config, encoder, shards, place, store, rows),
            facts,
        )
        machine.write("stage2-store", options.out, rows, facts)
        machine.write("stage2-sizes", options.out, sizes(config), facts)
        machine.write("stage2-expand", options.out, [expanding(encoder, place)], facts)
    return 0


def settings(options: argparse.Namespace, folder: Path, place: Place) -> CorrespondConfig:
    """The settings of `scemae correspond`."""
    return load_config(
        "correspond",
        [
            f"run_dir={folder}/run",
            "backbone=none",
            f"store.dir={folder}/tokens",
            f"views={options.views}",
            f"runtime.device={place.device.type}",
        ],
    )


def backbone(model: str, place: Place, config: CorrespondConfig) -> Encoder:
    """A frozen encoder of this size, with random weights."""
    sizes = load_config("pretrain", ["run_dir=none", f"model={model}"])
    built = mae.build(mae.Settings(sizes.model, sizes.decoder, 0.75, False), seed=0)
    return (
        built.encoder.eval()
        .requires_grad_(False)
        .to(place.device, precision(config.runtime.precision, place.device))
    )


def filling(
    config: CorrespondConfig, encoder: Encoder, shards: ShardSet, place: Place
) -> tuple[TokenStore, list[dict]]:
    """The filled store, and view images per second of filling it."""
    order = Order(len(shards), config.seed, config.optim.global_batch_size)
    stop = config.views * len(shards) // config.optim.global_batch_size

    def timed(*overrides: tuple[str, str, object]) -> tuple[TokenStore, float]:
        for section, name, value in overrides:
            setattr(getattr(config, section), name, value)
        started = time.perf_counter()
        folder = Path(config.store.dir) / "x" / "y" / "z"
        fill = Fill(config, encoder, (folder, "bench"), shards, place, lambda: None)
        store = open_tokens(fill, order, stop)
        training_step.wait_for(place.device)
        return store, stop * config.optim.global_batch_size / (time.perf_counter() - started)

    eta, clusters = config.carb.eta, config.carb.clusters
    rates = {
        "from images": timed()[1],
        "from images, keeping the third block": timed(
            ("carb", "clusters", clusters + 1), ("store", "keep_third", True)
        )[1],
        "another eta and K_c, from the third block": timed(
            ("carb", "clusters", clusters + 2), ("carb", "eta", 0.2)
        )[1],
    }
    store, _ = timed(
        ("carb", "clusters", clusters), ("carb", "eta", eta), ("store", "keep_third", False)
    )
    return store, [{"store": name, "view images/s": rate} for name, rate in rates.items()]


def epochs(
    options: argparse.Namespace,
    config: CorrespondConfig,
    encoder: Encoder,
    shards: ShardSet,
    place: Place,
    store: TokenStore,
    fills: list[dict],
) -> list[dict]:
    """Images/s with the store, without it, and of CL; the epoch from which the store is faster."""
    views = source_of_views(config, encoder, shards, place)
    slow_steps = max(options.images // config.optim.global_batch_size, 1)
    cases = {
        "store": ours(
            config,
            encoder,
            place,
            store.batches(slices(shards, config), lambda *_: None),
            20 * slow_steps,
        ),
        "without": ours(config, encoder, place, selected(config, encoder, views), slow_steps),
        "CL": hypercolumn(config, place, views, slow_steps),
    }
    for case in cases.values():
        case()
    found = interleave(cases, options.repeats)
    fast, slow, fill = (
        summary(found["store"])["median"],
        summary(found["without"])["median"],
        fills[0]["view images/s"],
    )
    paid = (1 / fill) / (1 / slow - 1 / fast)
    kept = {
        "store": f"{store.record_bytes:,} kept",
        "without": f"{4 * encoder.width * encoder.grid**2:,} at a time",
        "CL": f"{4 * contrast_landmark.CHANNELS * contrast_landmark.PLACES**2:,} at a time",
    }
    return [
        {
            "case": name,
            "images/s": summary(values)["median"],
            "least": min(values),
            "most": max(values),
            "store is so many times faster": ratio(found["store"], values),
            "minutes for an epoch of CelebA": CELEBA / summary(values)["median"] / 60,
            "bytes of features per image": kept[name],
            "pays after, epochs per view": paid if name == "store" else None,
            "repeats": values,
        }
        for name, values in found.items()
    ]


def slices(shards: ShardSet, config: CorrespondConfig) -> Iterator[Slice]:
    """The order of a run, without end."""
    order = Order(len(shards), config.seed, config.optim.global_batch_size)
    for number in count():
        step = number % (config.views * len(shards) // order.global_batch_size)
        yield from order.slices(step, 0, 1, 1)


def source_of_views(
    config: CorrespondConfig, encoder: Encoder, shards: ShardSet, place: Place
) -> Iterator[tuple]:
    """Views (b, 3, 96, 96) and weights (b,), cut in each step as a run without the store would."""
    views = trunk_views(encoder.image_size, config.data.scale)
    feed = Feed(config, shards, place, views, lambda: None)
    feed.open_frames(2**40)
    return feed.batches(slices(shards, config), lambda *_: None)


def selected(
    config: CorrespondConfig, encoder: Encoder, views: Iterator[tuple]
) -> Iterator[tuple[Tensor, ...]]:
    """The arguments of CARB, computed again for each step."""
    for images, weights in views:
        early = third(encoder, images, config.carb.layer, config.carb.heads)
        chosen = select(encoder, early, **selection_options(config.carb))
        yield chosen.tokens, chosen.ids, chosen.slot, weights


def ours(
    config: CorrespondConfig, encoder: Encoder, place: Place, feed: Iterator[tuple], steps: int
) -> Block:
    """Images per second of so many steps of CARB through the engine."""
    engine = engines.start(
        carb.build(carb.Settings(config.carb), encoder, seed=0),
        config.optim,
        config.runtime,
        place,
        1,
    )

    def block() -> float:
        training_step.wait_for(place.device)
        started = time.perf_counter()
        for _ in range(steps):
            engine.backward(engine(*next(feed)))
            engine.step()
        training_step.wait_for(place.device)
        return steps * config.optim.global_batch_size / (time.perf_counter() - started)

    return block


def hypercolumn(
    config: CorrespondConfig, place: Place, views: Iterator[tuple], steps: int
) -> Block:
    """The same of CL, a plain torch loop with its optimizer."""
    module = contrast_landmark.ContrastLandmark(config.carb.dim).to(place.device)
    optimizer = torch.optim.Adam(
        module.projector.parameters(), lr=1e-3, betas=(0.5, 0.999), weight_decay=5e-4
    )

    def block() -> float:
        training_step.wait_for(place.device)
        started = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            module(next(views)[0]).backward()
            optimizer.step()
        training_step.wait_for(place.device)
        return steps * config.optim.global_batch_size / (time.perf_counter() - started)

    return block


def sizes(config: CorrespondConfig) -> list[dict]:
    """Bytes per view image and GB per view of CelebA, for each model at the paper's eta and K_c."""
    rows = []
    for model, eta in (("deit_tiny", 0.1), ("deit_small", 0.1), ("deit_base", 0.25)):
        sizes = load_config("pretrain", ["run_dir=none", f"model={model}"])
        config.carb.eta = eta
        built = Encoder(sizes.model.width, 4, sizes.model.heads)
        fill = Fill(config, built, (Path("none"), ""), None, None, lambda: None)
        for name, fields in (
            ("selected", fill.selected_fields()),
            ("third block, fp32", fill.third_fields()),
        ):
            size = RecordFile(Path("none"), "none", {}, fields, 0).type.itemsize
            rows.append(
                {
                    "store": name,
                    "model": model,
                    "eta": eta,
                    "bytes per view image": size,
                    "GB per view of CelebA": size * CELEBA / 1e9,
                }
            )
    config.carb.eta = 0.1
    return rows


def expanding(encoder: Encoder, place: Place) -> dict:
    """Cover-and-stride at stride 2: images per second, and its share of the measured peak."""
    extract, frames = features.backbone(encoder, 2), torch.rand(8, 3, 136, 136, device=place.device)
    extract(frames)
    training_step.wait_for(place.device)
    started = time.perf_counter()
    for _ in range(3):
        extract(frames)
    training_step.wait_for(place.device)
    rate = 24 / (time.perf_counter() - started)
    blocks = flops.blocks(1 + encoder.grid**2, encoder.width, len(encoder.blocks))
    peak = utilisation.peak_flops(place.device, encoder.patch_embed.weight.dtype)
    return {
        "cover-and-stride": "stride 2, 16 crops",
        "images/s": rate,
        "of the peak": f"{16 * blocks * rate / peak:.0%}",
    }
