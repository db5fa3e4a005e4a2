"""The folder of a sweep: sweep.json says which sweep it is, so that no other one resumes in it."""

import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scemae.config.dotted import flatten
from scemae.config.load import reload_config, to_yaml
from scemae.errors import RunFolderError
from scemae.files import disk, documents
from scemae.sweep.spec import PLACES, Sweep, read
from scemae.sweep.trials import refuse_links

FILE = "sweep.json"


@dataclass
class SweepIdentity:
    """What every sweep.json has: the identity of its sweep."""

    identity: str


def fingerprint(sweep: Sweep) -> dict[str, Any]:
    """What all trials of a sweep have in common, without paths: it tells sweeps apart."""
    config, found = sweep.config, flatten(sweep.settings)
    settings = {
        name: value
        for name, value in found.items()
        if name not in PLACES and not name.startswith("runtime.")
    }
    parameters = {}
    for one in sweep.space.parameters:
        known = {key: value for key, value in vars(one).items() if value is not None}
        parameters[known.pop("name")] = known
    mine = {
        **settings,
        "stage": sweep.stage,
        "search": config.search,
        "seed": config.seed,
        "trial.seed": found["seed"],
        "objectives": list(config.objectives),
        "halving": vars(config.halving),
        "trial.ranks": config.trial.ranks,
        "parameters": parameters,
        "constraints": sweep.space.constraints,
        "data": sweep.data_digest,
        "validation": sweep.open(sweep.settings.probe_shards).manifest.digest(),
    }
    return mine | ({"backbone": sweep.backbone_digest} if sweep.stage == "correspond" else {})


def claim(sweep: Sweep) -> None:
    """Make the folder this sweep's, or resume in it, and set its identity.

    Raises RunFolderError if the folder belongs to another sweep or command.
    """
    folder = sweep.folder
    refuse_links(folder)
    path, mine = folder / FILE, json.loads(json.dumps(fingerprint(sweep)))
    if path.exists():
        found = read_sweep_file(path)
        # A key that the file lacks is a setting that did not exist when the sweep was started.
        if different := [key for key in mine if found.get(key, mine[key]) != mine[key]]:
            key = different[0]
            raise RunFolderError(
                f"{folder}: found a sweep with {_shown(key, found[key])}, this one has "
                f"{_shown(key, mine[key])}; give another run_dir, or the settings it was started "
                "with"
            )
        sweep.identity = found["identity"]
    else:
        if (folder / "provenance.json").exists() or (folder / "checkpoints").exists():
            raise RunFolderError(
                f"{folder}: found a run of another command in it; choose another run_dir"
            )
        folder.mkdir(parents=True, exist_ok=True)
        sweep.identity = secrets.token_hex(4)
        disk.write_json(path, {**mine, "identity": sweep.identity})
    # `reopen` takes from it what may change from start to start: trials, retries, paths.
    disk.write_text(folder / "sweep.yaml", to_yaml(sweep.config))


def reopen(folder: Path) -> Sweep:
    """The sweep in a folder, which may have been moved. Raises RunFolderError."""
    found = read_sweep_file(folder / FILE)
    config = reload_config("sweep", folder / "sweep.yaml")
    config.run_dir = str(folder)
    return replace(read(config), identity=found["identity"])


def read_sweep_file(path: Path) -> dict[str, Any]:
    """sweep.json. Raises RunFolderError if it is damaged."""
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
