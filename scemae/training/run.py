"""One run of a stage, whatever the method: resume, train, and roll back where a step is bad."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scemae.config.locations import masked
from scemae.config.schema.training import CorrespondConfig, PretrainConfig
from scemae.data.order import Order, Slice
from scemae.data.read_ahead import read_ahead, streams_of
from scemae.data.storage.joined import Grown
from scemae.distributed import engine as engines
from scemae.distributed import tf32
from scemae.distributed.process_group import Place, agree, precision, process_group
from scemae.distributed.watchdog import Watchdog, watch
from scemae.errors import BadStepError, RunFolderError
from scemae.process.stop_signals import StopRequest
from scemae.runs import data_parts, generations, run_folder, trackers
from scemae.runs.checkpoints import checkpoint, resume
from scemae.runs.checkpoints.checkpoint import TrainState
from scemae.runs.checkpoints.save import Saver, save_now
from scemae.runs.generation_files import LEDGER
from scemae.runs.generations import Generation
from scemae.runs.ledger import Ledger
from scemae.runs.metrics_log import Writer, read_metrics
from scemae.training import bad_step_dump, run_plan, utilisation
from scemae.training.bad_steps import WINDOW, LossHistory
from scemae.training.feed import Feed
from scemae.training.heartbeat import Meter
from scemae.training.loop import Observers, Steps, train
from scemae.training.schedule import Schedule
from scemae.training.token_store import TokenFeed


@dataclass
class Start:
    """One start of a run on this rank: process group, run folder, stop request and watchdog."""

    place: Place
    generation: Generation
    stop: StopRequest
    dog: Watchdog

    def note(self) -> None:
        """Tell the watchdog that data are being prepared; end here if asked to stop."""
        self.dog.note(0, "data")
        self.stop.check("preparing data")


@contextmanager
def started(config: PretrainConfig | CorrespondConfig, stage: str) -> Iterator[Start]:
    """Join the process group, take the run folder, start the watchdog."""
    stop = StopRequest("starting or waiting for other ranks")
    hang_seconds = config.runtime.hang_seconds
    with (
        process_group(config.runtime.device, hang_seconds) as place,
        run_folder.hold(Path(config.run_dir), place, stage) as generation,
        watch(generation.folder, place, hang_seconds) as dog,
    ):
        yield Start(place, generation, stop, dog)


@dataclass
class Run:
    """One start of a run with all its parts."""

    config: PretrainConfig | CorrespondConfig
    start: Start
    engine: Any
    feed: Feed | TokenFeed
    steps: Steps
    state: TrainState
    probe: Callable[[], dict[str, float]]
    facts: dict[str, Any]  # for provenance.json
    flops: float  # per image of a step; 0: not counted, so that MFU is not reported
    open_seconds: float = 0.0  # that opening the feed took

    def __post_init__(self) -> None:
        if self.engine.is_compiled:
            self.start.dog.follow_compilation()

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return Path(self.config.run_dir)

    @cached_property
    def order(self) -> Order:
        """The order of the samples; one, whose tables training and reading ahead share."""
        return run_plan.order_of(self.config, self.feed.shards)

    def go(self) -> None:
        """Train to the last step, from the newest whole checkpoint on; roll back at a bad step.

        Raises BadStepError once more than loop.max_skips steps would be skipped.
        """
        place = self.start.place
        found = self._adopt_newest()
        if found is None:
            self._start_from_scratch()
        else:
            self.state = resume.resume(self.engine, found, self.state, place)
        self._announce(found)
        self._probe_late()
        if self.state.global_step == self.steps.total:
            return
        began = time.perf_counter()
        with tf32.refused():  # the feed may compute tokens that other runs will read
            self.feed.open(self.order, self.state.global_step, self.steps.total)
        self.open_seconds = time.perf_counter() - began
        dtype = precision(self.config.runtime.precision, place.device)
        full_speed = utilisation.full_speed(self.flops, place, dtype)
        while self.state.global_step < self.steps.total:
            try:
                self._train(full_speed)
            except BadStepError as bad:
                self._roll_back(bad)

    def _adopt_newest(self) -> Path | None:
        return resume.adopt_newest(
            self.run_dir,
            self.start.place,
            self.start.generation,
            self.state,
            self.steps.total,
            known_as=self.feed.shards.digests,
        )

    def _start_from_scratch(self) -> None:
        if self.start.place.is_first:
            checkpoint.refuse_old_format(self.run_dir)
            self.start.generation.record_base(0)
        # a roll-back may need it, and a full disk shows now
        save_now(self._saver(), self.engine, self.state)

    def _announce(self, found: Path | None) -> None:
        """Print where the run stands, and describe this start in the run folder."""
        place, config, steps = self.start.place, self.config, self.steps
        if not place.is_first:
            return
        step = self.state.global_step
        where = " + ".join(config.data.mix or [config.data.shards, *config.data.append])
        resumed = f"; resumed at step {step:,} from {found}" if found else ""
        print(
            f"{len(self.feed.shards):,} images in {masked(where)}; {steps.total:,} "
            f"steps of {steps.images}; {place.world_size} x {place.device.type}, ZeRO "
            f"{self.state.zero_stage}{resumed}",
            flush=True,
        )
        if isinstance(self.feed.shards, Grown):
            data_parts.record(self.run_dir, self.feed.shards, self.order)
        if step < steps.total or not found:
            checkpoint.clear_partial(self.run_dir, self.start.generation)
            run_folder.describe(
                self.run_dir,
                self.state.stage,
                config,
                seed=config.seed,
                data_digest=self.state.data_digest,
                world_size=place.world_size,
                total_steps=steps.total,
                **self.facts,
            )

    def _probe_late(self) -> None:
        """Probe now if the run was stopped between the save and the probe of its last step."""
        step, steps, place = self.state.global_step, self.steps, self.start.place
        if not steps.probe_every or (step % steps.probe_every and step != steps.total):
            return
        rows = read_metrics(self.run_dir) if place.is_first else []
        known = {name for row in rows if row["step"] == step for name in row}
        if not agree("loss" in known and "probe_seconds" not in known):
            return
        if place.is_first:
            self.start.generation.record_base(step)
        writer = self._writer(step)
        began = time.perf_counter()
        try:
            errors = self.probe()
            seconds = time.perf_counter() - began
            writer.write(step, **errors, probe_seconds=seconds, late=True)
        finally:
            writer.close()

    def _saver(self) -> Saver:
        loop = self.config.loop
        return Saver(
            self.run_dir,
            self.start.place,
            self.start.generation,
            keep=loop.keep,
            keep_every=loop.keep_every,
            whole_weights=engines.full_weights,
        )

    def _train(self, full_speed: float) -> None:
        """Train from the state's step to the last one."""
        self.steps.start = self.state.global_step
        observers = self._observers(full_speed)
        with self._read_ahead() as at:
            batches = self.feed.batches(self._slices(at), observers.ledger.add)
            try:
                train(self.engine, batches, self.steps, self.state, self._schedule(), observers)
            finally:
                batches.close()
                observers.ledger.close()
                observers.writer.close(soon=self.start.stop.requested)

    @contextmanager
    def _read_ahead(self) -> Iterator[Callable[[int], None]]:
        """Inside the block streamed shards are downloaded ahead; the function is told the step."""
        streams = streams_of(self.feed.shards, self.order) if self.feed.reads_shards else []
        for stream in streams:
            # Not `Start.note`: a stop that is asked for now waits for the heartbeat, which saves.
            stream.tars.note = lambda: self.start.dog.note(self.state.global_step, "data")

        def coming() -> Iterator[tuple[int, np.ndarray]]:
            for part in self._slices(lambda step: None):
                yield part.global_step - 1, part.samples

        owner = str(self.run_dir.resolve())
        with read_ahead(streams, coming, self.steps.start, owner) as at:
            yield at

    def _slices(self, at: Callable[[int], None]) -> Iterator[Slice]:
        """This rank's slice of each micro-step that is not skipped; `at` is told its step."""
        steps, place, order = self.steps, self.start.place, self.order
        for step in range(steps.start, steps.total):
            if str(step + 1) not in self.state.skips:
                at(step)
                yield from order.slices(step, place.rank, place.world_size, steps.accumulation)

    def _observers(self, full_speed: float) -> Observers:
        config, steps, start, shards = self.config, self.steps, self.start, self.feed.shards
        longest = min(steps.log_every, steps.total)
        ledger = Ledger(
            shards.keys,
            start.generation.folder,
            is_first=start.place.is_first,
            with_keys=config.loop.ledger_keys,
            most_bad=config.data.max_bad_fraction * len(shards),
        )
        writer = self._writer(steps.start)
        rows = generations.rows(self.run_dir, LEDGER) if start.place.is_first else []
        losses = agree([row["loss"] for row in rows if "loss" in row][-WINDOW:])
        return Observers(
            Meter(start.place, longest, steps.images, full_speed),
            writer,
            ledger,
            LossHistory(config.loop.spike_factor, losses),
            self._saver(),
            start.dog,
            start.stop,
            self.probe,
        )

    def _writer(self, step: int) -> Writer:
        """Where metrics go that follow this step."""
        place = self.start.place
        tracking = trackers.start(self.run_dir, self.config) if place.is_first else None
        return Writer(self.run_dir, self.start.generation, place, step, tracking=tracking)

    def _schedule(self) -> Schedule:
        optim = self.config.optim
        warmup = self.order.images(optim.warmup_epochs) / optim.global_batch_size
        return Schedule(optim.lr, optim.min_lr, warmup, self.steps.total)

    def _roll_back(self, bad: BadStepError) -> None:
        """Go back to the checkpoint before the bad steps, and skip them from now on."""
        place, generation = self.start.place, self.start.generation
        folder = resume.newest_whole(self.run_dir, place)
        assert folder is not None  # the run saved one before its first step
        new = [step for step in bad.steps if step > checkpoint.place_of(folder)[0]]
        skips = {**self.state.skips, **{str(step): str(bad) for step in new}}
        if len(skips) > self.config.loop.max_skips:
            raise BadStepError(
                f"{bad}; {len(self.state.skips)} steps were skipped before, loop.max_skips allows "
                f"{self.config.loop.max_skips}: lower optim.lr, for example, in a new run_dir with "
                "init_from",
                bad.steps,
                bad.rank,
            ) from bad
        if place.is_first:
            kept = bad_step_dump.write(self.run_dir, folder, bad, self.config, self.feed.shards)
            print(
                f"scemae: {bad}; back to {folder.name}, without {', '.join(map(str, new))}, whose "
                f"batch is kept in {kept}",
                file=sys.stderr,
                flush=True,
            )
        self.start.dog.log(f"{bad}; rolling back to {folder.name}")
        if problem := agree(generation.claim_next() if place.is_first else None):
            raise RunFolderError(problem)
        generation.move_on()
        found = self._adopt_newest()
        assert found is not None
        self.state = resume.resume(self.engine, found, self.state, place)
        self.state.skips = skips


def weights_folder(location: str | None, run_dir: Path, place: Place) -> Path | None:
    """The checkpoint to take weights from, unless the run has one of its own to resume from.

    All ranks call it. Raises CheckpointError.
    """
    if location is None or resume.has_any(run_dir, place):
        return None
    return resume.newest_of(Path(location), place)
