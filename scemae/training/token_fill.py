"""Computes the records of the token store: the frozen encoder on the view images of a run.

Work is cut into chunks of records, and each rank takes every `world_size`-th of them.
"""

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
from scemae.data.order import Slice
from scemae.data.storage.shard_set import ShardSet
from scemae.distributed.process_group import Place
from scemae.methods.carb import selection_options
from scemae.models.carb import Third, count_selected, select, third
from scemae.models.vit import FIRST_BLOCKS, Encoder
from scemae.process.progress import progress_bar
from scemae.training.feed import Feed, trunk_views
from scemae.training.record_file import RecordFile

STORE_VERSION = 1  # raised when the same facts give other records; part of the folder's name
# For each record: the sample whose pixels were used, and the XXH3-128 digest of its frame.
ORIGIN = [("found", "<i8"), ("pixels", "|u1", 16)]
# torch's type for numpy's: numpy has no bf16, which is kept as its 16 bits
TORCH = {"<u2": torch.bfloat16, "<f4": torch.float32, "|u1": torch.uint8, "<i2": torch.int16}

# samples (b,) found, digests (b, 16) of their frames, and their tokens
Computed = tuple[np.ndarray, np.ndarray, Third]


@dataclass
class Fill:
    """The frozen encoder and the view images that the records of a run are computed from."""

    config: CorrespondConfig
    encoder: Encoder
    backbone: tuple[Path, str]  # the checkpoint that the encoder is of, and its weights' digest
    shards: ShardSet
    place: Place
    note: Callable[[], None]  # called while it works, so that the watchdog knows

    @property
    def chunk_size(self) -> int:
        """View images that go through the encoder together."""
        return 512 if self.place.device.type == "cuda" else 64

    @property
    def precision(self) -> torch.dtype:
        """The type that the encoder computes in."""
        return self.encoder.patch_embed.weight.dtype

    @property
    def keeps_final(self) -> bool:
        """Whether all tokens go through the last block: then they depend on neither eta nor K_c,
        and the third block's records keep them too."""
        return self.config.carb.remaining == "all" and not self.config.carb.aggregate

    def facts(self, is_selected: bool) -> dict:
        """All that a record depends on, by the names of the settings."""
        data, carb = self.config.data, self.config.carb
        found = {
            "version": STORE_VERSION,
            "backbone": self.backbone[1],
            "data": self.shards.digest,
            "seed": self.config.seed,
            "frame": data.frame,
            "scale": list(data.scale),
            "jpeg_noise": data.jpeg_noise,
            "decoder": data.decoder,
            "image_size": self.encoder.image_size,
            "precision": str(self.precision).removeprefix("torch."),
            "layer": carb.layer,
            "heads": carb.heads,
        }
        rest = selection_options(carb) if is_selected else {"final": self.keeps_final}
        return {**found, **rest}

    def selected_fields(self) -> list[tuple]:
        """The fields of a record of selected tokens, as numpy takes them."""
        carb, n = self.config.carb, self.encoder.grid**2
        k = count_selected(carb.eta, carb.clusters, n)
        place = "|u1" if n <= 256 else "<i2"
        tokens = ("tokens", "<u2", (k, self.encoder.width))
        return [tokens, ("ids", place, k), ("slot", place, n), *ORIGIN]

    def third_fields(self) -> list[tuple]:
        """The fields of a record of the third block, as numpy takes them.

        Tokens are in the encoder's precision, so that a selection from here equals, bit for bit,
        one from the images.
        """
        n, d = self.encoder.grid**2, self.encoder.width
        tokens = "<u2" if self.precision == torch.bfloat16 else "<f4"
        final = [("final", "<u2", (n, d))] if self.keeps_final else []
        return [("tokens", tokens, (1 + n, d)), *final, ("similarity", "<f4", n), *ORIGIN]

    def from_images(self, chunks: list[np.ndarray]) -> Iterator[Computed]:
        """This rank's share of the chunks, computed from the shards. All ranks call it."""
        config, carb, samples = self.config, self.config.carb, len(self.shards)
        views = trunk_views(self.encoder.image_size, config.data.scale)
        feed = Feed(config, self.shards, self.place, views, self.note)
        feed.open_frames(sum(map(len, chunks)))
        origins: deque[tuple[np.ndarray, np.ndarray]] = deque()
        batches = feed.batches(
            (slice_of(rows, samples) for rows in self._mine(chunks)),
            lambda _, found, digests: origins.append((found, digests)),
        )
        return (
            (*origins.popleft(), third(self.encoder, images, carb.layer, carb.heads))
            for images, _ in batches
        )

    def from_thirds(self, records: RecordFile, chunks: list[np.ndarray]) -> Iterator[Computed]:
        """The same from the records of the third block; computes those that are missing first.
        All ranks call it."""
        with records.locked(self.place, self.note):
            missing = records.missing(
                np.concatenate(chunks), self.chunk_size, self.place, self.note
            )
            if missing.chunks:
                records.check_room(missing.absent)
                computed = self.from_images(missing.chunks)
                self.write(records, missing.chunks, computed, self.third_record, "third block")
        return map(partial(self._read_third, records), self._mine(chunks))

    def _read_third(self, records: RecordFile, rows: np.ndarray) -> Computed:
        stored = records.read(rows)
        words = to_device(as_words(stored), self.place.device)
        names = ("tokens", "similarity", "final") if self.keeps_final else ("tokens", "similarity")
        tokens = Third(*(field(words, records.type, name) for name in names))
        return stored["found"], stored["pixels"], tokens

    def write(
        self,
        records: RecordFile,
        chunks: list[np.ndarray],
        computed: Iterator[Computed],
        record: Callable[[Third], dict[str, Tensor]],
        title: str,
    ) -> None:
        """Write this rank's share of the chunks; `record` makes the fields from the tokens."""
        mine = self._mine(chunks)
        with progress_bar(
            show=self.place.is_first, total=sum(map(len, mine)), desc=title, unit=" view images"
        ) as bar:
            for rows, (found, pixels, tokens) in zip(mine, computed, strict=True):
                self.note()
                fields = {
                    name: _as_numpy(value, records.type[name].base)
                    for name, value in record(tokens).items()
                }
                records.write(rows, {**fields, "found": found, "pixels": pixels})
                bar.update(len(rows))

    def selected_record(self, early: Third) -> dict[str, Tensor]:
        """The fields of selected tokens."""
        return vars(select(self.encoder, early, **selection_options(self.config.carb)))

    def third_record(self, early: Third) -> dict[str, Tensor]:
        """The fields of the third block's tokens."""
        fields = {"tokens": early.tokens, "similarity": early.similarity}
        if self.keeps_final:
            fields["final"] = self.encoder.run(early.tokens, FIRST_BLOCKS)[:, 1:]
        return fields

    def _mine(self, chunks: list[np.ndarray]) -> list[np.ndarray]:
        """This rank's share."""
        return chunks[self.place.rank :: self.place.world_size]


def slice_of(rows: np.ndarray, samples: int) -> Slice:
    """The samples and epochs of some records (of `samples` a view) as a slice, of weight 1 each."""
    ones = np.ones(len(rows), np.float32)
    return Slice(0, rows % samples, rows // samples, ones, np.arange(len(rows)))


def as_words(records: np.ndarray) -> Tensor:
    """Records (b,) as (b, size / 8) int64 on the same memory: faster to copy than bytes."""
    return torch.from_numpy(records.view(np.int64).reshape(len(records), -1))


def field(words: Tensor, record: np.dtype, name: str) -> Tensor:
    """One field (b, *shape) of records (b, size / 8) int64, on their device, without a copy."""
    assert record.fields is not None
    kind, offset = record.fields[name][:2]
    columns = words.view(torch.uint8)[:, offset : offset + kind.itemsize]
    return columns.view(TORCH[kind.base.str]).unflatten(1, kind.shape)


def _as_numpy(values: Tensor, kind: np.dtype) -> np.ndarray:
    """A tensor as numpy keeps it in a field of this type; bf16 as its 16 bits."""
    values = values.to(TORCH[kind.str]).cpu()
    if values.dtype == torch.bfloat16:
        return values.view(torch.int16).numpy().view(np.uint16)
    return values.numpy()
