"""What both stages of training do once their parts are built: plan, go on, describe, train, roll back."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scemae.config.locations import masked
from scemae.config.schema.training import (
    CorrespondConfig,
    Data,
    Loop,
    Optim,
    PretrainConfig,
    Runtime,
)
from scemae.data.order import ORDER_VERSION, Order, Slice, accumulation_steps
from scemae.data.pipeline import Consumed
from scemae.data.storage.shard_set import ShardSet
from scemae.distributed import engine as engines
from scemae.distributed import tf32
from scemae.distributed.process_group import Place, agree, precision
from scemae.distributed.watchdog import Watchdog
from scemae.errors import BadStepError, ConfigError, RunFolderError
from scemae.process.stop_signals import StopRequest
from scemae.runs import generations, run_folder
from scemae.runs.checkpoints import checkpoint, resume
from scemae.runs.checkpoints.checkpoint import TrainState
from scemae.runs.checkpoints.save import Saver, save_now
from scemae.runs.generations import Generation
from scemae.runs.ledger import FILE as LEDGER
from scemae.runs.ledger import Ledger
from scemae.runs.metrics_log import Writer, read_metrics
from scemae.training import bad_step_dump, flops, schedule
from scemae.training.bad_steps import WINDOW, Health
from scemae.training.loop import Steps, Watch, train

Feed = Callable[
    [Iterator[Slice], Consumed], Iterator[tuple]
]  # slices of the order to the engine's arguments


def plan(shards: ShardSet, optim: Optim, loop: Loop, runtime: Runtime, place: Place) -> Steps:
    """Steps of this run. Raises ConfigError where the images or the ranks do not fit the global batch."""
    size = optim.global_batch_size
    if len(shards) < size:
        raise ConfigError(
            f"optim.global_batch_size={size}: found only {len(shards)} images in {shards.folder}; give "
            "more images or a smaller batch"
        )
    if size < place.world_size:
        raise ConfigError(
            f"optim.global_batch_size={size}: found {place.world_size} ranks, each needs at least one "
            "image; raise the batch or start fewer ranks"
        )
    total = max(round(optim.epochs * len(shards) / size), 1)
    accumulation = accumulation_steps(size, place.world_size, runtime.micro_batch_size)
    return Steps(0, total, accumulation, loop.log_every, loop.save_every, loop.probe_every, size)


def settings(parts: dict, data: Data, optim: Optim, runtime: Runtime, place: Place) -> dict:
    """What a resumed run must have in common with its checkpoint: all that changes results, and the precision."""
    recipe = {
        name: value
        for name, value in asdict(data).items()
        if name not in ("shards", "cache_dir", "max_bad_fraction")
    }
    dtype = str(precision(runtime.precision, place.device))
    return {
        **parts,
        "data": recipe,
        "optim": asdict(optim),
        "precision": "tf32" if runtime.precision == "tf32" else dtype.removeprefix("torch."),
    }


def state_of(
    config: PretrainConfig | CorrespondConfig,
    stage: str,
    parts: dict,
    place: Place,
    shards: ShardSet,
) -> TrainState:
    """What this run's checkpoints are of, before the first step."""
    return TrainState(
        0,
        config.seed,
        place.world_size,
        engines.zero_stage(config.runtime, place),
        stage,
        settings(parts, config.data, config.optim, config.runtime, place),
        shards.manifest.digest(),
        ORDER_VERSION,
    )


@dataclass
class Run:
    """One start of a run: its settings, place, engine and state, and how it feeds and judges the engine."""

    config: PretrainConfig | CorrespondConfig
    place: Place
    generation: Generation
    engine: Any
    steps: Steps
    state: TrainState
    shards: ShardSet
    open_feed: Callable[
        [Order, int, int], Feed
    ]  # for the steps from one to another; what it needs is made here
    facts: dict
    probe: Callable[[], dict[str, float]]
    stop: StopRequest
    dog: Watchdog
    flops: float = 0.0  # per image of a step; 0: not known, no MFU is told
    made_ahead: Callable[[int], int] = lambda total: (
        0
    )  # view images that open_feed makes for a run of so many steps
    open_seconds: float = 0.0  # what open_feed took

    def __post_init__(self) -> None:
        if self.engine.is_compiled:
            self.dog.follow_compilation()

    @property
    def run_dir(self) -> Path:
        return Path(self.config.run_dir)

    def go(self) -> None:
        """Go on where the run's newest whole checkpoint stands and train to the last step; roll back where a step is
        bad. Raises BadStepError once loop.max_skips steps have been left out."""
        found = resume.go_on(
            self.run_dir, self.place, self.generation, self.state, self.steps.total
        )
        if found is None:
            self._start_from_scratch()
        else:
            self.state = resume.resume(self.engine, found, self.state, self.place)
        self._announce(found)
        self._probe_late()
        if self.state.global_step == self.steps.total:
            return
        order = Order(len(self.shards), self.config.seed, self.steps.images)
        began = time.perf_counter()
        with tf32.refused():  # it may make what other runs will use
            feed = self.open_feed(order, self.state.global_step, self.steps.total)
        self.open_seconds = time.perf_counter() - began
        speed = flops.full_speed(
            self.flops, self.place, precision(self.config.runtime.precision, self.place.device)
        )
        while self.state.global_step < self.steps.total:
            try:
                self._train(order, feed, speed)
            except BadStepError as bad:
                self._roll_back(bad)

    def _probe_late(self) -> None:
        """A run that was stopped between a save and the probe after it: what the probe says is still owed."""
        step, steps, place = self.state.global_step, self.steps, self.place
        if not steps.probe_every or (step % steps.probe_every and step != steps.total):
            return
        told = (
            [row for row in read_metrics(self.run_dir) if row["step"] == step]
            if place.is_first
            else []
        )
        if not agree(
            any("loss" in row for row in told) and not any("probe_seconds" in row for row in told)
        ):
            return
        if place.is_first:
            self.generation.record_base(step)
        writer, started = Writer(self.run_dir, self.generation, place, step), time.perf_counter()
        try:
            writer.write(
                step, **self.probe(), probe_seconds=time.perf_counter() - started, late=True
            )
        finally:
            writer.close()

    def _start_from_scratch(self) -> None:
        if self.place.is_first:
            checkpoint.refuse_old_format(self.run_dir)
            self.generation.record_base(0)
        save_now(
            self._saver(), self.engine, self.state
        )  # what a roll-back needs; and a disk that is full shows now

    def _announce(self, found: Path | None) -> None:
        if not self.place.is_first:
            return
        config, steps, start = self.config, self.steps, self.state.global_step
        print(
            f"{len(self.shards):,} images in {masked(config.data.shards)}; {steps.total:,} steps of {steps.images}; "
            f"{self.place.world_size} x {self.place.device.type}, ZeRO {self.state.zero_stage}"
            + (f"; resumed at step {start:,} from {found}" if found else ""),
            flush=True,
        )
        if start < steps.total:
            checkpoint.clear_partial(self.run_dir, self.generation)
            run_folder.describe(
                self.run_dir,
                self.state.stage,
                config,
                seed=config.seed,
                data_digest=self.state.data_digest,
                world_size=self.place.world_size,
                total_steps=steps.total,
                **self.facts,
            )

    def _saver(self) -> Saver:
        return Saver(
            self.run_dir,
            self.place,
            self.generation,
            keep=self.config.loop.keep,
            keep_every=self.config.loop.keep_every,
            whole_weights=engines.full_weights,
        )

    def _train(self, order: Order, feed: Feed, full_speed: float) -> None:
        config, steps, place = self.config, self.steps, self.place
        steps.start = self.state.global_step
        most_bad = config.data.max_bad_fraction * len(self.shards)
        ledger = Ledger(
            self.shards.keys,
            self.generation.folder,
            is_first=place.is_first,
            with_keys=config.loop.ledger_keys,
            most_bad=most_bad,
        )
        slices = (
            part
            for step in range(steps.start, steps.total)
            if str(step + 1) not in self.state.skips
            for part in order.slices(step, place.rank, place.world_size, steps.accumulation)
        )
        writer = Writer(self.run_dir, self.generation, place, steps.start)
        losses = (
            [row["loss"] for row in generations.rows(self.run_dir, LEDGER) if "loss" in row]
            if place.is_first
            else []
        )
        health = Health(config.loop.spike_factor, agree(losses[-WINDOW:]))
        watch = Watch(self._saver(), ledger, health, self.dog, writer)
        batches = feed(slices, ledger.add)
        try:
            train(
                self.engine,
                batches,
                steps,
                self.state,
                place,
                watch=watch,
                stop=self.stop,
                set_lr=self._set_lr,
                probe=self.probe,
                full_speed=full_speed,
                after_step=getattr(self.engine.module, "after_step", lambda: None),
            )
        finally:
            batches.close()
            ledger.close()
            writer.close()

    def _set_lr(self, global_step: int) -> float:
        optim = self.config.optim
        warmup = optim.warmup_epochs * len(self.shards) / optim.global_batch_size
        lr = schedule.learning_rate(
            global_step,
            peak=optim.lr,
            floor=optim.min_lr,
            warmup_steps=warmup,
            total_steps=self.steps.total,
        )
        engines.set_learning_rate(self.engine, lr)
        return lr

    def _roll_back(self, bad: BadStepError) -> None:
        folder = resume.newest_whole(self.run_dir, self.place)
        new = [step for step in bad.steps if step > checkpoint.place_of(folder)[0]]
        skips = {**self.state.skips, **{str(step): str(bad) for step in new}}
        if len(skips) > self.config.loop.max_skips:
            raise BadStepError(
                f"{bad}; {len(self.state.skips)} steps were left out before, loop.max_skips allows "
                f"{self.config.loop.max_skips}: lower optim.lr in a new run_dir with init_from, say",
                bad.steps,
                bad.rank,
            ) from bad
        if self.place.is_first:
            kept = bad_step_dump.keep(
                self.run_dir, folder, bad, self.config, self.shards, self.steps.images
            )
            print(
                f"scemae: {bad}; back to {folder.name}, without {', '.join(map(str, new))}, kept in {kept}",
                file=sys.stderr,
                flush=True,
            )
        self.dog.log(f"{bad}; rolling back to {folder.name}")
        if problem := agree(self.generation.claim_next() if self.place.is_first else None):
            raise RunFolderError(problem)
        self.generation.move_on()
        found = resume.go_on(
            self.run_dir, self.place, self.generation, self.state, self.steps.total
        )
        self.state = resume.resume(self.engine, found, self.state, self.place)
        self.state.skips = skips


def weights_folder(location: str | None, run_dir: Path) -> Path | None:
    """The checkpoint to start from, unless the run has its own to go on from. Raises CheckpointError."""
    if location is None or agree(bool(checkpoint.committed(run_dir))):
        return None
    return checkpoint.newest(Path(location))
