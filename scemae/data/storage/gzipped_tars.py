"""Tars compressed by gzip, of which any samples can be read without the bytes before them (ours).

NAME.tar.gz is a gzip file that tar, zcat and webdataset read. Inside it the stream is flushed in
full before some samples, PIECE bytes or more apart: what follows does not refer to what is before,
so a reader can begin there. The index of the tar has these places.

Small images gain most: their tar headers, annotations and JPEG tables repeat each other.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO

import numpy as np

from scemae.data.storage.manifest import Shard
from scemae.errors import ShardError

PIECE = 2**16  # bytes of the tar in a piece, at least; shorter pieces compress less
LEVEL = 6
MOST = 2**18  # bytes that are unpacked at a time
# What zlib is told of a stream: it has the head and end of a gzip, or it has neither.
GZIP, RAW = 16 + zlib.MAX_WBITS, -zlib.MAX_WBITS
AGAIN = "copy the shards there again"


@dataclass(frozen=True)
class Pieces:
    """Where the n pieces begin, in bytes: `tar` in the tar (n,) int64, `file` in the gzip (n,)."""

    tar: np.ndarray
    file: np.ndarray

    def range(self, start: int, stop: int, end: int) -> tuple[int, int, int]:
        """The bytes of the gzip, of `end` bytes, that hold bytes start..stop-1 of the tar.

        Returns their first, the one behind them, and which byte of the tar they begin with.
        """
        first = max(int(np.searchsorted(self.tar, start, side="right")) - 1, 0)
        last = int(np.searchsorted(self.tar, stop, side="left"))
        behind = int(self.file[last]) if last < len(self.file) else end
        return int(self.file[first]), behind, int(self.tar[first])


def pack(tar: BinaryIO, out: BinaryIO, samples: np.ndarray) -> tuple[Pieces, int, str]:
    """Write an open tar, compressed. Returns its pieces, its bytes and its SHA-256.

    samples: where each begins in the tar, in bytes, ascending (n,) int64.
    """
    zipped = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
    digest, starts, written, places = hashlib.sha256(), _piece_starts(samples), 0, []
    tar.seek(0)
    out.write(head := zipped.flush(zlib.Z_FULL_FLUSH))
    written += len(head)
    for start, stop in zip(starts, [*starts[1:], None]):
        places.append(written)
        digest.update(data := tar.read() if stop is None else tar.read(stop - start))
        written += out.write(zipped.compress(data))
        written += out.write(zipped.flush(zlib.Z_FULL_FLUSH if stop else zlib.Z_FINISH))
    pieces = Pieces(np.array(starts, np.int64), np.array(places, np.int64))
    return pieces, tar.tell(), digest.hexdigest()


def part_of(blocks: Iterable[bytes], skip: int, size: int, path: object) -> Iterator[bytes]:
    """`size` bytes of a tar that begin `skip` bytes behind the place where blocks of a gzip begin.

    Raises ShardError, which calls the gzip `path`.
    """
    end, count = skip + size, 0
    for piece in _inflated(blocks, zlib.decompressobj(RAW), end, path):
        yield piece[max(skip - count, 0) : end - count]
        count += len(piece)
    if count < end:
        raise ShardError(
            f"{path}: found {count:,} bytes in a piece of it, {end:,} were needed; {AGAIN}"
        )


def whole_of(blocks: Iterable[bytes], shard: Shard, path: object) -> Iterator[bytes]:
    """The tar in a gzip that comes in blocks.

    Raises ShardError where it is not the one that the manifest means, or the gzip is damaged.
    """
    count, digest, stream = 0, hashlib.sha256(), zlib.decompressobj(GZIP)
    size = shard.inside_bytes
    for piece in _inflated(blocks, stream, size + 1, path):
        count += len(piece)
        digest.update(piece)
        yield piece
    if count != size:
        found = "more" if count > size else f"{count:,} bytes"
        raise ShardError(f"{path}: found {found} in it, the manifest says {size:,}; {AGAIN}")
    if not stream.eof or stream.unused_data:
        raise ShardError(f"{path}: is damaged (it has no end, or more behind it); {AGAIN}")
    _check(digest.hexdigest(), shard, path)


def check_pieces_of(file: IO[bytes], pieces: Pieces, shard: Shard, path: object) -> None:
    """Raise ShardError where the pieces of an open gzip, each read from its own place on, are not
    the tar that the manifest means.
    """
    digest = hashlib.sha256()
    files, tars = [*pieces.file.tolist(), shard.bytes], [*pieces.tar.tolist(), shard.inside_bytes]
    for row in range(len(pieces.tar)):
        blocks = _blocks(file, files[row], files[row + 1])
        for piece in part_of(blocks, 0, tars[row + 1] - tars[row], path):
            digest.update(piece)
    _check(digest.hexdigest(), shard, path)


def _blocks(file: IO[bytes], start: int, stop: int) -> Iterator[bytes]:
    file.seek(start)
    while start < stop and (block := file.read(min(MOST, stop - start))):
        start += len(block)
        yield block


def _check(digest: str, shard: Shard, path: object) -> None:
    if digest != shard.inside_sha256:
        raise ShardError(f"{path}: the SHA-256 of the tar in it is not the manifest's; {AGAIN}")


def inflated(blocks: Iterable[bytes], most: int, path: object) -> Iterator[bytes]:
    """What is inside of a gzip that comes in blocks, `most` bytes of it. Raises ShardError."""
    return _inflated(blocks, zlib.decompressobj(GZIP), most, path)


def _inflated(
    blocks: Iterable[bytes], stream: "zlib._Decompress", most: int, path: object
) -> Iterator[bytes]:
    """What is inside, in pieces, until it has `most` bytes. All blocks are taken."""
    try:
        for block in blocks:
            while block and most > 0 and not stream.eof:
                piece = stream.decompress(block, min(MOST, most))
                block, most = stream.unconsumed_tail, most - len(piece)
                yield piece
    except zlib.error as error:
        raise ShardError(f"{path}: is damaged ({error}); {AGAIN}") from error


def _piece_starts(samples: np.ndarray) -> list[int]:
    """Where pieces begin in the tar: at its start, then at the first sample that begins PIECE bytes
    or more after the last piece.
    """
    starts, at = [0], PIECE
    while (row := int(np.searchsorted(samples, at))) < len(samples):
        starts.append(int(samples[row]))
        at = starts[-1] + PIECE
    return starts
