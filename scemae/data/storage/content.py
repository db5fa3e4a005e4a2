"""A digest of the samples of a set, in their order, however tars cut them up (ours).

It is the value of a polynomial whose coefficients are the hashes of the samples, modulo a prime. So
a shard has a digest of its own, and those of consecutive shards give that of the set: the same
samples in tars of another size have the same one, and a run goes on with them. Like the ledger it
finds mistakes, not forgeries.
"""

from collections.abc import Iterable

import xxhash

from scemae.files import disk

PRIME = 2**127 - 1
BASE = 0x5CE3_AE5C_E3AE_5CE3_AE5C_E3AE_5CE3_AE5D % PRIME  # any number of about that size


def of_shard(samples: Iterable[tuple[bytes, int, bytes]]) -> str:
    """The digest of a shard, 32 hexadecimal digits.

    samples: of each its key, the XXH3-64 of its image, and its annotation.
    """
    value = 0
    for key, image, annotation in samples:
        text = b"%s %016x " % (key, image) + annotation
        value = (value * BASE + xxhash.xxh3_128_intdigest(text)) % PRIME
    return f"{value:032x}"


def of_shards(shards: Iterable[tuple[int, str]]) -> str:
    """The digest of a set, 64 hexadecimal digits; of each shard its samples and its digest."""
    value, total, powers = 0, 0, {}
    for samples, digest in shards:
        if samples not in powers:
            powers[samples] = pow(BASE, samples, PRIME)
        value = (value * powers[samples] + int(digest, 16)) % PRIME
        total += samples
    return disk.digest(f"{total} samples {value:032x}")
