"""The sample ledger: for each global step, a hash of the keys and pixels that were really consumed.

The pixels are those of the very frames that the views are cut from (decode.py hashes them). Each sample gives
SHA-256(step, place in the global batch, key, XXH3-128 of the pixels: it has to find mistakes, not forgers, and costs 4
microseconds a frame where SHA-256 of the pixels costs 80); a step's digest is their sum, limb by limb modulo 2^32
(AdHash: Bellare and Micciancio 1997), so ranks add up what each has seen, in the exchange that the heartbeat makes
anyway, and any number of ranks gives the same digest. `scemae verify-resume` reads it (verify.py).
"""

import hashlib
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import distributed

from scemae.data.order import Slice
from scemae.errors import ShardError
from scemae.files.json_lines import Rows
from scemae.runs.generation_files import LEDGER

LIMBS, FILE = 8, LEDGER


def sample_digest(step: int, place: int, key: str, pixels: np.ndarray) -> np.ndarray:
    """The digest of one consumed sample as (8,) int64 limbs below 2^32. pixels: their digest, (16,) uint8."""
    digest = hashlib.sha256(f"{step} {place} {key} {pixels.tobytes().hex()}".encode())
    return np.frombuffer(digest.digest(), "<u4").astype(np.int64)


def to_text(limbs: np.ndarray) -> str:
    """The digest of a step from the sum of its samples' limbs, 64 hexadecimal digits."""
    return (limbs.astype(np.int64) % 2**32).astype("<u4").tobytes().hex()


class Ledger:
    """This rank's part of the ledger; rank 0 writes the rows."""

    def __init__(
        self, keys: list[str], folder: Path, *, is_first: bool, with_keys: bool, most_bad: float
    ) -> None:
        """keys: of all samples. most_bad: samples in an epoch's worth of images that may be replaced."""
        self._keys, self._with_keys, self._most_bad, self._bad = keys, with_keys, most_bad, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._sums: dict[int, list[Future]] = defaultdict(list)
        self._replaced: dict[int, dict[str, str]] = defaultdict(dict)
        self._consumed: dict[int, dict[int, str]] = defaultdict(dict)
        self._rows = Rows(folder / FILE) if is_first else None

    def add(self, part: Slice, samples: np.ndarray, pixels: np.ndarray) -> None:
        """Count one micro-batch: its slice, the samples (b,) really in it, digests (b, 16) uint8 of their pixels."""
        self._sums[part.global_step].append(self._thread.submit(self._sum, part, samples, pixels))
        for row in np.flatnonzero(samples != part.samples):
            self._replaced[part.global_step][self._keys[part.samples[row]]] = self._keys[
                samples[row]
            ]
        if self._with_keys:
            real = np.flatnonzero(part.weights)
            self._consumed[part.global_step].update(
                {int(part.places[row]): self._keys[samples[row]] for row in real}
            )

    def _sum(self, part: Slice, samples: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        return sum(
            (
                sample_digest(
                    part.global_step, part.places[row], self._keys[samples[row]], pixels[row]
                )
                for row in np.flatnonzero(part.weights)
            ),
            np.zeros(LIMBS, dtype=np.int64),
        )

    def sums(self, steps: list[int]) -> np.ndarray:
        """This rank's sums for some steps, (steps, 8) int64; below 2^53, so exact as float64."""
        return np.stack(
            [
                sum(
                    (part.result() for part in self._sums.pop(step, [])),
                    np.zeros(LIMBS, dtype=np.int64),
                )
                for step in steps
            ]
        )

    def replaced(self) -> int:
        """How many samples of the steps not yet written this rank had to replace."""
        return sum(len(names) for names in self._replaced.values())

    def write(
        self,
        steps: list[int],
        losses: list[float],
        digests: list[str],
        skips: dict[str, str],
        replaced: int,
    ) -> None:
        """Write the rows of an interval. `replaced` is over all ranks. All ranks call it.

        Raises ShardError where more samples are bad than are allowed.
        """
        self._bad += replaced
        if self._bad > self._most_bad:
            names = {
                key
                for found in _gathered(dict(self._replaced))
                for names in found.values()
                for key in names
            }
            raise ShardError(
                f"found {self._bad} samples that are no whole JPEG since this start (the latest: "
                f"{', '.join(sorted(names)[:5])}), data.max_bad_fraction allows {self._most_bad:.0f}; run "
                "`scemae shards verify` and rebuild the shards"
            )
        swapped = _merged(dict(self._replaced)) if replaced else {}
        consumed = _merged(dict(self._consumed)) if self._with_keys else {}
        self._replaced.clear()
        self._consumed.clear()
        if self._rows is None:
            return
        for step, loss, digest in zip(steps, losses, digests):
            row = (
                {"step": step, "skipped": skips[str(step)]}
                if str(step) in skips
                else {"step": step, "loss": loss, "digest": digest}
            )
            if step in swapped:
                row["replaced"] = swapped[step]
            if step in consumed:
                row["keys"] = [consumed[step][place] for place in sorted(consumed[step])]
            self._rows.write(row)

    @property
    def is_behind(self) -> bool:
        """True on rank 0 while rows wait for room on the disk: until they are written no checkpoint may count."""
        return self._rows is not None and self._rows.is_behind

    def close(self) -> None:
        """Let the thread and the file go."""
        self._thread.shutdown(cancel_futures=True)
        if self._rows is not None:
            self._rows.close()


def _gathered(mine: dict) -> list[dict]:
    parts: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, mine)
    return parts


def _merged(mine: dict[int, dict]) -> dict[int, dict]:
    merged: dict[int, dict] = defaultdict(dict)
    for part in _gathered(mine):
        for step, names in part.items():
            merged[step].update(names)
    return merged
