"""Sharded checkpoints in a run folder: saved aside by all ranks, committed by one rename, found by the highest step.

    run_dir/checkpoints/step-00000500/
        deepspeed/...            each rank's share of weights and optimizer state, as DeepSpeed writes it
        weights.safetensors      the whole module in fp32: what stage 2 and evaluation read
        state.json               `TrainState`; its presence after the rename means that all is there
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scemae.data.manifest import write_json
from scemae.distributed import Place, barrier
from scemae.errors import CheckpointError

FORMAT_VERSION = 1
CHECKPOINTS, STATE, WEIGHTS, SHARDED = "checkpoints", "state.json", "weights.safetensors", "deepspeed"


@dataclass
class TrainState:
    """What a checkpoint is of. Data position follows from seed and global step; `settings` are those a module is
    built from."""

    global_step: int
    seed: int
    world_size: int
    zero_stage: int
    stage: str  # "pretrain" or "correspond"
    settings: dict
    data_digest: str
    format_version: int = FORMAT_VERSION


def committed(run_dir: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(path.parent for path in (run_dir / CHECKPOINTS).glob(f"step-????????/{STATE}"))


def newest(location: Path) -> Path:
    """The newest checkpoint of a run folder, or `location` itself if it is one. Raises CheckpointError."""
    if (location / STATE).exists():
        return location
    found = committed(location)
    if not found:
        raise CheckpointError(f"{location}: found no finished checkpoint in it; give a run folder or one of its "
                              f"{CHECKPOINTS}/step-* folders")
    return found[-1]


def read_state(folder: Path) -> TrainState:
    """The state of one checkpoint. Raises CheckpointError where it is unreadable or of another format."""
    try:
        raw = json.loads((folder / STATE).read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / STATE}: cannot be read ({error}); give an older checkpoint, or "
                              "remove this folder to go on from the one before") from error
    if raw.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{folder}: found checkpoint format {raw.get('format_version')}, this version reads "
                              f"{FORMAT_VERSION}; use the version of scemae that wrote it")
    return TrainState(**raw)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The whole weights of one checkpoint. Raises CheckpointError where they are missing or damaged."""
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: cannot be read ({error}); give an older checkpoint, or "
                              "remove this folder to go on from the one before") from error


def weights_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights: which backbone a projector belongs to."""
    with open(folder / WEIGHTS, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(engine, weights: dict[str, Tensor], state: TrainState, run_dir: Path, place: Place, keep: int) -> Path:
    """Write one checkpoint and prune to the newest `keep`. All ranks call it; whole or not there at all."""
    final = run_dir / CHECKPOINTS / f"step-{state.global_step:08d}"
    aside = final.with_name(final.name + ".partial")
    if place.is_first and aside.exists():
        shutil.rmtree(aside)
    barrier()
    engine.save_checkpoint(str(aside), tag=SHARDED, save_latest=False)
    if place.is_first:
        save_file(weights, aside / WEIGHTS, metadata={"format": "pt"})
        write_json(aside / STATE, asdict(state))
    barrier()  # every rank has written
    if place.is_first:
        os.replace(aside, final)
        for old in committed(run_dir)[:-keep]:
            doomed = old.with_name(old.name + ".partial")  # a kill half-way must not leave what looks whole
            os.replace(old, doomed)
            shutil.rmtree(doomed)
    barrier()
    return final


def resume(engine, folder: Path, wanted: TrainState) -> int:
    """Load weights and optimizer from `folder` and return its global step. Raises CheckpointError on a mismatch."""
    state = read_state(folder)
    for name, what in (("stage", "stage"), ("settings", "settings"), ("seed", "seed"),
                       ("data_digest", "shards"), ("world_size", "number of ranks"), ("zero_stage", "ZeRO stage")):
        found, needed = getattr(state, name), getattr(wanted, name)
        if found != needed:
            raise CheckpointError(f"{folder}: its {what} was {_difference(found, needed)}; go on with what it was, or "
                                  "choose another run_dir")
    try:
        loaded, _ = engine.load_checkpoint(str(folder), tag=SHARDED)
    except (RuntimeError, AssertionError, KeyError, OSError, EOFError, UnpicklingError) as error:
        raise CheckpointError(f"{folder / SHARDED}: cannot be read ({type(error).__name__}: {error}); remove "
                              f"{folder} to go on from the checkpoint before") from error
    if loaded is None:
        raise CheckpointError(f"{folder / SHARDED}: DeepSpeed found nothing to load; remove {folder} to go on from the "
                              "checkpoint before")
    return state.global_step


def _difference(found: object, needed: object) -> str:
    if isinstance(found, dict) and isinstance(needed, dict):
        keys = [key for key in needed if found.get(key) != needed[key]]
        return "; ".join(f"{key} {_difference(found.get(key), needed[key])}" for key in keys)
    return f"{found}, asked for is {needed}"
