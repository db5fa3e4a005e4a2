"""One sweep: its space, the settings that every trial gets, and the command of each trial."""

import copy
import math
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from scemae.config import checks, locations
from scemae.config import values as spelling
from scemae.config.dotted import get_setting, set_setting
from scemae.config.load import load_config
from scemae.config.schema import SCHEMAS
from scemae.config.schema.jobs import SweepConfig
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.errors import ConfigError, RunFolderError
from scemae.files import ownership
from scemae.runs.checkpoints import checkpoint
from scemae.runs.generations import Generation
from scemae.sweep import space as spaces
from scemae.sweep.processes.trial_process import TrialCommand
from scemae.sweep.space import Space, Values
from scemae.sweep.trials import GRID, PAPER, RANDOM, Trial, TrialRecord, read_records
from scemae.training.token_home import choose_home

STAGES = ("pretrain.", "correspond.")  # how settings of every trial start on the command line
# Settings of carb that decide which tokens are selected: trials that differ in them share none.
SELECTION = ("eta", "clusters", "heads", "density", "remaining", "aggregate", "cluster_norm")
PLACES = (
    "run_dir",
    "backbone",
    "data.shards",
    "data.cache_dir",
    "probe_shards",
    "init_from",
    "store.dir",
    "store.third_dir",
)


@dataclass
class Sweep:
    """A sweep in its folder."""

    folder: Path
    config: SweepConfig
    space: Space
    base: list[str]  # key=value of every trial
    identity: str = ""  # the same for all starts of the sweep: trials take over from their own past
    is_typed: bool = False  # its settings come from the command line, not from a file in its folder

    @property
    def stage(self) -> str:
        """pretrain or correspond."""
        return self.space.stage

    @property
    def names(self) -> list[str]:
        """The swept settings."""
        return self.space.names

    @property
    def given(self) -> set[str]:
        """The settings that the user gave for every trial."""
        return {word.partition("=")[0] for word in self.base}

    @cached_property
    def settings(self) -> Any:
        """The stage's settings without a sweep: those of trial 0."""
        words = [*self.base, f"run_dir={self.folder / 'trials'}"]
        return load_config(self.stage, words, typed=self.is_typed)

    @cached_property
    def paper(self) -> Values:
        """Trial 0: the values of the swept settings without a sweep."""
        return {name: get_setting(self.settings, name) for name in self.names}

    @cached_property
    def spawns(self) -> bool:
        """Whether ranks are fresh processes (on a GPU), not forks."""
        asked = self.settings.runtime.device
        if asked == "cpu":
            return False
        # here: only this asks torch, whose import takes seconds
        from scemae.distributed.process_group import choose_device

        return choose_device(asked).type == "cuda"

    @cached_property
    def _shards(self) -> ShardSet:
        return self.open(self.settings.data.shards)

    def open(self, location: str) -> ShardSet:
        """Open shards named in its settings. Raises ShardError.

        Shards behind a URL are not copied to the cache for the sweep of another user.
        """
        may_copy = self.is_typed or ownership.is_private_run(self.folder)
        return open_shards(location, self.settings.data.cache_dir, may_copy=may_copy)

    def __getstate__(self) -> dict[str, Any]:
        """Without open files: Ray Tune copies whatever its search and scheduler refer to."""
        return {name: value for name, value in vars(self).items() if name != "_shards"}

    @property
    def images(self) -> int:
        """Training images."""
        return len(self._shards)

    @property
    def data_digest(self) -> str:
        """SHA-256 of the training shards' manifest."""
        return self._shards.manifest.digest()

    @cached_property
    def backbone_digest(self) -> str:
        """SHA-256 of the frozen backbone's weights."""
        return checkpoint.weights_digest(checkpoint.stage_1(Path(self.settings.backbone))[0])

    @cached_property
    def grid(self) -> list[Values]:
        """The grid's points, without the paper's setting, which is trial 0."""
        return [values for values in self.space.grid() if values != self.paper]

    @property
    def size(self) -> int:
        """How many trials there will be."""
        if self.config.search == GRID:
            return min(self.config.trials, 1 + len(self.grid))
        return self.config.trials

    def trial(self, number: int) -> Trial:
        """Trial `number` of a random or grid search, which depends on no other trial."""
        if number == 0:
            return Trial(0, self.paper, PAPER)
        if self.config.search == GRID:
            return Trial(number, self.grid[number - 1], GRID)
        return Trial(number, self.space.draw(self.config.seed, number), RANDOM)

    def command(self, trial: Trial) -> TrialCommand:
        """What a worker needs to start a trial. Raises ConfigError as `arguments` does."""
        ranks = self.config.trial.ranks
        # With the same job name a restart, on any node, takes over from its own past.
        environment = {"SCEMAE_JOB": f"sweep-{self.identity}"}
        return TrialCommand(self.folder, trial, self.arguments(trial), ranks, environment)

    def with_values(self, values: Values) -> Any:
        """The stage's settings with `values`. Raises ConfigError if they contradict each other."""
        found = copy.deepcopy(self.settings)
        for name, value in values.items():
            set_setting(found, name, value)
        checks.check(found)
        return found

    def arguments(self, trial: Trial) -> list[str]:
        """The arguments of `scemae` that run a trial.

        Raises ConfigError for values that no search of this space gives.
        """
        folder = trial.folder(self.folder)
        if unknown := sorted(set(trial.values) ^ set(self.names)):
            raise ConfigError(
                f"{folder}/trial.json: found a value of {unknown[0]} where the space has none, or "
                "none where it has; remove this trial's folder, or give another run_dir"
            )
        locations.refuse_from_file(trial.values, "values", folder / "trial.json")
        found = [self.stage, *self.base, *self.as_words(trial.values), f"run_dir={folder / 'run'}"]
        steps = self.loop_settings(trial.values)
        found += [f"loop.{name}={value}" for name, value in steps.items()]
        if self.stage == "correspond" and (not self.config.share_tokens or self.has_own_selection):
            # No other trial uses the tokens selected here: they are removed when this one ends.
            found.append(f"store.dir={folder / 'tokens'}")
            if self.config.share_tokens:
                found += ["store.keep_third=true", f"store.third_dir={self.shared_tokens}"]
        elif self.stage == "correspond" and self.shared_tokens.parent == self.folder:
            found.append(f"store.dir={self.shared_tokens}")
        return found

    def as_words(self, values: Values) -> list[str]:
        """key=value for each."""
        return [
            spelling.as_override(SCHEMAS[self.stage], name, value) for name, value in values.items()
        ]

    @property
    def has_own_selection(self) -> bool:
        """True where trials select different tokens."""
        return any(f"carb.{key}" in self.names for key in SELECTION)

    @cached_property
    def shared_tokens(self) -> Path:
        """The folder of the tokens that all trials share.

        It is beside the backbone if that belongs to this user alone, else in the sweep's folder.
        """
        store = self.settings.store
        if store.third_dir or store.dir:
            return Path(store.third_dir or store.dir)
        backbone = checkpoint.stage_1(Path(self.settings.backbone))[0]
        return choose_home(backbone.parent.parent, self.folder)

    def loop_settings(self, values: Values) -> dict[str, int]:
        """When a trial is evaluated and saved: after every share halving.grace of its training.

        By name in `loop`, without those that the user gave for every trial.
        """
        config = self.with_values(values)
        every = config.loop.log_every
        if not config.optim.epochs:
            raise ConfigError("optim.epochs=0: a trial of no steps has no score; give more than 0")
        total = max(round(config.optim.epochs * self.images / config.optim.global_batch_size), 1)
        interval = math.ceil(total * self.config.halving.grace / every) * every
        found = {"probe_every": interval, "save_every": interval, "keep": 1}
        return {name: value for name, value in found.items() if f"loop.{name}" not in self.given}

    def records(self) -> list[TrialRecord]:
        """Its trials so far, in order."""
        return list(read_records(self.folder))

    def refuse_superseded(self, generation: Generation) -> None:
        """Raise RunFolderError once a later start has taken over: this one must write no more."""
        if generation.is_superseded:
            raise RunFolderError(
                f"{self.folder}: another start of this sweep has taken it over; this one ends and "
                "has changed nothing of the other's"
            )


def load(words: list[str]) -> Sweep:
    """The sweep of a command line, where STAGE.KEY=VALUE is for every trial. Raises ConfigError."""
    own = [word for word in words if not word.startswith(STAGES)]
    config = load_config("sweep", own, typed=True)
    for word in words:
        stage, _, setting = word.partition(".")
        if word.startswith(STAGES):
            getattr(config, stage).append(setting)
    return replace(read(config), is_typed=True)


def read(config: SweepConfig) -> Sweep:
    """A sweep by its settings; nothing is written. Raises ConfigError."""
    space = spaces.read(config.space)
    other = {"pretrain": config.correspond, "correspond": config.pretrain}[space.stage]
    if other:
        raise ConfigError(
            f"found settings of the other stage ({other[0]}) with a space of "
            f"`scemae {space.stage}`; give {space.stage}.KEY=VALUE"
        )
    base = [absolute(word) for word in getattr(config, space.stage)]
    setattr(config, space.stage, base)
    for word in base:
        if word.partition("=")[0] == "run_dir":
            raise ConfigError(
                f"found {space.stage}.{word}; each trial has a folder of its own in run_dir of the "
                "sweep"
            )
    return Sweep(Path(config.run_dir).absolute(), config, space, base)


def absolute(word: str) -> str:
    """A setting key=value, its path made absolute if it exists here: trials run elsewhere."""
    key, _, value = word.partition("=")
    if key in (*PLACES, "experiment") and os.path.exists(value):
        return f"{key}={os.path.abspath(value)}"
    return word
