"""One sweep: its space, what every trial gets, and the checks that are made before anything starts."""

import copy
import json
import math
import os
import secrets
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from scemae.config import checks, locations
from scemae.config import values as spelling
from scemae.config.dotted import flatten, get_setting, set_setting
from scemae.config.load import load_config, reload_config, to_yaml
from scemae.config.schema import SCHEMAS
from scemae.config.schema.jobs import SweepConfig
from scemae.data.storage.shard_set import ShardSet, open_shards
from scemae.distributed.process_group import choose_device
from scemae.errors import ConfigError, RunFolderError
from scemae.evaluation.landmarks.probe import Probe
from scemae.evaluation.subjects import load_trunk
from scemae.files import disk, documents, ownership
from scemae.models.vit import Encoder
from scemae.runs import networks
from scemae.runs.checkpoints import checkpoint
from scemae.runs.generations import Generation
from scemae.sweep import space as spaces
from scemae.sweep.space import Space, Values
from scemae.sweep.trials import GRID, PAPER, RANDOM, Trial, TrialRecord, read_records, refuse_links
from scemae.training.token_store import choose_home

SELECTION = (
    "eta",
    "clusters",
    "heads",
    "density",
    "remaining",
    "aggregate",
)  # of carb: what a token store of its own needs
FILE, STAGES = "sweep.json", ("pretrain.", "correspond.")
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
class SweepIdentity:
    """What every sweep.json has: the identity of its sweep."""

    identity: str


@dataclass
class Sweep:
    """A checked sweep in its folder."""

    folder: Path
    config: SweepConfig
    space: Space
    base: list[str]  # key=value of every trial
    identity: str = ""  # of all its starts: trials take over from their own past
    is_typed: bool = False  # the user typed its settings on this command line; else they were read from its folder

    @property
    def stage(self) -> str:
        return self.space.stage

    @property
    def names(self) -> list[str]:
        """The swept settings."""
        return [parameter.name for parameter in self.space.parameters]

    @cached_property
    def settings(self) -> Any:
        """The stage's settings without a sweep: those of trial 0."""
        return load_config(
            self.stage, [*self.base, f"run_dir={self.folder / 'trials'}"], typed=self.is_typed
        )

    @cached_property
    def paper(self) -> Values:
        """Trial 0: what the swept settings are by themselves."""
        return {name: get_setting(self.settings, name) for name in self.names}

    @cached_property
    def spawns(self) -> bool:
        """Ranks are fresh processes on a GPU, forks on a CPU."""
        return choose_device(self.settings.runtime.device).type == "cuda"

    @cached_property
    def _shards(self) -> ShardSet:
        return self.open(self.settings.data.shards)

    def open(self, location: str) -> ShardSet:
        """Shards that its settings name; what a URL in another user's sweep names is not copied. Raises ShardError."""
        return open_shards(
            location,
            self.settings.data.cache_dir,
            may_copy=self.is_typed or ownership.is_private_run(self.folder),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without open files: Ray Tune copies whatever its search and scheduler refer to."""
        return {name: value for name, value in vars(self).items() if name != "_shards"}

    @property
    def images(self) -> int:
        return len(self._shards)

    @property
    def data_digest(self) -> str:
        return self._shards.manifest.digest()

    @cached_property
    def backbone_digest(self) -> str:
        return checkpoint.weights_digest(networks.stage_1(Path(self.settings.backbone))[0])

    @cached_property
    def grid(self) -> list[Values]:
        """The grid's points, without the paper's setting, which is trial 0."""
        return [values for values in self.space.grid() if values != self.paper]

    @property
    def size(self) -> int:
        """How many trials there will be."""
        return (
            min(self.config.trials, 1 + len(self.grid))
            if self.config.search == GRID
            else self.config.trials
        )

    def trial(self, number: int) -> Trial:
        """Trial `number` of a random or grid search, whatever the others are."""
        if number == 0:
            return Trial(0, self.paper, PAPER)
        if self.config.search == GRID:
            return Trial(number, self.grid[number - 1], GRID)
        return Trial(number, self.space.draw(self.config.seed, number), RANDOM)

    @property
    def environment(self) -> dict[str, str]:
        """What a trial's ranks get: a restart, on any node, takes over from its own past."""
        return {"SCEMAE_JOB": f"sweep-{self.identity}"}

    def with_values(self, values: Values) -> Any:
        """The stage's settings with `values`. Raises ConfigError where they contradict each other."""
        found = copy.deepcopy(self.settings)
        for name, value in values.items():
            set_setting(found, name, value)
        checks.check(found)
        return found

    def arguments(self, trial: Trial) -> list[str]:
        """The command of a trial: `scemae` with these. Raises ConfigError for values that no search of this space gives."""
        folder = trial.folder(self.folder)
        if unknown := sorted(set(trial.values) ^ set(self.names)):
            raise ConfigError(
                f"{folder}/trial.json: found a value of {unknown[0]} where the space has none, or none where it has; "
                "remove this trial's folder, or give another run_dir"
            )
        locations.refuse_from_file(trial.values, "values", folder / "trial.json")
        found = [self.stage, *self.base, *self.as_words(trial.values), f"run_dir={folder / 'run'}"]
        found += [f"loop.{name}={value}" for name, value in self.looks(trial.values).items()]
        if self.stage == "correspond" and (not self.config.share_tokens or self.has_own_selection):
            # The selected tokens are of no use to other trials, and go when this one ends.
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
        return any(name in self.names for name in (f"carb.{key}" for key in SELECTION))

    @cached_property
    def shared_tokens(self) -> Path:
        """Where what all trials share is kept: beside the backbone if it is this user's alone, else in this folder."""
        store = self.settings.store
        if store.third_dir or store.dir:
            return Path(store.third_dir or store.dir)
        return choose_home(
            networks.stage_1(Path(self.settings.backbone))[0].parent.parent, self.folder
        )

    def looks(self, values: Values) -> dict[str, int]:
        """When a trial is looked at, and saved: at each share halving.grace of its training. Settings given for every trial
        win."""
        config = self.with_values(values)
        every = config.loop.log_every
        total = max(round(config.optim.epochs * self.images / config.optim.global_batch_size), 1)
        look = math.ceil(total * self.config.halving.grace / every) * every
        found = {"probe_every": look, "save_every": look, "keep": 1}
        given = {word.partition("=")[0] for word in self.base}
        return {name: value for name, value in found.items() if f"loop.{name}" not in given}

    def fingerprint(self) -> dict:
        """What a sweep folder's trials have in common, wherever things lie; another one is another sweep."""
        config, found = self.config, flatten(self.settings)
        looks = self.open(self.settings.probe_shards)
        mine = {
            **{
                name: value
                for name, value in found.items()
                if name not in PLACES and not name.startswith("runtime.")
            },
            "stage": self.stage,
            "search": config.search,
            "seed": config.seed,
            "trial.seed": found["seed"],
            "objectives": list(config.objectives),
            "halving": vars(config.halving),
            "trial.ranks": config.trial.ranks,
            "parameters": {
                one.name: {
                    key: value
                    for key, value in vars(one).items()
                    if value is not None and key != "name"
                }
                for one in self.space.parameters
            },
            "constraints": self.space.constraints,
            "data": self.data_digest,
            "validation": looks.manifest.digest(),
        }
        return mine | ({"backbone": self.backbone_digest} if self.stage == "correspond" else {})

    def check(self) -> None:
        """Whatever is wrong shows now. Raises ConfigError, CheckpointError, ShardError."""
        config = self.settings
        if config.probe_shards is None:
            raise ConfigError(
                f"found no {self.stage}.probe_shards, by which trials are judged; give faces with landmarks of "
                f"people to train on: {self.stage}.probe_shards=data/celeba/val"
            )
        if self.config.trial.ranks > 1 and 0 < self.config.trial.gpus < self.config.trial.ranks:
            raise ConfigError(
                f"trial.gpus: found {self.config.trial.gpus} with trial.ranks={self.config.trial.ranks}; a rank needs a "
                "GPU of its own"
            )
        _ = self.images, self.size
        encoder = None
        if self.stage == "correspond":
            encoder = load_trunk(Path(config.backbone))[0].network
        Probe(config.probe_shards, config.loop.probe_pairs, config.data.cache_dir).load()
        points = [self.paper, self.space.draw(self.config.seed, 1), *self.space.corners()]
        for values in points:
            try:
                found = self.with_values(values)
                if isinstance(encoder, Encoder) and config.method.name == "carb":
                    networks.check_clusters(found.carb, encoder)
            except ConfigError as error:
                shown = ", ".join(self.as_words(values))
                raise ConfigError(
                    f"{error}; the space allows {shown}: narrow it, or give a constraint"
                ) from error

    def claim(self) -> None:
        """Make the folder this sweep's, or go on in it. Raises RunFolderError where it is another one's."""
        refuse_links(self.folder)
        path, mine = self.folder / FILE, json.loads(json.dumps(self.fingerprint()))
        if path.exists():
            found = read_file(path)
            if different := [
                key for key in mine if found.get(key, mine[key]) != mine[key]
            ]:  # not what is new since
                raise RunFolderError(
                    f"{self.folder}: found a sweep with {_shown(different[0], found.get(different[0]))}, this one has "
                    f"{_shown(different[0], mine[different[0]])}; give another run_dir, or the settings it was "
                    "started with"
                )
            self.identity = found["identity"]
            self._write_settings()
            return
        if (self.folder / "provenance.json").exists() or (self.folder / "checkpoints").exists():
            raise RunFolderError(
                f"{self.folder}: found a run of another command in it; choose another run_dir"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.identity = secrets.token_hex(4)
        disk.write_json(path, {**mine, "identity": self.identity})
        self._write_settings()

    def _write_settings(self) -> None:
        """sweep.yaml, from which `reopen` takes what may change from start to start: trials, retries, paths."""
        disk.write_text(self.folder / "sweep.yaml", to_yaml(self.config))

    def records(self) -> list[TrialRecord]:
        """Its trials so far, in order."""
        return list(read_records(self.folder))

    def refuse_superseded(self, generation: Generation) -> None:
        """Raise RunFolderError once another start has taken over from this one: nothing may be written any more."""
        if generation.is_superseded:
            raise RunFolderError(
                f"{self.folder}: another start of this sweep has taken it over; this one ends and has "
                "touched nothing of its"
            )


def load(words: list[str]) -> Sweep:
    """A sweep from the words of its command: pretrain.KEY=VALUE and correspond.KEY=VALUE are added to every trial's settings.
    Raises ConfigError."""
    own = [word for word in words if not word.startswith(STAGES)]
    config = load_config("sweep", own, typed=True)
    for word in words:
        stage, _, setting = word.partition(".")
        if word.startswith(STAGES):
            getattr(config, stage).append(setting)
    return replace(read(config), is_typed=True)


def reopen(folder: Path) -> Sweep:
    """The sweep that lies in a folder, which may have moved. Raises RunFolderError."""
    found = read_file(folder / FILE)
    config = reload_config("sweep", folder / "sweep.yaml")
    config.run_dir = str(folder)
    return replace(read(config), identity=found["identity"])


def read(config: SweepConfig) -> Sweep:
    """A sweep as its settings say; nothing is written. Raises ConfigError."""
    space = spaces.read(config.space)
    other = {"pretrain": config.correspond, "correspond": config.pretrain}[space.stage]
    if other:
        raise ConfigError(
            f"found settings of the other stage ({other[0]}) with a space of `scemae {space.stage}`; give "
            f"{space.stage}.KEY=VALUE"
        )
    base = [absolute(word) for word in getattr(config, space.stage)]
    setattr(config, space.stage, base)
    for word in base:
        if word.partition("=")[0] == "run_dir":
            raise ConfigError(
                f"found {space.stage}.{word}; each trial has a folder of its own in run_dir of the sweep"
            )
    return Sweep(Path(config.run_dir).absolute(), config, space, base)


def absolute(word: str) -> str:
    """Paths of a setting made absolute where they exist here: trials run elsewhere."""
    key, _, value = word.partition("=")
    if key in (*PLACES, "experiment") and os.path.exists(value):
        return f"{key}={os.path.abspath(value)}"
    return word


def read_file(path: Path) -> dict:
    """sweep.json. Raises RunFolderError where it is damaged."""
    remedy = "restore it, or give another run_dir"
    try:
        found = documents.read_json(
            path, dict[str, Any], error=RunFolderError, remedy=remedy, finite=False
        )
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); {remedy}") from error
    documents.convert(found, SweepIdentity, path, error=RunFolderError, remedy=remedy)
    return found


def _shown(key: str, value: Any) -> str:
    return f"{key} {json.dumps(value)}"[:300]
