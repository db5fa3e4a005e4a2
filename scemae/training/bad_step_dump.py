"""What is kept of a step that was left out: its batch as it was fed, and the checkpoint before it, to look at later.

    run_dir/capsules/step-00000613/
        batch.safetensors      frames (b, s, s, 3) uint8 and their place in the order: samples, epochs
        config.yaml            the run's settings
        capsule.json           step, rank, what was wrong, keys
        step-00000600.g0002/   the checkpoint before, by hard links

`scemae replay CAPSULE` (replay.py) runs it on one process.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from scemae.config.load import to_yaml
from scemae.config.schema.training import CorrespondConfig, PretrainConfig
from scemae.data.decode import StreamedFrames, consumed_frames
from scemae.data.order import Order
from scemae.data.storage.shard_set import ShardSet
from scemae.errors import BadStepError
from scemae.files import disk
from scemae.runs.checkpoints import checkpoint

CAPSULES, BATCH, FACTS = "capsules", "batch.safetensors", "capsule.json"


def write(
    run_dir: Path,
    folder: Path,
    bad: BadStepError,
    config: PretrainConfig | CorrespondConfig,
    shards: ShardSet,
) -> Path:
    """Write the capsule of the last of the bad steps; returns its folder. What cannot be written is left out."""
    step = bad.steps[-1]
    capsule = run_dir / CAPSULES / f"step-{step:08d}"
    try:
        disk.make_folders(capsule, run_dir)
        order = Order(len(shards), config.seed, config.optim.global_batch_size)
        part = order.slices(step - 1, 0, 1, 1)[0]
        if isinstance(config, CorrespondConfig):
            part = replace(part, epochs=part.epochs % config.views)
        frames = consumed_frames(
            StreamedFrames(shards, config.data.frame), part, config.seed, config.data.jpeg_noise
        )[1]
        disk.write_bytes(
            capsule / BATCH,
            save(
                {
                    "frames": torch.from_numpy(frames),
                    "samples": torch.from_numpy(part.samples.astype(np.int64)),
                    "epochs": torch.from_numpy(part.epochs.astype(np.int64)),
                }
            ),
        )
        disk.write_text(capsule / "config.yaml", to_yaml(config))
        if not (capsule / folder.name).exists():
            checkpoint.copy_by_links(folder, capsule / folder.name, run_dir)
        disk.write_json(
            capsule / FACTS,
            {
                "step": step,
                "steps": bad.steps,
                "rank": bad.rank,
                "what": str(bad),
                "checkpoint": folder.name,
                "keys": [shards.keys[i] for i in part.samples],
            },
        )
    except (
        Exception
    ) as error:  # it is only kept to be looked at: a full disk, say, must not end the run
        print(f"scemae: {capsule}: not kept whole ({error})", flush=True)
    return capsule
