"""The token store of stage 2 (ours): the backbone is frozen, so its tokens are computed once.

    BACKBONE_RUN/tokens/selected-0123456789abcdef/   tokens T of each view image (Selection), bf16
    BACKBONE_RUN/tokens/third-fedcba9876543210/      with store.keep_third: those after the third
                                                     block, and Eq. 1

A record is a view image: view v of a sample is the augmentation that epoch v draws for it
(randomness is keyed by seed, epoch and sample), and epoch e reads view e % `views`. With as many
views as epochs that is a run with a fresh view in every epoch, to bf16 rounding. View v of sample s
is record v * samples + s: an epoch reads one stretch of the file, and runs that differ in epochs or
views share it.

Opening computes the records that the run will read and that are missing or corrupt
(record_file.py).
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scemae.config.schema.training import CorrespondConfig
from scemae.data.augment import to_device
from scemae.data.order import Order, Slice
from scemae.data.pipeline import Consumed
from scemae.data.storage.shard_set import ShardSet
from scemae.distributed.process_group import Place, agree
from scemae.training.feed import Batches
from scemae.training.record_file import Missing, RecordFile
from scemae.training.token_fill import Fill, as_words, field
from scemae.training.token_home import TOKENS, choose_home

SHARE = 0.5  # of the free memory of a GPU that the store may take; the rest is the model's


class TokenStore:
    """The selected tokens of all view images that a run reads."""

    def __init__(
        self, records: RecordFile, rows: np.ndarray, samples: int, views: int, device: torch.device
    ) -> None:
        """rows (ascending): the records that will be read; a GPU with room for them keeps them."""
        self._type, self._rows, self._device = records.type, rows, device
        self._samples, self._views = samples, views
        self._stored = records.map()
        self._words = as_words(self._stored)
        self._on_device: Tensor | None = None
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the memory that computing the records took
            if len(rows) * records.type.itemsize <= SHARE * torch.cuda.mem_get_info(device)[0]:
                self.keep_on_device()

    def keep_on_device(self) -> None:
        """Copy the rows to the device; from then on batches are gathered there."""
        shape = len(self._rows), self._words.shape[1]
        self._on_device = torch.empty(shape, dtype=torch.int64, device=self._device)
        for first in range(0, len(self._rows), 4096):
            part = torch.from_numpy(self._rows[first : first + 4096])
            words = self._words.index_select(0, part).to(self._device)
            self._on_device[first : first + 4096] = words

    @property
    def record_bytes(self) -> int:
        """Bytes of one view image."""
        return self._type.itemsize

    def batch(self, samples: np.ndarray, epochs: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, k, d) in bf16, ids (b, k) and slot (b, n), on the device (carb.Selection)."""
        rows = self.rows_of(samples, epochs)
        if self._on_device is None:
            words = to_device(self._words.index_select(0, torch.from_numpy(rows)), self._device)
        else:
            places = torch.from_numpy(np.searchsorted(self._rows, rows))
            words = self._on_device.index_select(0, to_device(places, self._device))
        tokens, ids, slot = (field(words, self._type, name) for name in ("tokens", "ids", "slot"))
        return tokens, ids.long(), slot.long()

    def batches(self, slices: Iterator[Slice], consumed: Consumed) -> Batches:
        """CARB's arguments for each slice: tokens, ids, slot and weights (b,).

        `consumed` is called with the samples they were computed from, as by a `Pipeline`.
        """
        for part in slices:
            rows = self.rows_of(part.samples, part.epochs)
            consumed(part, self._stored["found"][rows], self._stored["pixels"][rows])
            weights = to_device(torch.from_numpy(part.weights), self._device)
            yield *self.batch(part.samples, part.epochs), weights

    def rows_of(self, samples: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """The records (b,) of b samples in the epochs (b,)."""
        return (epochs % self._views) * self._samples + samples


@dataclass
class TokenFeed:
    """Micro-batches from the token store, with the functions of `feed.Feed`."""

    fill: Fill
    _store: TokenStore | None = None

    @property
    def shards(self) -> ShardSet:
        """The shards that the view images are made from."""
        return self.fill.shards

    def open(self, order: Order, first: int, last: int) -> None:
        """Open the store for a run up to step `last`. All ranks call it.

        From step 0 on, whatever `first` is: the run may roll back to before its start.
        """
        self._store = open_tokens(self.fill, order, last)

    @property
    def reads_shards(self) -> bool:
        """Training reads tokens, and no shards."""
        return False

    def batches(self, slices: Iterator[Slice], consumed: Consumed) -> Batches:
        """CARB's arguments for each slice; `consumed` is called with its samples."""
        assert self._store is not None  # opened before
        return self._store.batches(slices, consumed)

    def views_stored(self, order: Order, last: int) -> int:
        """View images that `open` computes, at most, for a run of `last` steps."""
        return len(rows_drawn(order, last, self.fill.config.views))


def open_tokens(fill: Fill, order: Order, stop: int) -> TokenStore:
    """The store for a run of `stop` steps in this order, with all its records. All ranks call it.

    Raises ConfigError where the disk has no room, ShardError at samples that are no JPEG.
    """
    started, config, place = time.perf_counter(), fill.config, fill.place
    rows, count = rows_drawn(order, stop, config.views), config.views * len(fill.shards)
    folder = home(config, fill.backbone[0], place)
    if place.is_first and not config.store.dir and folder.parent == Path(config.run_dir):
        _report(
            f"tokens: kept in {folder} for this run alone, since the folder of the backbone, or "
            f"{TOKENS}/ in it, can be written by others or was not made here; store.dir=FOLDER "
            "shares one"
        )
    records = RecordFile(folder, "selected", fill.facts(True), fill.selected_fields(), count)
    with records.locked(place, fill.note):
        missing = records.missing(rows, fill.chunk_size, place, fill.note)
        if missing.chunks:
            records.check_room(missing.absent)
            _compute(fill, records, missing, folder, count)
    if place.is_first:
        made, seconds = sum(map(len, missing.chunks)), time.perf_counter() - started
        damaged = f" ({missing.damaged:,} were damaged)" if missing.damaged else ""
        _report(
            f"tokens: {len(rows):,} view images of {records.type.itemsize:,} bytes in "
            f"{records.folder}; {made:,} computed{damaged} in {seconds:.1f} s"
        )
    return TokenStore(records, rows, len(fill.shards), config.views, place.device)


def _compute(fill: Fill, records: RecordFile, missing: Missing, folder: Path, count: int) -> None:
    """Compute the missing records, from the third block's where those are kept."""
    store = fill.config.store
    third_dir = Path(store.third_dir) if store.third_dir else folder
    thirds = RecordFile(third_dir, "third", fill.facts(False), fill.third_fields(), count)
    if agree(store.keep_third or thirds.folder.is_dir()):
        computed = fill.from_thirds(thirds, missing.chunks)
    else:
        computed = fill.from_images(missing.chunks)
    fill.write(records, missing.chunks, computed, fill.selected_record, "tokens")


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def home(config: CorrespondConfig, backbone: Path, place: Place) -> Path:
    """Where the tokens of this checkpoint of the backbone are kept: store.dir, or `choose_home`.
    All ranks call it."""
    if config.store.dir:
        return Path(config.store.dir)
    chosen = choose_home(backbone.parent.parent, Path(config.run_dir)) if place.is_first else ""
    return Path(agree(str(chosen)))


def rows_drawn(order: Order, stop: int, views: int) -> np.ndarray:
    """The records that steps 0..stop-1 read, ascending."""
    drawn = np.zeros(views * order.samples, dtype=bool)
    for epoch, samples in order.drawn(0, stop):
        drawn[epoch % views * order.samples + samples] = True
        if drawn.all():
            break
    return np.flatnonzero(drawn)
