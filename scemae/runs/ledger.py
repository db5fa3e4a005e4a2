"""The sample ledger: for each global step, a digest of the keys and pixels that were consumed.

The pixels are those of the frames that the views are cut from; data/decode.py hashes them by
XXH3-128, which takes 4 microseconds a frame where SHA-256 takes 80: the ledger has to find
mistakes, not forgeries. Each sample gives SHA-256(step, place in the global batch, key, hash of the
pixels). The digest of a step is the sum of these, in 8 limbs of 32 bits each modulo 2^32 (AdHash:
Bellare and Micciancio 1997). So each rank adds up its own samples, the heartbeat adds up the ranks,
and any number of ranks gives the same digest. `scemae verify-resume` reads the ledger (verify.py).
"""

import hashlib
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch import distributed

from scemae.data.order import Slice
from scemae.data.storage.shard_set import Keys
from scemae.errors import ShardError
from scemae.files.json_lines import Rows
from scemae.runs.generation_files import LEDGER

LIMBS = 8


def sample_digest(step: int, place: int, key: str, pixels: np.ndarray) -> np.ndarray:
    """The digest of one sample as (8,) int64 limbs below 2^32. pixels: their hash, (16,) uint8."""
    digest = hashlib.sha256(f"{step} {place} {key} {pixels.tobytes().hex()}".encode())
    return np.frombuffer(digest.digest(), "<u4").astype(np.int64)


def to_text(limbs: np.ndarray) -> str:
    """The digest of a step, from the sum (8,) of its samples' limbs, in 64 hexadecimal digits."""
    return (limbs.astype(np.int64) % 2**32).astype("<u4").tobytes().hex()


class Ledger:
    """This rank's part of the ledger; rank 0 writes the rows."""

    def __init__(
        self,
        keys: Keys | list[str],
        folder: Path,
        *,
        is_first: bool,
        with_keys: bool,
        most_bad: float,
    ) -> None:
        """keys: of all samples. most_bad: how many samples may be replaced since this start."""
        self._keys, self._with_keys, self._most_bad, self._bad = keys, with_keys, most_bad, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._sums: dict[int, list[Future]] = defaultdict(list)
        self._replaced: dict[int, dict[str, str]] = defaultdict(dict)
        self._consumed: dict[int, dict[int, str]] = defaultdict(dict)
        self._rows = Rows(folder / LEDGER) if is_first else None

    def add(self, part: Slice, samples: np.ndarray, pixels: np.ndarray) -> None:
        """Add a micro-batch: its slice of the plan, and what it held instead or as planned.

        samples (b,): their numbers; pixels (b, 16) uint8: the hashes of their pixels.
        """
        self._sums[part.global_step].append(self._thread.submit(self._sum, part, samples, pixels))
        for row in np.flatnonzero(samples != part.samples):
            planned, used = self._keys[part.samples[row]], self._keys[samples[row]]
            self._replaced[part.global_step][planned] = used
        if self._with_keys:
            for row in np.flatnonzero(part.weights):
                place, key = int(part.places[row]), self._keys[samples[row]]
                self._consumed[part.global_step][place] = key

    def _sum(self, part: Slice, samples: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        total = np.zeros(LIMBS, dtype=np.int64)
        for row in np.flatnonzero(part.weights):
            key = self._keys[samples[row]]
            total += sample_digest(part.global_step, part.places[row], key, pixels[row])
        return total

    def sums(self, steps: list[int]) -> np.ndarray:
        """This rank's sums for some steps, (steps, 8) int64; below 2^53, so exact as float64."""
        found = np.zeros((len(steps), LIMBS), dtype=np.int64)
        for row, step in zip(found, steps, strict=True):
            for part in self._sums.pop(step, []):
                row += part.result()
        return found

    def replaced(self) -> int:
        """How many samples this rank has replaced in the steps that are not yet written."""
        return sum(len(names) for names in self._replaced.values())

    def write(
        self,
        steps: list[int],
        losses: list[float],
        digests: list[str],
        skips: dict[str, str],
        replaced: int,
    ) -> None:
        """Write the rows of an interval. All ranks call it; `replaced` counts those of all ranks.

        Raises ShardError where more samples had to be replaced than are allowed.
        """
        self._bad += replaced
        if self._bad > self._most_bad:
            latest = _merged(dict(self._replaced)).values()
            names = sorted({key for replaced_keys in latest for key in replaced_keys})
            raise ShardError(
                f"found {self._bad} samples that are no whole JPEG since this start (the latest: "
                f"{', '.join(names[:5])}), data.max_bad_fraction allows {self._most_bad:.0f}; run "
                "`scemae shards verify` and rebuild the shards"
            )
        swapped = _merged(dict(self._replaced)) if replaced else {}
        consumed = _merged(dict(self._consumed)) if self._with_keys else {}
        self._replaced.clear()
        self._consumed.clear()
        if self._rows is None:
            return
        for step, loss, digest in zip(steps, losses, digests):
            row: dict[str, Any] = {"step": step}
            if str(step) in skips:
                row["skipped"] = skips[str(step)]
            else:
                row |= {"loss": loss, "digest": digest}
            if step in swapped:
                row["replaced"] = swapped[step]
            if step in consumed:
                row["keys"] = [consumed[step][place] for place in sorted(consumed[step])]
            self._rows.write(row)

    @property
    def is_behind(self) -> bool:
        """True on rank 0 while rows wait for room on the disk. No checkpoint may count then."""
        return self._rows is not None and self._rows.is_behind

    def close(self) -> None:
        """End the thread and close the file."""
        self._thread.shutdown(cancel_futures=True)
        if self._rows is not None:
            self._rows.close()


def _merged(own: dict[int, dict]) -> dict[int, dict]:
    """The dicts of all ranks as one, by step. All ranks call it."""
    parts: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, own)
    merged: dict[int, dict] = defaultdict(dict)
    for part in parts:
        for step, names in part.items():
            merged[step].update(names)
    return merged
