"""Random numbers that are a pure function of (seed, epoch, sample), never of rank or batch.

A counter-based generator: each number is a hash of its coordinates, so any of them can be computed
alone, in any order, for a whole batch at once.
"""

import numpy as np

# Purposes; the numbers of different purposes are independent.
CROP, FLIP, MASK, JPEG_QUALITY, JPEG_SIZE, COLOUR, LIGHTING, WARP = range(8)
VIEW = 16  # added to a purpose once for each further view of the same image


def uniform(
    seed: int, epochs: np.ndarray, samples: np.ndarray, purpose: int, count: int
) -> np.ndarray:
    """`count` numbers in [0, 1) for each of b (epoch, sample) pairs, (b, count) float64."""
    with np.errstate(over="ignore"):
        state = _mix(np.full(len(samples), seed, dtype=np.uint64) + _GOLDEN)
        for part in (epochs, samples, np.full(len(samples), purpose)):
            state = _mix(state + _GOLDEN * (np.asarray(part).astype(np.uint64) + np.uint64(1)))
        counters = _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
        bits = _mix(state[:, None] + counters[None])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(
    seed: int, epochs: np.ndarray, samples: np.ndarray, purpose: int, count: int
) -> np.ndarray:
    """`count` standard normal numbers for each of b (epoch, sample) pairs, (b, count) float64.

    By Box and Muller's transform.
    """
    u = uniform(seed, epochs, samples, purpose, 2 * count)
    return np.sqrt(-2 * np.log1p(-u[:, :count])) * np.cos(2 * np.pi * u[:, count:])


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014).

    A bijection in which every output bit depends on every input bit.
    """
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
