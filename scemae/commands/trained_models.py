"""Refuse what is given as a trained model and is none, before a command imports torch (seconds)."""

from pathlib import Path
from typing import Any

from scemae.errors import CheckpointError
from scemae.files.hub import is_on_hub
from scemae.runs import given
from scemae.runs.lineage import read_run

PARTS = ("run", "backbone", "projector")


def refuse_untrained(name: str, found: Any) -> None:
    """Raise what runs/given.py raises for the options, or the settings, of the command `name`.

    What is on the hub is left to the command. Raises CheckpointError, RunFolderError, ConfigError.
    """
    if name == "report":
        run = given.evaluated(found.run)
        if not (run / "config.yaml").exists():
            read_run(run)  # raises
    elif name == "tables":
        for run in found.runs:
            if not is_on_hub(run):
                given.find(Path(run))
    elif name == "correspond":
        if given.is_export(Path(found.backbone)):
            raise CheckpointError(
                f"backbone: {found.backbone}: found an export, the run of stage 1 that it was made "
                "of was needed; give that run folder"
            )
    else:
        _refuse_parts(name, {part: getattr(found, part, None) for part in PARTS})


def _refuse_parts(name: str, parts: dict[str, Any]) -> None:
    named = [part for part in parts.values() if part is not None]
    if any(map(is_on_hub, named)) or (name == "evaluate" and not named):
        return  # without a model, evaluate measures the floors
    if name == "export" and parts["projector"] is not None:  # its RUN is the backbone then
        parts = {"run": None, "backbone": parts["run"], "projector": parts["projector"]}
    places = (None if part is None else Path(part) for part in parts.values())
    given.of_options(*places, sign="" if name == "evaluate" else "--")
