"""Checkpoints of a run: what is in one, which ones count, and whether they are complete.

    run_dir/checkpoints/step-00000500.g0007/   committed by one rename; .g0007: its generation
        weights.safetensors                    the whole module in fp32, for any program to read
        moments-0001-of-0004.safetensors       each rank's part of Adam's moments, by parameter name
        manifest.json                          `TrainState`, with size and SHA-256 of every file

No file is a pickle. A run can resume from it with any number of ranks and any ZeRO stage
(distributed/zero_state.py). save.py writes checkpoints, resume.py loads them into an engine.

What only looks for checkpoints or reads their manifests, as a sweep does, imports no torch here.
"""

import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from safetensors import SafetensorError, safe_open

from scemae.errors import CheckpointError, FileError
from scemae.files import disk, documents
from scemae.files.documents import Count, Digest, FileName, Step
from scemae.runs import faults, generations
from scemae.runs.checkpoints.tensor_file import WrittenFile
from scemae.runs.generations import Generation

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
CHECKPOINTS, MANIFEST, WEIGHTS = "checkpoints", "manifest.json", "weights.safetensors"
OLDER = "give an older checkpoint, or remove this folder to resume from the one before"
NAME = re.compile(r"step-(\d{8})\.g(\d{4,})")


class ListedFile(TypedDict):
    """One file of a checkpoint in its manifest: the fields of `WrittenFile`."""

    file: FileName
    bytes: Count
    sha256: Digest


@dataclass
class TrainState:
    """The state of training at a checkpoint. Seed and global step give the position in the data.

    skips: the steps left out for good, as text, each with the reason. settings: all that change
    results; `config_hash` is their hash.
    """

    global_step: Count
    seed: Count
    world_size: Count
    zero_stage: int
    stage: str  # "pretrain" or "correspond"
    settings: dict[str, Any]
    data_digest: str
    order_version: int
    generation: Count = 0
    skips: dict[Step, str] = field(default_factory=dict)
    files: list[ListedFile] = field(default_factory=list)
    config_hash: str = ""
    format_version: int = FORMAT_VERSION
    manifest_hash: str = ""  # of all the rest

    @property
    def updates(self) -> int:
        """Optimizer steps taken: all steps except those left out."""
        return self.global_step - sum(int(step) <= self.global_step for step in self.skips)


def listed(file: WrittenFile) -> ListedFile:
    """A file's line in the manifest."""
    return {"file": file.file, "bytes": file.bytes, "sha256": file.sha256}


def write_state(folder: Path, state: TrainState) -> None:
    """Write the manifest of a checkpoint, with the hashes of its settings and of itself."""
    raw = {**asdict(state), "config_hash": disk.json_digest(state.settings), "manifest_hash": ""}
    disk.write_json(folder / MANIFEST, {**raw, "manifest_hash": disk.json_digest(raw)})


def path_of(run_dir: Path, step: int, generation: int) -> Path:
    """Where a generation keeps the checkpoint of a step."""
    return run_dir / CHECKPOINTS / f"step-{step:08d}.g{generation:04d}"


def place_of(folder: Path) -> tuple[int, int]:
    """(step, generation) of a checkpoint's folder, from its name."""
    step, generation = folder.name.removeprefix("step-").split(".g")
    return int(step), int(generation)


def present(run_dir: Path) -> list[Path]:
    """Every checkpoint in a run folder, by step and generation, whether it counts or not."""
    found = (path for path in (run_dir / CHECKPOINTS).glob("step-*") if NAME.fullmatch(path.name))
    return sorted((path for path in found if (path / MANIFEST).exists()), key=place_of)


def committed(run_dir: Path) -> list[Path]:
    """The checkpoints that count, oldest first.

    Of a superseded generation, only those up to the step where it was superseded. Of one step, that
    of the latest generation.
    """
    bases = generations.base_steps(run_dir)
    counting = {}
    for path in present(run_dir):
        step, generation = place_of(path)
        if step <= generations.upper_step(bases, generation):
            counting[step] = path
    return list(counting.values())


def newest(location: Path) -> Path:
    """The newest checkpoint of a run folder, or `location` itself where it is a checkpoint.

    Raises CheckpointError where there is none.
    """
    if is_checkpoint(location):
        return location
    refuse_old_format(location)
    found = _results(location)
    if not found:
        raise CheckpointError(
            f"{location}: found no finished checkpoint in it; give a run folder or one of its "
            f"{CHECKPOINTS}/step-* folders"
        )
    return found[-1]


def is_checkpoint(location: Path) -> bool:
    """Whether a place is one checkpoint, and not a run folder."""
    return (location / MANIFEST).exists() and bool(NAME.fullmatch(location.name))


def within(location: Path, stage: str) -> Path:
    """`location`, or the run of a stage ("pretrain", "correspond") in the folder of a chain or a
    demo.
    """
    inside = location / stage
    is_chain = not (location / CHECKPOINTS).is_dir() and (inside / CHECKPOINTS).is_dir()
    return inside if is_chain else location


def has_result(location: Path) -> bool:
    """Whether `newest` finds a checkpoint at a place."""
    return is_checkpoint(location) or bool(_results(location))


def _results(run_dir: Path) -> list[Path]:
    return [path for path in committed(run_dir) if place_of(path)[0] or _is_result(path)]


def _is_result(folder: Path) -> bool:
    """Whether a checkpoint of step 0, which is untrained, is all that its run makes."""
    return read_state(folder).settings.get("optim", {}).get("epochs") == 0


def refuse_old_format(location: Path) -> None:
    """Raise CheckpointError for a checkpoint, or a run folder with checkpoints, of format 1."""
    if old := [*location.glob("state.json"), *location.glob(f"{CHECKPOINTS}/step-*/state.json")]:
        raise CheckpointError(
            f"{old[0].parent}: found checkpoint format 1, this version reads {FORMAT_VERSION}; use "
            "the version of scemae that wrote it, or another run_dir"
        )


def read_state(folder: Path) -> TrainState:
    """The manifest of one checkpoint.

    Raises CheckpointError where it is unreadable, was altered, or is of another format.
    """
    path = folder / MANIFEST
    try:
        text = documents.read_bytes(path, error=CheckpointError, remedy=OLDER)
        raw = documents.parse_json(
            text, dict[str, Any], path, error=CheckpointError, remedy=OLDER, finite=False
        )
    except (OSError, CheckpointError) as error:
        refuse_old_format(folder)
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: cannot be read ({error}); {OLDER}") from error
    if (found := raw.get("format_version")) != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: found checkpoint format {str(found)[:40]}, this version reads "
            f"{FORMAT_VERSION}; use the version of scemae that wrote it"
        )
    if disk.json_digest({**raw, "manifest_hash": ""}) != raw.get("manifest_hash"):
        raise CheckpointError(
            f"{path}: its content is not that of its own SHA-256, so it was altered; give an older "
            "checkpoint"
        )
    return documents.convert(raw, TrainState, path, error=CheckpointError, remedy=OLDER)


def damage(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """The first file of a checkpoint with a wrong size or SHA-256, as text; None if all are right.

    Only the files number part, part + parts, ... are read, so that ranks can share the work.
    """
    try:
        files = read_state(folder).files
    except CheckpointError as error:
        return str(error)
    if not files:
        return f"{folder / MANIFEST}: lists no files"
    for entry in files[part::parts]:
        path = folder / entry["file"]
        try:
            if (size := path.stat().st_size) != entry["bytes"]:
                return f"{path}: found {size:,} bytes, its manifest says {entry['bytes']:,}"
            if disk.file_digest(path) != entry["sha256"]:
                return f"{path}: its SHA-256 is not its manifest's"
        except OSError as error:
            return f"{path}: {error.strerror}"
        except FileError as error:
            return str(error)
    return None


def stage_1(location: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a stage-1 run, of any method, and its settings.

    `location` may be the folder of a chain or a demo. Raises CheckpointError.
    """
    folder = newest(within(location, "pretrain"))
    state = read_state(folder)
    if state.stage != "pretrain":
        raise CheckpointError(
            f"{folder}: found a checkpoint of `scemae {state.stage}`, one of `scemae pretrain` was "
            "needed; give backbone=RUN of stage 1"
        )
    return folder, state.settings


def read_weights(folder: Path) -> "dict[str, Tensor]":
    """The weights of one checkpoint. Raises CheckpointError where they are missing or damaged."""
    from safetensors.torch import load_file

    needed = {entry["file"]: entry["sha256"] for entry in read_state(folder).files}.get(WEIGHTS)
    path = folder / WEIGHTS
    try:
        disk.open_regular(path).close()  # safetensors would wait for a pipe
        weights = load_file(path)
        if weights_digest(folder) != needed:
            raise ValueError("its SHA-256 is not its manifest's")
    except (OSError, SafetensorError, FileError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {OLDER}") from error
    return weights


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint's weights, from the header of the file. Raises CheckpointError."""
    path = folder / WEIGHTS
    try:
        disk.open_regular(path).close()
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (OSError, SafetensorError, FileError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {OLDER}") from error


def weights_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights, by which a projector names its backbone."""
    return disk.file_digest(folder / WEIGHTS)


def adopt(folder: Path, run_dir: Path, generation: Generation) -> Path:
    """Make a checkpoint this generation's own, by hard links to its files under a name of its own.

    No other generation deletes it then, and later steps of earlier generations no longer count.
    Raises CheckpointError where it no longer exists.
    """
    step, _ = place_of(folder)
    own = path_of(run_dir, step, generation.number)
    if not own.exists():
        copy_by_links(folder, own, run_dir)
    generation.record_base(step)
    return own


def copy_by_links(folder: Path, target: Path, run_dir: Path) -> None:
    """Make `target` a second name of a checkpoint, complete in one step.

    Its files are hard links, or copies where the file system has no links. Raises CheckpointError,
    also where a file of the checkpoint is a symbolic link, because it could lead to other weights.
    """
    aside = target.with_name(target.name + ".partial")
    try:
        disk.make_folders(aside.parent, run_dir)
        disk.remove_tree(aside, run_dir, best_effort=True)
        aside.mkdir()
        for path in folder.iterdir():
            disk.refuse_link(path)
            try:
                os.link(path, aside / path.name)
            except OSError:
                with disk.open_regular(path) as source, disk.create(aside / path.name) as copy:
                    shutil.copyfileobj(source, copy)
        disk.rename_folder(aside, target)
    except (OSError, FileError) as error:
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{folder}: cannot be made this run's own ({why}); start again"
        ) from error


def remove(folder: Path) -> None:
    """Delete a checkpoint so that a kill during it leaves nothing that looks complete.

    Raises FileError where the checkpoint, or a folder between it and the run folder, is a link.
    """
    run_dir = folder.parent.parent
    disk.refuse_links_between(folder, run_dir)
    doomed = folder.with_name(folder.name + ".partial")
    try:
        os.replace(folder, doomed)
        faults.at("prune", step=place_of(folder)[0])
        disk.remove_tree(doomed, run_dir)
    except FileNotFoundError:  # a superseded generation of this run deletes it too
        pass


def tidy(run_dir: Path, generation: Generation, keep: int, keep_every: int) -> None:
    """Delete all but the newest `keep` that count and every `keep_every`-th step (0: none more).

    Checkpoints of later generations stay. Earlier ones are dead or fenced.
    """
    counting = committed(run_dir)
    kept = set(counting[-keep:])
    if keep_every:
        kept |= {path for path in counting if place_of(path)[0] % keep_every == 0}
    for path in present(run_dir):
        if path not in kept and place_of(path)[1] <= generation.number:
            remove(path)


def clear_partial(run_dir: Path, generation: Generation) -> None:
    """Delete checkpoints that earlier generations left half written or half deleted."""
    for path in (run_dir / CHECKPOINTS).glob("step-*.partial"):
        known = NAME.fullmatch(path.name.removesuffix(".partial"))
        if known and int(known[2]) < generation.number and disk.is_inside(path, run_dir):
            disk.remove_tree(path, run_dir, best_effort=True)
