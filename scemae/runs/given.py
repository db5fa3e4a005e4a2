"""What may be given where a trained model is needed, and the checkpoints that follow from it.

RUN is one of
    a run folder of stage 1 or 2, or one of its checkpoints
    the folder of a chain or a demo, with pretrain/ and correspond/ in it
    a folder that `scemae export` wrote, or hf-hub:OWNER/NAME, such a folder on the hub
Where it holds a stage 2, the backbone is the one that this was trained on: its provenance names it.
"""

from dataclasses import dataclass
from pathlib import Path

from scemae.errors import CheckpointError, ConfigError, RunFolderError
from scemae.files import hub
from scemae.runs.checkpoints import checkpoint
from scemae.runs.lineage import locate, read_run

EXPORTED = "model.safetensors"  # the encoder's weights in a folder of `scemae export`
RUN = (
    "a run folder of `scemae pretrain` or `scemae correspond`, one of its checkpoints, the folder "
    "of a chain or a demo, or a folder that `scemae export` wrote"
)


@dataclass(frozen=True)
class Given:
    """The weights that were meant: checkpoint folders, or for both the folder of an export."""

    backbone: Path
    projector: Path | None = None
    is_export: bool = False


def find(location: Path) -> Given:
    """The checkpoints that a RUN stands for. Raises CheckpointError, RunFolderError."""
    if hub.is_on_hub(location):
        location = hub.download(location)
    if is_export(location):
        return Given(location, location, True)
    if not location.is_dir():
        found = "is a file" if location.exists() else "no such folder"
        raise CheckpointError(f"{location}: {found}; give {RUN}")
    second, first = (checkpoint.within(location, one) for one in ("correspond", "pretrain"))
    for place in (second, first):
        if checkpoint.has_result(place):
            return _of_checkpoint(checkpoint.newest(place), location)
    if (location / "config.yaml").exists():
        _refuse_other_run(location)
    checkpoint.refuse_old_format(location)
    raise CheckpointError(f"{location}: found no finished checkpoint in it; give {RUN}")


def of_options(
    run: Path | None, backbone: Path | None, projector: Path | None, *, sign: str = "--"
) -> Given:
    """The checkpoints that RUN, or a backbone, a projector or both, stand for.

    sign: what stands before the names in errors, "--" for options. Raises ConfigError where nothing
    or too much is given, CheckpointError, RunFolderError.
    """
    names = [f"{sign}{name}" for name in ("run", "backbone", "projector")]
    given = [name for name, one in zip(names, (run, backbone, projector)) if one is not None]
    if not given:
        raise ConfigError(f"found no trained model; give {names[0]} RUN: {RUN}")
    if run is not None:
        if len(given) > 1:
            raise ConfigError(
                f"found {' and '.join(given)}; give {names[0]} alone, which finds the backbone, or "
                f"{names[1]} and {names[2]}"
            )
        return find(run)
    second = None if projector is None else projector_of(projector)
    if backbone is None:
        assert second is not None
        return find(second)
    if is_export(backbone):
        if second not in (None, backbone):
            raise ConfigError(
                f"{backbone}: is an export, and {projector} another model; give one of them as "
                f"{names[0]}"
            )
        return Given(backbone, second, True)
    _refuse_stage_2(backbone)
    return Given(checkpoint.stage_1(backbone)[0], second)


def _refuse_stage_2(backbone: Path) -> None:
    """Raise CheckpointError for a run of stage 2 in the place of its backbone."""
    folder = checkpoint.newest(checkpoint.within(backbone, "pretrain"))
    if checkpoint.read_state(folder).stage == "correspond":
        raise CheckpointError(
            f"{folder}: found a checkpoint of `scemae correspond` as the backbone; give that run "
            "alone, as RUN, and its backbone is found"
        )


def projector_of(location: Path) -> Path:
    """The checkpoint of stage 2 at a place, or the export. Raises CheckpointError for stage 1."""
    if is_export(location):
        return location
    folder = checkpoint.newest(checkpoint.within(location, "correspond"))
    stage = checkpoint.read_state(folder).stage
    if stage != "correspond":
        raise CheckpointError(
            f"{folder}: found a checkpoint of `scemae {stage}`, one of `scemae correspond` was "
            "needed; give projector=RUN of stage 2"
        )
    return folder


def is_export(location: Path) -> bool:
    """Whether `scemae export` wrote this folder."""
    return (location / EXPORTED).is_file() and (location / "config.json").is_file()


def backbone_of(folder: Path, run: Path) -> Path:
    """The checkpoint that the stage-2 checkpoint `folder` was trained on, as its run names it.

    `run` is named in errors. Raises CheckpointError, RunFolderError.
    """
    try:
        return locate(read_run(folder.parent.parent).provenance["backbone"], folder.parent.parent)
    except KeyError as error:
        raise CheckpointError(
            f"{run}: its provenance.json names no backbone; give the run folder of stage 1 as well"
        ) from error


def evaluated(location: Path) -> Path:
    """The run to report on: `location`, or the last run in the folder of a chain or a demo.

    Raises RunFolderError for an export, which holds no results.
    """
    if is_export(location):
        raise RunFolderError(
            f"{location}: found an export, which holds no results; run `scemae evaluate "
            f"run={location} run_dir=...` and give that run_dir"
        )
    if (location / "config.yaml").exists():
        return location
    inside = (location / name for name in ("evaluate", "correspond", "pretrain"))
    return next((one for one in inside if (one / "config.yaml").exists()), location)


def _of_checkpoint(folder: Path, location: Path) -> Given:
    if checkpoint.read_state(folder).stage == "pretrain":
        return Given(folder)
    return Given(backbone_of(folder, location), folder)


def _refuse_other_run(location: Path) -> None:
    """Raise for a run of another command, and for a training run that has saved nothing."""
    stage = read_run(location).stage
    if stage == "evaluate":
        raise CheckpointError(
            f"{location}: found a run of `scemae {stage}`, which holds no weights; give {RUN}"
        )
