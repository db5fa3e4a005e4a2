"""Changes of any bytes: bits, numbers, and pieces that are cut out, repeated or moved."""

from random import Random

EXTREMES = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


def mutate_bytes(data: bytes, chance: Random) -> bytes:
    """`data` with one to four changes anywhere."""
    return change_at(data, chance, range(len(data)))


def change_at(data: bytes, chance: Random, places: range | list[int]) -> bytes:
    """`data` with one to four changes at some of `places`, which may be offsets of fields."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        place = min(chance.choice(places), len(data)) if places else 0
        data = chance.choice(CHANGES)(data, place, chance)
    return data


def _flip(data: bytes, place: int, chance: Random) -> bytes:
    return (
        data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        if place < len(data)
        else data
    )


def _byte(data: bytes, place: int, chance: Random) -> bytes:
    return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]


def _number(data: bytes, place: int, chance: Random) -> bytes:
    size = chance.choice((1, 2, 4, 8))
    number = chance.choice(EXTREMES) % 2 ** (8 * size)
    return (
        data[:place]
        + number.to_bytes(size, chance.choice(("little", "big")))
        + data[place + size :]
    )


def _cut(data: bytes, place: int, chance: Random) -> bytes:
    return data[:place]


def _leave_out(data: bytes, place: int, chance: Random) -> bytes:
    return data[:place] + data[place + chance.choice((1, 2, 8, 100, 512)) :]


def _insert(data: bytes, place: int, chance: Random) -> bytes:
    return data[:place] + chance.randbytes(chance.choice((1, 4, 64, 4000))) + data[place:]


def _repeat(data: bytes, place: int, chance: Random) -> bytes:
    piece = data[place : place + chance.choice((4, 64, 512))]
    return data[:place] + piece * chance.choice((2, 3, 50)) + data[place:]


def _splice(data: bytes, place: int, chance: Random) -> bytes:
    start, size = chance.randrange(len(data) + 1), chance.choice((4, 64, 512))
    return data[:place] + data[start : start + size] + data[place + size :]


CHANGES = (
    _flip,
    _flip,
    _byte,
    _number,
    _number,
    _number,
    _cut,
    _leave_out,
    _insert,
    _repeat,
    _splice,
)
