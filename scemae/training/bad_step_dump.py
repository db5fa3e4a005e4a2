"""Dumps of bad steps: the batch of a skipped step, and the checkpoint before it.

    run_dir/capsules/step-00000613/
        batch.safetensors      frames (b, s, s, 3) uint8; samples and epochs (b,)
        config.yaml            the run's settings
        capsule.json           step, rank, what was wrong, keys
        step-00000600.g0002/   the checkpoint before the step, by hard links

`scemae replay RUN/capsules/step-00000613` (replay.py) runs such a step again in one process.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from scemae.config.load import to_yaml
from scemae.config.schema.training import CorrespondConfig, PretrainConfig
from scemae.data.frame_sources import StreamedFrames, consumed_frames
from scemae.data.storage.shard_set import ShardSet
from scemae.data.training_set import make_order
from scemae.errors import BadStepError
from scemae.files import disk
from scemae.runs.checkpoints import checkpoint

DUMPS, BATCH, FACTS = "capsules", "batch.safetensors", "capsule.json"


def write(
    run_dir: Path,
    folder: Path,
    bad: BadStepError,
    config: PretrainConfig | CorrespondConfig,
    shards: ShardSet,
) -> Path:
    """Dump the last of the bad steps; returns the dump's folder.

    folder: the checkpoint before the steps. An error costs the dump and not the run.
    """
    step = bad.steps[-1]
    dump = run_dir / DUMPS / f"step-{step:08d}"
    try:
        disk.make_folders(dump, run_dir)
        order = make_order(shards, config.seed, config.optim.global_batch_size, config.data)
        part = order.slices(step - 1, 0, 1, 1)[0]
        if isinstance(config, CorrespondConfig):
            part = replace(part, epochs=part.epochs % config.views)
        source = StreamedFrames(shards, config.data.frame)
        frames = consumed_frames(source, part, config.seed, config.data.jpeg_noise)[1]
        disk.write_bytes(
            dump / BATCH,
            save(
                {
                    "frames": torch.from_numpy(frames),
                    "samples": torch.from_numpy(part.samples.astype(np.int64)),
                    "epochs": torch.from_numpy(part.epochs.astype(np.int64)),
                }
            ),
        )
        disk.write_text(dump / "config.yaml", to_yaml(config))
        if not (dump / folder.name).exists():
            checkpoint.copy_by_links(folder, dump / folder.name, run_dir)
        disk.write_json(
            dump / FACTS,
            {
                "step": step,
                "steps": bad.steps,
                "rank": bad.rank,
                "what": str(bad),
                "checkpoint": folder.name,
                "keys": [shards.keys[i] for i in part.samples],
            },
        )
    except Exception as error:  # a full disk, for example, must not end the run
        print(f"scemae: {dump}: not written whole ({error})", flush=True)
    return dump
