"""Order version 2, "lanes" (ours): an order of any number of samples that reads its data in blocks.

A permutation of all samples needs every shard all the time, and memory for all of it. Here the
samples are cut into blocks of V neighbours, the blocks are dealt out to K lanes once for a run, and
every lane passes its blocks on in windows of b, shuffled inside a window:

    place p of epoch e:   lane l = p mod K,   t = p div K,   window w = t div (b V)
    u      = phi[seed, e, l, w](t mod (b V))        a permutation of the samples of a window
    block  = sigma[seed](psi[seed, e, l](w b + u div V) K + l)
    sample = block V + u mod V

sigma deals the blocks out, psi is the order of a lane's blocks in an epoch. Each is a permutation
that Philox draws by its own key and counter. What does not fill a block in every lane comes at the
end of an epoch, shuffled. A place follows from (seed, epoch) and K, V, b alone, none of which
depends on ranks or nodes. With K = 1 and V = the number of samples it is order version 1, bit for
bit.

In memory are sigma, psi and the open windows: 8 bytes for each block, 2 for each sample of a
window; 50 MB for 10^9 samples at K = 1,024, V = 256, b = 64.
"""

from collections import OrderedDict
from threading import RLock

import numpy as np

from scemae.data.line import Line

# Of phi: a batch touches one window, two where one ends; so does the batch that is read ahead.
WINDOWS_KEPT = 4
EPOCHS_KEPT = 3  # tables of which window reads a block: of now, of what is read ahead, and the next
WITHIN, BLOCKS, DEAL, TAIL = range(4)  # the permutations phi, psi, sigma, and that of the tail


class Lanes(Line):
    """The order of the epochs of `samples` samples, by place."""

    version = 2

    def __init__(self, samples: int, seed: int, lanes: int, block: int, window: int) -> None:
        """lanes, block, window: K, V and b; K is lowered until each lane has a block."""
        self.samples, self.seed, self.block = samples, seed, min(block, samples)
        self.lanes = max(min(lanes, samples // self.block), 1)
        self.blocks = samples // (self.block * self.lanes)  # of a lane
        self.window = min(window, self.blocks)
        dealt = _philox(seed, 0, DEAL, 0, 0).permutation(self.blocks * self.lanes)
        self._deal = dealt.astype(_smallest(len(dealt)))
        self._read_in: dict[int, np.ndarray] = {}  # of some epochs, what _windows_of returns
        self._tables: OrderedDict[tuple[int, int, int], _Rows] = OrderedDict()
        self._lock = RLock()  # of both: threads that download ask too

    @property
    def settings(self) -> dict[str, int]:
        """K, V and b."""
        return {"lanes": self.lanes, "block": self.block, "window": self.window}

    def groups(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The lanes of places (p,)."""
        return (places % self.lanes).astype(_smallest(self.lanes))

    def at(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """As Line.at."""
        lanes, turns = places % self.lanes, places // self.lanes
        in_blocks = self.blocks * self.block
        span = self.window * self.block
        found = np.empty(len(places), np.int64)
        windows = np.where(turns < in_blocks, turns // span, -1)
        for window in np.unique(windows).tolist():
            here = windows == window
            if window < 0:
                rest = (turns[here] - in_blocks) * self.lanes + lanes[here]
                found[here] = self._tail(epoch)[rest].astype(np.int64) + in_blocks * self.lanes
                continue
            size = min(span, in_blocks - window * span)
            lane = lanes[here]
            u = self._rows(WITHIN, epoch, window, size).at(lane, turns[here] - window * span)
            turn = self._rows(BLOCKS, epoch, 0, self.blocks)
            order = turn.at(lane, window * self.window + u // self.block)
            found[here] = self._deal[order * self.lanes + lane].astype(np.int64) * self.block
            found[here] += u % self.block
        return found

    @property
    def span(self) -> int:
        """Samples that are needed together: a window of every lane."""
        return self.lanes * self.window * self.block

    @property
    def memory(self) -> int:
        """Bytes in each rank of many; one rank alone keeps the windows of all lanes."""
        return 16 * self.lanes * self.blocks

    @property
    def windows(self) -> int:  # type: ignore[override]
        """Windows of an epoch; the last is the tail."""
        return -(-self.blocks // self.window) + 1

    def window_in(self, epoch: int, place: int) -> int:
        """As Line.window_in."""
        turn = place // self.lanes
        if turn >= self.blocks * self.block:
            return self.windows - 1
        return turn // (self.window * self.block)

    def reads(self, epoch: int, blocks: np.ndarray) -> np.ndarray:
        """As Line.reads."""
        return self._windows_of(epoch)[blocks].astype(np.int64)

    def _windows_of(self, epoch: int) -> np.ndarray:
        """In which window of an epoch each block is read, (blocks of all samples,)."""
        with self._lock:
            if epoch not in self._read_in:
                self._read_in = dict([*self._read_in.items()][1 - EPOCHS_KEPT :])
                found = np.full(
                    -(-self.samples // self.block), self.windows - 1, _smallest(self.windows)
                )
                turns = self._rows(BLOCKS, epoch, 0, self.blocks)
                for lane in range(self.lanes):
                    dealt = self._deal[turns.row(lane).astype(np.int64) * self.lanes + lane]
                    found[dealt] = np.arange(self.blocks) // self.window
                self._read_in[epoch] = found
            return self._read_in[epoch]

    def _rows(self, purpose: int, epoch: int, window: int, size: int) -> "_Rows":
        key = (purpose, epoch, window)
        with self._lock:
            if key not in self._tables:
                self._tables[key] = _Rows(self.seed, purpose, epoch, window, self.lanes, size)
                same = [each for each in self._tables if each[0] == purpose]
                for old in same[:-WINDOWS_KEPT]:
                    del self._tables[old]
            self._tables.move_to_end(key)
            return self._tables[key]

    def _tail(self, epoch: int) -> np.ndarray:
        rest = self.samples - self.blocks * self.block * self.lanes
        return self._rows(TAIL, epoch, 0, rest).row(0)


class _Rows:
    """A permutation of `size` for each lane, drawn when it is first asked for."""

    def __init__(
        self, seed: int, purpose: int, epoch: int, window: int, lanes: int, size: int
    ) -> None:
        self._key = seed, epoch, purpose, window
        self._rows = np.empty((lanes, size), _smallest(size))
        self._drawn = np.zeros(lanes, bool)

    def row(self, lane: int) -> np.ndarray:
        """The permutation of one lane, (size,)."""
        if not self._drawn[lane]:
            seed, epoch, purpose, window = self._key
            generator = _philox(seed, epoch, purpose, lane, window)
            self._rows[lane] = generator.permutation(self._rows.shape[1])
            self._drawn[lane] = True
        return self._rows[lane]

    def at(self, lanes: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Element places[i] of the permutation of lanes[i], int64."""
        for lane in np.unique(lanes[~self._drawn[lanes]]).tolist():
            self.row(lane)
        return self._rows[lanes, places].astype(np.int64)


def _philox(seed: int, epoch: int, purpose: int, lane: int, window: int) -> np.random.Generator:
    return np.random.Generator(
        np.random.Philox(key=[seed, epoch], counter=[0, lane, window, purpose])
    )


def _smallest(count: int) -> type[np.unsignedinteger]:
    """The smallest type that holds 0 .. count - 1."""
    return np.uint16 if count <= 2**16 else np.uint32 if count <= 2**32 else np.uint64
