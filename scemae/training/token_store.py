"""The token store of stage 2 (ours): the backbone is frozen, so what it makes of a view is computed once and kept.

    BACKBONE_RUN/tokens/selected-0123456789abcdef/   the tokens T of each view image, as `carb.select` gives them, in bf16
    BACKBONE_RUN/tokens/third-fedcba9876543210/      with store.keep_third: those after the third block, and Eq. 1

A record is a view image: view v of a sample is the augmentation that epoch v draws for it (randomness is keyed by seed,
epoch and sample), and epoch e reads view e % `views`. With as many views as epochs that is the run with a fresh view in
every epoch, to bf16 rounding. Record v * samples + sample: an epoch reads one stretch of the file, and runs that differ
in epochs or views share it. Opening is filling: what a run will read and is not there whole (record_file.py) is computed.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scemae.config.schema.training import CorrespondConfig
from scemae.data.augment import to_device
from scemae.data.frame_cache import open_frames
from scemae.data.order import Order, Slice
from scemae.data.pipeline import Batch, Consumed, Pipeline, correspondence_views
from scemae.data.storage.shard_set import ShardSet
from scemae.distributed.process_group import Place, agree, data_threads
from scemae.errors import FileError
from scemae.files import ownership
from scemae.models.carb import Third, select, third
from scemae.models.vit import FIRST_BLOCKS, Encoder
from scemae.process.progress import progress_bar
from scemae.runs.networks import selection_options
from scemae.training.record_file import Records

TOKENS = "tokens"
STORE_VERSION = 1  # of what the same facts give; another one is another folder
SHARE = 0.5  # of the free memory of a GPU that the store may take; the rest is the model's
ORIGIN = [
    ("found", "<i8"),
    ("pixels", "|u1", 16),
]  # the sample whose pixels are in it, XXH3-128 of its frame
TORCH = {
    "<u2": torch.bfloat16,
    "<f4": torch.float32,
    "|u1": torch.uint8,
    "<i2": torch.int16,
}  # numpy has no bf16

Early = tuple[
    np.ndarray, np.ndarray, Third
]  # samples (b,) found, digests (b, 16) of their frames, and the tokens


class TokenStore:
    """The selected tokens of all view images that a run reads."""

    def __init__(
        self, records: Records, rows: np.ndarray, samples: int, views: int, device: torch.device
    ) -> None:
        """`rows` (ascending) are those that will be asked for; a GPU with the room gets them."""
        self._type, self._rows, self._samples, self._views, self._device = (
            records.type,
            rows,
            samples,
            views,
            device,
        )
        self._stored = records.map()
        self._words = _words(self._stored)
        self._on_device: Tensor | None = None
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what the fill needed
            if len(rows) * records.type.itemsize <= SHARE * torch.cuda.mem_get_info(device)[0]:
                self.keep_on_device()

    def keep_on_device(self) -> None:
        """Copy the rows to the device, where batches are gathered from then on."""
        self._on_device = torch.empty(
            len(self._rows), self._words.shape[1], dtype=torch.int64, device=self._device
        )
        for first in range(0, len(self._rows), 4096):
            part = torch.from_numpy(self._rows[first : first + 4096])
            self._on_device[first : first + 4096] = self._words.index_select(0, part).to(
                self._device
            )

    @property
    def record_bytes(self) -> int:
        """Bytes of one view image."""
        return self._type.itemsize

    def batch(self, samples: np.ndarray, epochs: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, k, d) in bf16, ids (b, k) and slot (b, n) of `carb.Selection`, on the device."""
        rows = self.rows_of(samples, epochs)
        if self._on_device is None:
            words = to_device(self._words.index_select(0, torch.from_numpy(rows)), self._device)
        else:
            places = np.searchsorted(self._rows, rows)
            words = self._on_device.index_select(
                0, to_device(torch.from_numpy(places), self._device)
            )
        tokens, ids, slot = (_field(words, self._type, name) for name in ("tokens", "ids", "slot"))
        return tokens, ids.long(), slot.long()

    def batches(self, slices: Iterator[Slice], consumed: Consumed) -> Iterator[tuple[Tensor, ...]]:
        """What CARB takes, for each slice: tokens, ids, slot and weights (b,). `consumed` is told whose pixels they are
        made of, as a pipeline tells it."""
        for part in slices:
            rows = self.rows_of(part.samples, part.epochs)
            consumed(part, self._stored["found"][rows], self._stored["pixels"][rows])
            yield (
                *self.batch(part.samples, part.epochs),
                to_device(torch.from_numpy(part.weights), self._device),
            )

    def rows_of(self, samples: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """The records (b,) of b samples in the epochs (b,)."""
        return (epochs % self._views) * self._samples + samples


def open_tokens(
    config: CorrespondConfig,
    encoder: Encoder,
    backbone: tuple[Path, str],
    shards: ShardSet,
    place: Place,
    *,
    order: Order,
    stop: int,
    note: Callable[[], None] = lambda: None,
) -> TokenStore:
    """The store for a run of `stop` steps in this order, filled. All ranks call it.

    backbone: the checkpoint that `encoder` is of, and its digest. `note` is called while it works, so that a watchdog
    knows. Raises ConfigError where the disk has no room, ShardError at samples that are no JPEG.
    """
    started, rows = time.perf_counter(), rows_drawn(order, stop, config.views)
    fill = Fill(config, encoder, shards, place, note)
    folder = home(config, backbone[0], place)
    if place.is_first and not config.store.dir and folder.parent == Path(config.run_dir):
        print(
            f"tokens: kept in {folder} for this run alone, since the folder of the backbone, or {TOKENS}/ in it, can be "
            "written by others or was not made here; store.dir=FOLDER shares one",
            file=sys.stderr,
            flush=True,
        )
    selected = Records(
        folder,
        "selected",
        fill.facts(backbone[1], True),
        fill.selected_fields(),
        config.views * len(shards),
    )
    thirds = Records(
        Path(config.store.third_dir) if config.store.third_dir else folder,
        "third",
        fill.facts(backbone[1], False),
        fill.third_fields(),
        selected.rows,
    )
    with selected.held(place, note):
        lacking = selected.lacking(rows, fill.size, place, note)
        if lacking.chunks:
            selected.check_room(lacking.absent)
            keep_third = agree(config.store.keep_third or thirds.folder.is_dir())
            early = (
                fill.from_thirds(thirds, lacking.chunks)
                if keep_third
                else fill.from_images(lacking.chunks)
            )
            fill.write(selected, lacking.chunks, early, fill.select, "tokens")
            del early  # and the frames with it
    if place.is_first:
        made = sum(map(len, lacking.chunks))
        print(
            f"tokens: {len(rows):,} view images of {selected.type.itemsize:,} bytes in {selected.folder}; {made:,} computed"
            + (f" ({lacking.damaged:,} were damaged)" if lacking.damaged else "")
            + f" in {time.perf_counter() - started:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    return TokenStore(selected, rows, len(shards), config.views, place.device)


def home(config: CorrespondConfig, backbone: Path, place: Place) -> Path:
    """Where what the frozen backbone of this checkpoint makes is kept: store.dir, or what `choose_home` says. All ranks call
    it."""
    if config.store.dir:
        return Path(config.store.dir)
    return Path(
        agree(
            str(choose_home(backbone.parent.parent, Path(config.run_dir))) if place.is_first else ""
        )
    )


def choose_home(backbone: Path, own: Path) -> Path:
    """`tokens/` of the backbone's run folder, for every later run on it, if this user alone can write there and this program
    made it here; otherwise `tokens/` of one's own folder. A digest proves that a record is whole, not who made it: one that
    came with the folder of somebody else, also as a copy, would be trained on."""
    beside = backbone / TOKENS
    if not ownership.is_private(backbone.resolve()):
        return own / TOKENS
    if not os.path.lexists(beside):
        try:
            ownership.make_marked(beside)
        except (OSError, FileError):  # another run has made it, or the disk is read-only
            pass
    return beside if ownership.is_marked(beside) else own / TOKENS


def rows_drawn(order: Order, stop: int, views: int) -> np.ndarray:
    """The records that steps 0..stop-1 read, ascending: from the first one on, since a run may roll back behind its
    start."""
    drawn = np.zeros(views * order.samples, dtype=bool)
    for epoch, samples in order.drawn(0, stop):
        drawn[epoch % views * order.samples + samples] = True
        if drawn.all():
            break
    return np.flatnonzero(drawn)


@dataclass
class Fill:
    """What a store is filled with: the frozen backbone on the view images of a run, a chunk of records at a time."""

    config: CorrespondConfig
    encoder: Encoder
    shards: ShardSet
    place: Place
    note: Callable[[], None]

    @property
    def size(self) -> int:
        """View images that go through the encoder together."""
        return 512 if self.place.device.type == "cuda" else 64

    @property
    def precision(self) -> torch.dtype:
        return self.encoder.patch_embed.weight.dtype

    @property
    def keeps_final(self) -> bool:
        """All tokens go through the last block, whatever eta and K_c: the store of the third block keeps them too."""
        return self.config.carb.remaining == "all" and not self.config.carb.aggregate

    def facts(self, backbone: str, is_selected: bool) -> dict:
        """All that a record depends on, by names of the settings; `backbone` is the digest of its weights."""
        data, carb = self.config.data, self.config.carb
        found = {
            "version": STORE_VERSION,
            "backbone": backbone,
            "data": self.shards.manifest.digest(),
            "seed": self.config.seed,
            "frame": data.frame,
            "scale": list(data.scale),
            "jpeg_noise": data.jpeg_noise,
            "decoder": data.decoder,
            "image_size": self.encoder.grid * self.encoder.patch_size,
            "precision": str(self.precision).removeprefix("torch."),
            "layer": carb.layer,
            "heads": carb.heads,
        }
        return (
            {**found, **selection_options(carb)}
            if is_selected
            else {**found, "final": self.keeps_final}
        )

    def selected_fields(self) -> list[tuple]:
        n, k = (
            self.encoder.grid**2,
            round(self.config.carb.eta * self.encoder.grid**2) + self.config.carb.clusters,
        )
        place = "|u1" if n <= 256 else "<i2"
        return [
            ("tokens", "<u2", (k, self.encoder.width)),
            ("ids", place, k),
            ("slot", place, n),
            *ORIGIN,
        ]

    def third_fields(self) -> list[tuple]:
        """In the precision of the encoder, so that a selection from here is, bit for bit, one from the images."""
        n, d = self.encoder.grid**2, self.encoder.width
        tokens = "<u2" if self.precision == torch.bfloat16 else "<f4"
        final = [("final", "<u2", (n, d))] if self.keeps_final else []
        return [("tokens", tokens, (1 + n, d)), *final, ("similarity", "<f4", n), *ORIGIN]

    def from_images(self, chunks: list[np.ndarray]) -> Iterator[Early]:
        """This rank's share of the chunks from the shards. All ranks call it."""
        config, told, mine = self.config, deque(), chunks[self.place.rank :: self.place.world_size]
        size, scale, count = (
            self.encoder.grid * self.encoder.patch_size,
            tuple(config.data.scale),
            len(self.shards),
        )
        source = open_frames(
            self.shards,
            config.data,
            config.runtime,
            self.place,
            images=sum(map(len, chunks)),
            note=self.note,
        )

        def views(batch: Batch) -> tuple[Tensor, ...]:
            return (correspondence_views(batch, size, scale),)

        slices = (
            Slice(
                0, rows % count, rows // count, np.ones(len(rows), np.float32), np.arange(len(rows))
            )
            for rows in mine
        )
        pipeline = Pipeline(
            source,
            slices,
            config.seed,
            views,
            device=self.place.device,
            workers=data_threads(config.runtime.workers),
            noisy_jpeg=config.data.jpeg_noise,
            consumed=lambda _, *origin: told.append(origin),
        )
        return (
            (*told.popleft(), third(self.encoder, images, config.carb.layer, config.carb.heads))
            for (images,) in pipeline
        )

    def from_thirds(self, records: Records, chunks: list[np.ndarray]) -> Iterator[Early]:
        """The same from the store of the third block, which is filled where it lacks them. All ranks call it."""
        with records.held(self.place, self.note):
            lacking = records.lacking(np.concatenate(chunks), self.size, self.place, self.note)
            if lacking.chunks:
                records.check_room(lacking.absent)
                self.write(
                    records,
                    lacking.chunks,
                    self.from_images(lacking.chunks),
                    self.finish,
                    "third block",
                )
        return map(
            partial(self._read_third, records), chunks[self.place.rank :: self.place.world_size]
        )

    def _read_third(self, records: Records, rows: np.ndarray) -> Early:
        stored = records.read(rows)
        words = to_device(_words(stored), self.place.device)
        names = ("tokens", "similarity", "final") if self.keeps_final else ("tokens", "similarity")
        return (
            stored["found"],
            stored["pixels"],
            Third(*(_field(words, records.type, name) for name in names)),
        )

    def write(
        self,
        records: Records,
        chunks: list[np.ndarray],
        early: Iterator[Early],
        kept: Callable[[Third], dict[str, Tensor]],
        what: str,
    ) -> None:
        """Write this rank's share of the chunks: what is `kept` of the tokens."""
        mine = chunks[self.place.rank :: self.place.world_size]
        with progress_bar(
            show=self.place.is_first, total=sum(map(len, mine)), desc=what, unit=" view images"
        ) as bar:
            for rows, (found, pixels, tokens) in zip(mine, early, strict=True):
                self.note()
                fields = {
                    name: _bits(value, records.type[name].base)
                    for name, value in kept(tokens).items()
                }
                records.write(rows, {**fields, "found": found, "pixels": pixels})
                bar.update(len(rows))

    def select(self, early: Third) -> dict[str, Tensor]:
        """What a record of selected tokens keeps."""
        return vars(select(self.encoder, early, **selection_options(self.config.carb)))

    def finish(self, early: Third) -> dict[str, Tensor]:
        """What a record of the third block keeps."""
        final = (
            {"final": self.encoder.run(early.tokens, FIRST_BLOCKS)[:, 1:]}
            if self.keeps_final
            else {}
        )
        return {"tokens": early.tokens, "similarity": early.similarity, **final}


def _words(records: np.ndarray) -> Tensor:
    """Records (b,) as (b, size / 8) int64, on the same memory: whole words travel faster than bytes."""
    return torch.from_numpy(records.view(np.int64).reshape(len(records), -1))


def _field(words: Tensor, record: np.dtype, name: str) -> Tensor:
    """One field (b, *shape) of records (b, size / 8) int64, on their device and without a copy."""
    kind, offset = record.fields[name][:2]
    columns = words.view(torch.uint8)[:, offset : offset + kind.itemsize]
    return columns.view(TORCH[kind.base.str]).unflatten(1, kind.shape)


def _bits(values: Tensor, kind: np.dtype) -> np.ndarray:
    """A tensor as numpy keeps it in a field of this kind."""
    values = values.to(TORCH[kind.str]).cpu()
    return (
        values.view(torch.int16).numpy().view(np.uint16)
        if values.dtype == torch.bfloat16
        else values.numpy()
    )
