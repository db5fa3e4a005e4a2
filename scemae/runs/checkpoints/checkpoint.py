"""Checkpoints of a run: what is in one, which ones count, whether they are whole, and what other commands read of them.

    run_dir/checkpoints/step-00000500.g0007/        committed by one rename; .g0007: the generation it belongs to
        weights.safetensors                         the whole module in fp32: what travels
        moments-0001-of-0004.safetensors            each rank's stretches of Adam's moments, by parameter name
        manifest.json                               `TrainState`, with size and SHA-256 of every file

No file is a pickle. Any number of ranks and any ZeRO stage can go on from it (distributed/zero_state.py). save.py writes them,
resume.py gives them back to an engine.
"""

import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from scemae.errors import CheckpointError, FileError
from scemae.files import disk, documents
from scemae.files.documents import Count, Digest, FileName, Step
from scemae.runs import faults, generations
from scemae.runs.checkpoints.tensor_file import Written
from scemae.runs.generations import Generation

FORMAT_VERSION = 2
CHECKPOINTS, MANIFEST, WEIGHTS = "checkpoints", "manifest.json", "weights.safetensors"
OLDER = "give an older checkpoint, or remove this folder to go on from the one before"
NAME = re.compile(r"step-(\d{8})\.g(\d{4,})")


class Entry(TypedDict):
    """One file of a checkpoint, as `Written` says it."""

    file: FileName
    bytes: Count
    sha256: Digest


@dataclass
class TrainState:
    """What a checkpoint is of. Data position follows from seed and global step; `skips` are the steps left out for good,
    as text, each with the reason; `settings` are all those that change results, and `config_hash` is theirs."""

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
    files: list[Entry] = field(default_factory=list)
    config_hash: str = ""
    format_version: int = FORMAT_VERSION
    manifest_hash: str = ""  # of all the rest

    @property
    def updates(self) -> int:
        """Optimizer steps taken: all but those left out."""
        return self.global_step - sum(int(step) <= self.global_step for step in self.skips)


def write_state(folder: Path, state: TrainState) -> None:
    """Write the manifest of a checkpoint, with the hashes of its settings and of itself."""
    raw = {**asdict(state), "config_hash": disk.json_digest(state.settings), "manifest_hash": ""}
    disk.write_json(folder / MANIFEST, {**raw, "manifest_hash": disk.json_digest(raw)})


def path_of(run_dir: Path, step: int, generation: int) -> Path:
    """Where a generation keeps the checkpoint of a step."""
    return run_dir / CHECKPOINTS / f"step-{step:08d}.g{generation:04d}"


def place_of(folder: Path) -> tuple[int, int]:
    """(step, generation) of a checkpoint's folder."""
    step, generation = NAME.fullmatch(folder.name).groups()
    return int(step), int(generation)


def present(run_dir: Path) -> list[Path]:
    """Every committed checkpoint in a run folder, by step and generation, whether it counts or not."""
    found = (path for path in (run_dir / CHECKPOINTS).glob("step-*") if NAME.fullmatch(path.name))
    return sorted((path for path in found if (path / MANIFEST).exists()), key=place_of)


def committed(run_dir: Path) -> list[Path]:
    """The checkpoints that count, oldest first: of a superseded generation only those up to where it was superseded."""
    bases = generations.base_steps(run_dir)
    counting = [
        path
        for path in present(run_dir)
        if place_of(path)[0] <= generations.upper_step(bases, place_of(path)[1])
    ]
    return list(
        {place_of(path)[0]: path for path in counting}.values()
    )  # of one step, the latest generation's


def newest(location: Path) -> Path:
    """The newest checkpoint of a run folder, or `location` itself if it is one. Raises CheckpointError."""
    if (location / MANIFEST).exists() and NAME.fullmatch(location.name):
        return location
    refuse_old_format(location)
    found = [
        path for path in committed(location) if place_of(path)[0] > 0
    ]  # step 0 has learnt nothing
    if not found:
        raise CheckpointError(
            f"{location}: found no finished checkpoint in it; give a run folder or one of its "
            f"{CHECKPOINTS}/step-* folders"
        )
    return found[-1]


def refuse_old_format(location: Path) -> None:
    """Raise CheckpointError for a checkpoint, or a run folder with checkpoints, of format 1."""
    if old := [*location.glob("state.json"), *location.glob(f"{CHECKPOINTS}/step-*/state.json")]:
        raise CheckpointError(
            f"{old[0].parent}: found checkpoint format 1, this version reads {FORMAT_VERSION}; use the "
            "version of scemae that wrote it, or another run_dir"
        )


def read_state(folder: Path) -> TrainState:
    """The state of one checkpoint. Raises CheckpointError where it is unreadable or of another format."""
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
            f"{folder}: found checkpoint format {str(found)[:40]}, this version reads {FORMAT_VERSION}; use the "
            "version of scemae that wrote it"
        )
    if disk.json_digest({**raw, "manifest_hash": ""}) != raw.get("manifest_hash"):
        raise CheckpointError(
            f"{path}: its own SHA-256 is another, it was altered; give an older checkpoint"
        )
    return documents.convert(raw, TrainState, path, error=CheckpointError, remedy=OLDER)


def damage(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """The first thing wrong with files number part, part + parts, ... of a checkpoint: size or SHA-256; None if whole."""
    try:
        listed = [Written(**entry) for entry in read_state(folder).files]
    except CheckpointError as error:
        return str(error)
    if not listed:
        return f"{folder / MANIFEST}: lists no files"
    for entry in listed[part::parts]:
        path = folder / entry.file
        try:
            if (size := path.stat().st_size) != entry.bytes:
                return f"{path}: found {size:,} bytes, its manifest says {entry.bytes:,}"
            if disk.file_digest(path) != entry.sha256:
                return f"{path}: its SHA-256 is not its manifest's"
        except OSError as error:
            return f"{path}: {error.strerror}"
        except FileError as error:
            return str(error)
    return None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The whole weights of one checkpoint. Raises CheckpointError where they are missing or damaged."""
    needed = {entry["file"]: entry["sha256"] for entry in read_state(folder).files}.get(WEIGHTS)
    path = folder / WEIGHTS
    try:
        disk.open_regular(path).close()  # a pipe would be waited for
        weights = load_file(path)
        problem = None if weights_digest(folder) == needed else "its SHA-256 is not its manifest's"
    except (OSError, SafetensorError, FileError, KeyError, ValueError) as error:
        problem = error
    if problem:
        raise CheckpointError(f"{path}: cannot be read ({problem}); {OLDER}")
    return weights


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each of a checkpoint's weights, from the head of their file. Raises CheckpointError."""
    path = folder / WEIGHTS
    try:
        disk.open_regular(path).close()
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (OSError, SafetensorError, FileError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {OLDER}") from error


def weights_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights: which backbone a projector belongs to."""
    return disk.file_digest(folder / WEIGHTS)


def adopt(folder: Path, run_dir: Path, generation: Generation) -> Path:
    """Make a checkpoint this generation's own: hard links to its files under its name, which no other one deletes.

    From then on, later steps of earlier generations no longer count. Raises CheckpointError where it is gone.
    """
    step, _ = place_of(folder)
    mine = path_of(run_dir, step, generation.number)
    if not mine.exists():
        copy_by_links(folder, mine, run_dir)
    generation.record_base(step)
    return mine


def copy_by_links(folder: Path, target: Path, run_dir: Path) -> None:
    """Another name, in the run folder, for a checkpoint, at once whole: hard links, or copies where the file system has none.
    Raises CheckpointError, also where a file in it is a link: it would bring in what somebody else chose."""
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
    """Delete a checkpoint of a run so that a kill half-way leaves nothing that looks whole. Raises FileError where a link is in
    its place, or on the way to it."""
    run_dir = folder.parent.parent
    if not disk.is_inside(folder, run_dir):
        raise FileError(
            f"{folder}: found a link on the way from {run_dir}; it was not removed, because what it leads to may be "
            "another run's"
        )
    doomed = folder.with_name(folder.name + ".partial")
    try:
        os.replace(folder, doomed)
        faults.at("prune", step=place_of(folder)[0])
        disk.remove_tree(doomed, run_dir)
    except FileNotFoundError:  # a zombie of this run and we clean up alike
        pass


def tidy(run_dir: Path, generation: Generation, keep: int, keep_every: int) -> None:
    """Delete what is not wanted: all but the newest `keep` that count and every `keep_every`-th step (0: none).

    Only what bears this generation's number, or an earlier one's, which is dead or fenced.
    """
    counting = committed(run_dir)
    kept = {path for path in counting if keep_every and place_of(path)[0] % keep_every == 0} | set(
        counting[-keep:]
    )
    for path in present(run_dir):
        if path not in kept and place_of(path)[1] <= generation.number:
            remove(path)


def clear_partial(run_dir: Path, generation: Generation) -> None:
    """Delete what earlier generations left half written or half deleted."""
    for path in (run_dir / CHECKPOINTS).glob("step-*.partial"):
        known = NAME.fullmatch(path.name.removesuffix(".partial"))
        if known and int(known[2]) < generation.number and disk.is_inside(path, run_dir):
            disk.remove_tree(path, run_dir, best_effort=True)
