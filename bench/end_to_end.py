"""Stage 1 from shards to weights: `scemae pretrain` against the official recipe's loop."""

# isort: off
import scemae.models.torchvision_cpu  # noqa: F401  before timm and lightly, which import torchvision

# isort: on
import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bench import runs, training_step
from bench.peers import mae_plain
from bench.repeat import interleave
from scemae.config.schema.training import Data
from scemae.data.augment import MEAN, STD
from scemae.data.geometry import CELEBA_SIZE, celeba_box
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.distributed.process_group import choose_device, keep_freed_memory, precision
from scemae.models import flops
from scemae.training import utilisation

BEATS = 2  # measured heartbeats of a run, after one that warms up


def measure(options: argparse.Namespace) -> tuple[list[dict], dict]:
    """A row for ours and one for plain, and facts; each repeat of ours is a run of its own."""
    config = training_step.settings(options)
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    gflop = flops.autoencoder_step(config.model, config.decoder, config.mask_ratio) / 1e9
    peak = utilisation.peak_flops(device, precision(options.precision, device)) / 1e9
    waits: list[float] = []
    plain = PlainLoop(options, device)
    found = interleave(
        {"ours": lambda: run_ours(options, waits), "plain": plain.block}, options.repeats
    )
    rows = training_step.table(found, gflop, peak)
    rows[0]["% waiting for data"], rows[1]["% waiting for data"] = 100 * max(waits), None
    return rows, {
        "batch": options.batch,
        "steps per repeat": BEATS * options.steps,
        "repeats": options.repeats,
        "precision": options.precision,
        "tier of ours": options.tier,
        "workers": options.workers,
        "images": len(open_shards(str(options.end_to_end))),
        "GFLOP per image": gflop,
        "peak GFLOP/s": peak,
    }


def run_ours(options: argparse.Namespace, waits: list[float]) -> float:
    """Images/s of one run, from its heartbeats after the first; appends its data wait, of 1."""
    total = (1 + BEATS) * options.steps
    epochs = total * options.batch / len(open_shards(str(options.end_to_end)))
    with tempfile.TemporaryDirectory() as folder:
        rows = runs.finished(
            Path(folder) / "run",
            options.end_to_end,
            f"model={options.model}",
            f"decoder={options.decoder}",
            f"optim.epochs={epochs}",
            f"optim.global_batch_size={options.batch}",
            f"runtime.micro_batch_size={options.batch}",
            f"runtime.device={options.device}",
            f"runtime.precision={options.precision}",
            f"runtime.tier={options.tier}",
            f"runtime.workers={options.workers}",
            "optim.warmup_epochs=0",
            f"loop.log_every={options.steps}",
            f"loop.save_every={total}",
        )
    beats = runs.speeds(rows)
    waits.append(
        sum(row["data_wait"] * row["seconds"] for row in beats)
        / sum(row["seconds"] for row in beats)
    )
    return len(beats) * options.steps * options.batch / sum(row["seconds"] for row in beats)


class Faces(Dataset):
    """The images of a folder of shards, decoded by PIL and cropped by torchvision."""

    def __init__(self, folder: Path, data: Data, size: int) -> None:
        self.folder, self.count = folder, len(open_shards(str(folder)))
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(
                    size,
                    scale=tuple(data.scale),
                    interpolation=transforms.InterpolationMode.BICUBIC,
                ),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> torch.Tensor:
        data = _opened(self.folder, os.getpid()).jpeg(i)
        image = Image.open(BytesIO(data), formats=["JPEG"]).convert("RGB")
        if image.size == CELEBA_SIZE:
            image = image.crop(celeba_box())
        return self.transform(image)


@cache
def _opened(folder: Path, process: int) -> ShardSet:
    """The shards, opened once in each process."""
    return open_shards(str(folder))


class PlainLoop:
    """The plain network, a DataLoader with processes that decode and crop, and torch's AdamW."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        config = training_step.settings(options)
        self.options, self.device = options, device
        faces = Faces(options.end_to_end, config.data, config.model.image_size)
        self.loader = DataLoader(
            faces,
            options.batch,
            shuffle=True,
            drop_last=True,
            num_workers=options.workers,
            pin_memory=device.type == "cuda",
        )
        self.module = mae_plain.PlainMae(config.model, config.decoder, config.mask_ratio).to(device)
        self.optimizer = mae_plain.optimizer(self.module)

    def batches(self) -> Iterator[tuple]:
        """Images on the device, and nothing beside them, epoch after epoch."""
        while True:
            for images in self.loader:
                yield images.to(self.device, non_blocking=True), None

    def block(self) -> float:
        """Images/s of as many steps as a run of ours measures, after the same warm-up.

        The loader's processes are started for this block and end with it.
        """
        feed = self.batches()
        one = training_step.peer_step(
            self.module,
            self.optimizer,
            feed,
            bf16=self.options.precision == "bf16",
            is_compiled=False,
            reads_norm=True,
        )
        for _ in range(self.options.steps):
            one()
        training_step.wait_for(self.device)
        started = time.perf_counter()
        for _ in range(BEATS * self.options.steps):
            one()
        training_step.wait_for(self.device)
        elapsed = time.perf_counter() - started
        feed.close()
        return BEATS * self.options.steps * self.options.batch / elapsed
