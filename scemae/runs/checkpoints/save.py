"""Save checkpoints while training goes on.

    begin    all ranks: copy weights and moments to host memory, start a thread    (steps wait)
    thread   each rank: write its files aside, sync them and their folder          (steps go on)
    commit   all ranks, at a heartbeat where all threads are done: rank 0 writes the manifest,
             renames the folder, and starts a thread that deletes old checkpoints

A failure on any rank costs only this save.
"""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, distributed

from scemae.distributed import deepspeed_internals, zero_state
from scemae.distributed.process_group import Place, agree
from scemae.errors import CheckpointError, FileError
from scemae.files import disk
from scemae.runs import faults
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.checkpoint import WEIGHTS, TrainState
from scemae.runs.checkpoints.tensor_file import WrittenFile, write_tensors
from scemae.runs.generation_files import LEDGER, METRICS
from scemae.runs.generations import Generation


@dataclass
class Pending:
    """A save that is not committed: its state, its folder, and the result of this rank's thread."""

    state: TrainState
    aside: Path
    thread: threading.Thread | None = None
    files: list[WrittenFile] | None = None
    failure: str | None = None
    seconds: float = 0.0


class Saver:
    """Saves one run's checkpoints, one at a time.

    All ranks call each method together, except `is_done`.
    """

    def __init__(
        self,
        run_dir: Path,
        place: Place,
        generation: Generation,
        *,
        keep: int,
        keep_every: int,
        whole_weights: Callable[[Any, bool], dict[str, Tensor]],
    ) -> None:
        """whole_weights(engine, keep): collects the module's fp32 weights where `keep`."""
        self.run_dir, self.place, self.generation = run_dir, place, generation
        self.keep, self.keep_every, self._whole_weights = keep, keep_every, whole_weights
        self.pending: Pending | None = None
        self._pruning: threading.Thread | None = None
        self.last_step: int | None = None
        self.last_failure = ""
        # of the last save: how long the step waited, and how long the thread wrote
        self.stall = self.write_seconds = 0.0

    @property
    def is_done(self) -> bool:
        """True where this rank's part of a pending save has been written, or has failed."""
        return self.pending is not None and not (
            self.pending.thread and self.pending.thread.is_alive()
        )

    def begin(self, engine: Any, state: TrainState, refusal: str | None = None) -> str | None:
        """Start a save of `state`, after finishing a pending one; returns why not, or None.

        refusal: rank 0's reason not to save, if any.
        """
        started = time.perf_counter()
        self.finish()
        mine = zero_state.owned(engine, self.place.rank, self.place.world_size)
        final = checkpoint.path_of(self.run_dir, state.global_step, self.generation.number)
        aside = final.with_name(final.name + ".partial")
        refusal = agree(refusal or self._prepare(aside, engine) if self.place.is_first else None)
        if refusal:
            self._warn(state.global_step, refusal)
            return refusal
        weights = self._whole_weights(engine, self.place.is_first)
        arrays = {
            f"{part.name}/{key}": value.detach().to("cpu", copy=True).numpy()
            for part in mine
            for key, value in part.moments.items()
        }
        starts = {part.name: part.start for part in mine}
        faults.at("snapshot", rank=self.place.rank, step=state.global_step)
        state = replace(
            state, world_size=self.place.world_size, generation=self.generation.number, files=[]
        )
        self.pending = Pending(state, aside)
        self.pending.thread = threading.Thread(
            target=self._write,
            args=(self.pending, weights, arrays, starts),
            name="save",
            daemon=True,
        )
        self.pending.thread.start()
        self.stall = time.perf_counter() - started
        return None

    def _prepare(self, aside: Path, engine: Any) -> str | None:
        """On rank 0: make the folder; returns why there can be no save, or None."""
        count = sum(deepspeed_internals.numel(p) for p in engine.module.parameters())
        needed = 12 * count + (1 << 20)  # fp32 weights and two moments
        try:
            disk.make_folders(aside.parent, self.run_dir)
            # of this generation: its number is in the name
            disk.remove_tree(aside, self.run_dir, best_effort=True)
            aside.mkdir()
            free = shutil.disk_usage(aside).free
        except FileError as error:
            return str(error)
        except OSError as error:
            return f"{aside}: {error.strerror}"
        if free < needed:
            return (
                f"{aside.parent}: found {free >> 20:,} MiB free, a checkpoint needs "
                f"{needed >> 20:,}; make room"
            )
        return None

    def _write(
        self,
        pending: Pending,
        weights: dict[str, Tensor],
        moments: dict[str, np.ndarray],
        starts: dict[str, int],
    ) -> None:
        started, rank, step = time.perf_counter(), self.place.rank, pending.state.global_step
        try:
            disk.make_folders(pending.aside, self.run_dir)
            path = (
                pending.aside / f"moments-{rank + 1:04d}-of-{self.place.world_size:04d}.safetensors"
            )
            metadata = {"starts": json.dumps(starts)}
            written = []
            if moments:
                written.append(write_tensors(path, moments, metadata, rank=rank, step=step))
            if self.place.is_first:
                path, metadata = pending.aside / WEIGHTS, {"format": "pt"}
                arrays = {key: value.numpy() for key, value in weights.items()}
                written.append(write_tensors(path, arrays, metadata, rank=rank, step=step))
                # The rows up to this checkpoint must be as durable as it is.
                for rows in (LEDGER, METRICS):
                    disk.sync_file(self.generation.folder / rows)
            disk.sync_folder(pending.aside)
            pending.files = written
        except Exception as error:  # of any kind: the commit reports it to all ranks
            pending.failure = f"rank {rank}: {getattr(error, 'strerror', None) or error}"
        pending.seconds = time.perf_counter() - started

    def finish(self) -> str | None:
        """Wait for a pending save and commit it; returns why it failed, or None.

        The deletion of old checkpoints has ended then too.
        """
        if self.pending is None or self.pending.thread is None:
            self.end_pruning()
            return None
        started = time.perf_counter()
        self.pending.thread.join()
        failure = self.commit()
        self.end_pruning()
        self.stall += time.perf_counter() - started
        return failure

    def end_pruning(self) -> None:
        """Wait until old checkpoints are deleted."""
        if self._pruning is not None:
            self._pruning.join()
            self._pruning = None

    def commit(self) -> str | None:
        """Commit the pending save, whose threads have all ended; returns why it failed, or None."""
        self.end_pruning()
        pending, self.pending = self.pending, None
        if pending is None:
            return None
        parts: list = [None] * self.place.world_size
        distributed.all_gather_object(parts, (pending.files, pending.failure, pending.seconds))
        self.write_seconds = max(seconds for *_, seconds in parts)
        failure = next((why for _, why, _ in parts if why), None)
        if self.place.is_first:
            if failure is None:
                failure = self._commit(pending, [file for files, *_ in parts for file in files])
            if failure:
                self._drop(pending.aside)
        failure = agree(failure)
        if failure:
            self._warn(pending.state.global_step, failure)
        else:
            self.last_step = pending.state.global_step
        return failure

    def _commit(self, pending: Pending, written: list[WrittenFile]) -> str | None:
        """On rank 0: write the manifest, rename, delete old checkpoints; returns why it failed."""
        step = pending.state.global_step
        final = pending.aside.with_name(pending.aside.name.removesuffix(".partial"))
        files = [checkpoint.listed(file) for file in written]
        try:
            checkpoint.write_state(pending.aside, replace(pending.state, files=files))
            faults.at("manifest", step=step)
            disk.rename_folder(pending.aside, final)
            faults.at("rename", step=step)
        except OSError as error:
            return f"{final}: {error.strerror}"
        if not self.generation.is_superseded:
            self._pruning = threading.Thread(target=self._prune, name="prune", daemon=True)
            self._pruning.start()
        return None

    def _prune(self) -> None:
        """On rank 0, while training goes on: delete old checkpoints."""
        try:
            checkpoint.tidy(self.run_dir, self.generation, self.keep, self.keep_every)
        except (OSError, FileError) as error:
            print(
                f"scemae: {self.run_dir}: an old checkpoint could not be removed ({error})",
                file=sys.stderr,
            )

    def _drop(self, aside: Path) -> None:
        """Remove what a failed save has written, unless a link has taken its place."""
        try:
            disk.remove_tree(aside, self.run_dir, best_effort=True)
        except FileError:
            pass

    def _warn(self, step: int, why: str) -> None:
        self.last_failure = why
        if self.place.is_first:
            newest = (
                "none is"
                if self.last_step is None
                else f"that of step {self.last_step} is the newest"
            )
            print(
                f"scemae: the checkpoint of step {step} was not saved ({why}); {newest}, the run "
                "continues",
                file=sys.stderr,
                flush=True,
            )


def save_now(saver: Saver, engine: Any, state: TrainState) -> None:
    """Save and wait for it. Raises CheckpointError where it fails."""
    failure = saver.begin(engine, state) or saver.finish()
    if failure:
        raise CheckpointError(
            f"{saver.run_dir}: the checkpoint of step {state.global_step} cannot be saved "
            f"({failure}); repair that and start again"
        )
