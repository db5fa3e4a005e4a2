"""Refuse arguments that name a folder or file that is not there, before torch is imported."""

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from scemae.config.dotted import get_setting, setting_names
from scemae.config.locations import scheme_of
from scemae.errors import ConfigError
from scemae.files.hub import is_on_hub

# Settings that a command reads as a place on this machine, and what makes one.
RUN = "give the run folder of `scemae {stage}`, or one of its checkpoints"
PLACES = {
    "backbone": RUN.format(stage="pretrain"),
    "projector": RUN.format(stage="correspond"),
    "run": "give the run folder of a stage, or an export of one",
    "data.shards": "build the shards first with `scemae shards build`",
    "matching.shards": "build the shards first with `scemae shards build`",
    "detection.train": "build the shards first with `scemae shards build`",
    "detection.test": "build the shards first with `scemae shards build`",
}

NO_TRACKER, TRACKERS = "none", ("wandb", "mlflow", "trackio")  # packages of those names


def refuse_missing_tracker(name: str) -> None:
    """Raise ConfigError where the package of a tracker is not installed."""
    if name != NO_TRACKER and find_spec(name) is None:
        raise ConfigError(
            f"runtime.tracker: found {name}, whose package is not installed; run `pip install "
            f"'scemae[{name}]'`, or give runtime.tracker=none"
        )


def refuse_missing_arguments(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ConfigError for a path among these options that is not there.

    Of several paths in one option one must be there: a command names and leaves out the others.
    """
    for name in names:
        found = getattr(options, name, None)
        paths = found if isinstance(found, list) else [found] if found is not None else []
        if paths and not any(path.exists() or is_on_hub(path) for path in paths):
            raise ConfigError(f"{paths[0]}: no such file or folder; give one that is there")


def refuse_missing(config: Any) -> None:
    """Raise ConfigError if a setting of PLACES names what is no folder and no URL, run_dir a file,
    or runtime.tracker a package that is not there.
    """
    known = setting_names(type(config))
    if "runtime.tracker" in known:
        refuse_missing_tracker(config.runtime.tracker)
    if os.path.exists(config.run_dir) and not os.path.isdir(config.run_dir):
        raise ConfigError(
            f"run_dir: {config.run_dir}: is a file; give a new folder, or that of the run to go on "
            "with"
        )
    is_mixed = "data.mix" in known and config.data.mix  # then nothing reads data.shards
    for key, remedy in PLACES.items():
        place = get_setting(config, key) if key in known else None
        if place is None or scheme_of(place) or is_on_hub(place) or os.path.isdir(place):
            continue
        if not (is_mixed and key == "data.shards"):
            found = "is a file" if os.path.exists(place) else "no such folder"
            raise ConfigError(f"{key}: {place}: {found}; {remedy}")
