"""Resume a run: find its newest intact checkpoint, make it this generation's, load it."""

import math
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, distributed

from scemae.distributed import zero_state
from scemae.distributed.process_group import Place, agree
from scemae.distributed.zero_state import Fragment
from scemae.errors import CheckpointError
from scemae.files import documents
from scemae.files.documents import Count
from scemae.runs import generations
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.checkpoint import WEIGHTS, TrainState
from scemae.runs.generation_files import LEDGER
from scemae.runs.generations import Generation

SAME = (
    ("stage", "stage"),
    ("settings", "settings"),
    ("seed", "seed"),
    ("data_digest", "shards"),
    ("order_version", "order of samples"),
)


def newest_whole(run_dir: Path, place: Place) -> Path | None:
    """The newest checkpoint whose files have the sizes and hashes of its manifest.

    All ranks call it, and each checks a part of the files. Damaged checkpoints are named in
    warnings. Raises CheckpointError where none of them is intact, or where none is left of a run
    that has trained.
    """
    found = _listed(run_dir, place)
    while found:
        for folder in reversed(found):
            problems: list = [None] * place.world_size
            mine = checkpoint.damage(Path(folder), place.rank, place.world_size)
            distributed.all_gather_object(problems, mine)
            problem = next(filter(None, problems), None)
            if problem is None:
                return Path(folder)
            if place.is_first:
                print(
                    f"scemae: warning: {problem}; going back to the checkpoint before",
                    file=sys.stderr,
                    flush=True,
                )
        before, found = found, _listed(run_dir, place)
        if found == before:  # else an old generation, still alive, has saved
            raise CheckpointError(
                f"{run_dir}: found {len(found)} checkpoints and none of them whole ({problem}); "
                "restore one from a backup, or choose another run_dir to start from scratch"
            )
    trained = agree(len(generations.rows(run_dir, LEDGER)) if place.is_first else None)
    if trained:  # a run saves before its first step, so somebody removed them
        raise CheckpointError(
            f"{run_dir}: found no checkpoint although {trained} steps were trained; bring its "
            f"{checkpoint.CHECKPOINTS} folder back, or choose another run_dir to start from scratch"
        )
    return None


def _listed(run_dir: Path, place: Place) -> list[str]:
    """The checkpoints that count, as rank 0 sees them."""
    return agree([str(path) for path in checkpoint.committed(run_dir)] if place.is_first else None)


def has_any(run_dir: Path, place: Place) -> bool:
    """Whether a run has a checkpoint to resume from, as rank 0 sees it. All ranks call it."""
    return agree(place.is_first and bool(checkpoint.committed(run_dir)))


def newest_of(location: Path, place: Place) -> Path:
    """The newest checkpoint of another run, or `location` where it is one, as rank 0 finds it.

    All ranks call it, and take the same one also while that run saves. Raises CheckpointError.
    """
    found = refusal = None
    if place.is_first:
        try:
            found = str(checkpoint.newest(location))
        except CheckpointError as error:
            refusal = str(error)
    found, refusal = agree((found, refusal))
    if found is None:
        raise CheckpointError(refusal)
    return Path(found)


def adopt_newest(
    run_dir: Path,
    place: Place,
    generation: Generation,
    wanted: TrainState,
    last_step: int,
    *,
    known_as: Collection[str] = (),
) -> Path | None:
    """The newest intact checkpoint, made this generation's own; None where the run has none.

    All ranks call it. A checkpoint of `last_step` is left alone: that run has ended. known_as:
    see `differs`. Raises CheckpointError where the checkpoint is of other settings than `wanted`.
    """
    for _ in range(3):
        folder = newest_whole(run_dir, place)
        if folder is None:
            return None
        mine, refusal = agree(
            _make_own(folder, run_dir, generation, wanted, last_step, known_as)
            if place.is_first
            else None
        )
        if refusal:
            raise CheckpointError(refusal)
        if mine:
            return Path(mine)
    raise CheckpointError(
        f"{folder}: vanishes while it is being read; stop whatever else writes to {run_dir}"
    )


def _make_own(
    folder: Path,
    run_dir: Path,
    generation: Generation,
    wanted: TrainState,
    last_step: int,
    known_as: Collection[str],
) -> tuple[str | None, str | None]:
    """On rank 0, (path, refusal): where the checkpoint is now, or why it must not be used.

    Both are None where it has vanished.
    """
    try:
        state = checkpoint.read_state(folder)
    except CheckpointError:  # an old generation has just deleted it: there is a newer one
        return None, None
    if refusal := differs(folder, state, wanted, known_as):
        return None, refusal
    if state.global_step >= last_step:
        return str(folder), None
    if generation.is_superseded:
        return None, f"{run_dir}: another start of this run has taken it over"
    try:
        return str(checkpoint.adopt(folder, run_dir, generation)), None
    except CheckpointError as error:
        print(f"scemae: warning: {error}", file=sys.stderr, flush=True)
        return None, None


def differs(
    folder: Path, state: TrainState, wanted: TrainState, known_as: Collection[str] = ()
) -> str | None:
    """Why a run of `wanted` cannot resume from a checkpoint, or None.

    known_as: other digests of the same shards (ShardSet.digests).
    """
    for name, what in SAME:
        found, needed = getattr(state, name), getattr(wanted, name)
        if name == "data_digest" and found in known_as:
            continue
        if found != needed:
            return (
                f"{folder}: its {what} was {difference(found, needed)}; use the old value, or "
                "choose another run_dir"
            )
    return None


def resume(engine: Any, folder: Path, wanted: TrainState, place: Place) -> TrainState:
    """Load weights and moments from `folder` into the engine.

    Any number of ranks and any ZeRO stage may have written them. Returns `wanted` at the step of
    the checkpoint. Raises CheckpointError where it is incomplete.
    """
    state = checkpoint.read_state(folder)
    mine = zero_state.held(engine)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            for part in mine:
                part.weights.copy_(_elements(file, part.name, part.start, len(part)))
            for name, value in zero_state.not_optimized(engine.module).items():
                value.copy_(file.get_tensor(name))
        _load_moments(folder, state, mine, place)
    except (SafetensorError, KeyError, RuntimeError) as error:  # a missing name, another shape
        raise CheckpointError(
            f"{folder}: holds another model, or other moments "
            f"({' '.join(str(error).split())[:200]}); {checkpoint.OLDER}"
        ) from error
    zero_state.finish_load(engine, state.updates)
    return replace(wanted, global_step=state.global_step, skips=state.skips)


def _load_moments(folder: Path, state: TrainState, mine: list[Fragment], place: Place) -> None:
    """Copy into `mine` the moments that the files of the checkpoint have for them.

    The parts of a parameter lie in the files in the order of the ranks that wrote them, so what a
    rank needs is in the files around its own share of them: these are opened first, and the others
    not at all once nothing is missing.
    """
    left = sum(value.numel() for part in mine for value in part.moments.values())
    by_name = {part.name: part for part in mine}
    names = sorted(entry["file"] for entry in state.files if entry["file"].startswith("moments-"))
    centre = (place.rank + 0.5) * len(names) / place.world_size - 0.5
    for number in sorted(range(len(names)), key=lambda each: abs(each - centre)):
        if not left:
            return
        left -= _copy_moments(folder / names[number], by_name)
    if left:
        raise CheckpointError(
            f"{folder}: found no moments for {left:,} numbers of this rank; it is of another "
            "model, or incomplete: remove it to resume from the checkpoint before"
        )


def _copy_moments(path: Path, wanted: dict[str, Fragment]) -> int:
    """Copy what a file has for the wanted fragments, and read no more; how many numbers."""
    copied = 0
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("starts", "")
        where, remedy = f"{path}: starts", checkpoint.OLDER
        starts = documents.parse_json(
            text, dict[str, Count], where, error=CheckpointError, remedy=remedy
        )
        for entry in file.keys():
            name, _, key = entry.rpartition("/")
            if name not in wanted:
                continue
            part, start, values = wanted[name], starts[name], file.get_slice(entry)
            begin = max(start, part.start)
            end = min(start + values.get_shape()[0], part.start + len(part))
            if begin < end:
                target = part.moments[key].narrow(0, begin - part.start, end - begin)
                target.copy_(values[begin - start : end - start])
                copied += end - begin
    return copied


def _elements(file: Any, name: str, start: int, count: int) -> Tensor:
    """Elements start .. start + count - 1 of a tensor, flattened; reads only their rows."""
    values = file.get_slice(name)
    shape = values.get_shape()
    if not shape:
        return file.get_tensor(name).view(-1)
    row = max(math.prod(shape[1:]), 1)
    first, last = start // row, -(-(start + count) // row)
    return values[first:last].reshape(-1)[start - first * row :][:count]


def difference(found: object, needed: object) -> str:
    """A text of what was found and what is needed, for each setting that differs."""
    if isinstance(found, dict) and isinstance(needed, dict):
        keys = [key for key in needed if found.get(key) != needed[key]]
        return "; ".join(f"{key} {difference(found.get(key), needed[key])}" for key in keys)
    return f"{found}, asked for is {needed}"
