"""Changes of files that have headers: tar, zip, safetensors, MATLAB, JPEG and PNG.

Where a format has a checksum, it is computed again, so that the change itself is read.
"""

import functools
import io
import struct
import zipfile
import zlib
from random import Random

from tests.fuzz.binary import EXTREMES, change_at, mutate_bytes
from tests.fuzz.trees import SECRET, mutate_json

TAR_FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "uid": (108, 8),
    "size": (124, 12),
    "mtime": (136, 12),
    "type": (156, 1),
    "link": (157, 100),
    "magic": (257, 8),
    "prefix": (345, 155),
}
TAR_VALUES = (
    b"",
    b"\0",
    b"-1",
    b"-0000001\0",
    b"77777777777",
    b"\x80" + b"\xff" * 11,
    b"\xff" * 12,
    b"\x80" + bytes(3) + b"\x40" + bytes(7),
    b"9z",
    b"../canary/kept\0",
    b"/etc/passwd\0",
    b"x",
    b"g",
    b"L",
    b"K",
    b"S",
    b"1",
    b"2",
    b"3",
    b"6",
    b"V",
    b"D",
    b"img_align_celeba/000001.jpg\0",
)
PAX = (
    b"size=-1",
    b"size=99999999999999999999",
    b"path=../../canary/kept",
    b"GNU.sparse.size=9e9",
    b"GNU.sparse.map=0,1,-5",
    b"hdrcharset=BINARY",
    b"size=",
    b"=",
    b"path=\xff",
)
EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n"
    b"(../canary/pwned) (w) file closefile showpage\n%%EOF\n"
)
OTHERS = (
    EPS,
    b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;",
    b"BM" + bytes(16) + b"\xff\xff\xff\x7f" * 4 + bytes(40),
    b"II*\0\x08\0\0\0\1\0" + bytes(20),
    b"P6 99999 99999 255\n",
    b"P6\n# " + b"x" * 5000,
    b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    b"\0\0\1\0\xff\xff" + bytes(64),
    b"SIMPLE  =                    T" + b" " * 2850,
    b"8BPS\0\1" + b"\xff" * 30,
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
)


def mutate_tar(data: bytes, chance: Random) -> bytes:
    """A tar with a changed field in a header (its checksum is right), or with a new pax header."""
    kind = chance.random()
    heads = [
        place for place in range(0, len(data), 512) if data[place + 257 : place + 262] == b"ustar"
    ]
    if kind < 0.2 or not heads:
        return change_at(data, chance, heads)
    place = chance.choice(heads)
    if kind < 0.3:
        return data[:place] + _pax(chance.choice(PAX), chance) + data[place:]
    for _ in range(chance.choice((1, 1, 2))):
        start, size = TAR_FIELDS[chance.choice(sorted(TAR_FIELDS))]
        value = chance.choice(TAR_VALUES)[:size]
        data = data[: place + start] + value + data[place + start + len(value) :]
    return data[:place] + _summed(data[place : place + 512]) + data[place + 512 :]


def _pax(record: bytes, chance: Random) -> bytes:
    length = chance.choice((len(record) + 4, 0, -1, 10**20, 5))
    body = f"{length} ".encode() + record + b"\n"
    size = chance.choice((f"{len(body):011o}".encode() + b"\0", b"-0000000001\0", b"\xff" * 12))
    head = (
        b"pax".ljust(100, b"\0")
        + b"0000644\0" * 3
        + size
        + b"00000000000\0"
        + b" " * 8
        + chance.choice((b"x", b"g", b"L"))
    ).ljust(257, b"\0") + b"ustar\00000"
    return _summed(head.ljust(512, b"\0")) + body.ljust(512, b"\0")


def _summed(head: bytes) -> bytes:
    blank = head[:148] + b" " * 8 + head[156:]
    return head[:148] + f"{sum(blank):06o}\0 ".encode() + head[156:]


def mutate_safetensors(data: bytes, chance: Random) -> bytes:
    """A safetensors file: its header changed (with the right length), its length, or any bytes."""
    size, kind = int.from_bytes(data[:8], "little"), chance.random()
    if kind < 0.7:
        header = mutate_json(data[8 : 8 + size], chance)
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    if kind < 0.8:
        return chance.choice(EXTREMES).to_bytes(8, "little") + data[8:]
    return change_at(data, chance, range(min(len(data), 8 + size + 64)))


def mutate_zip(data: bytes, chance: Random) -> bytes:
    """A zip with a member changed, renamed, doubled or gone, or its directory changed."""
    if chance.random() < 0.3:
        return change_at(data, chance, range(max(data.find(b"PK\1\2"), 0), len(data)))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    row, out = chance.randrange(len(members)), io.BytesIO()
    name, content = members[row]
    how = chance.randrange(6)
    members[row : row + 1] = [
        [(chance.choice((SECRET, "/etc/x", name + "\0", "x" * 300, name.upper())), content)],
        [],
        [members[row]] * 2,
        *[[(name, mutate_bytes(content, chance))]] * 3,
    ][how]
    with zipfile.ZipFile(
        out, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for each, content in members:
            archive.writestr(each, content)
    return out.getvalue()


def mutate_mat(data: bytes, chance: Random) -> bytes:
    """A .mat of version 5 with a tag's type or size changed, packed or not."""
    if chance.random() < 0.05:
        return chance.choice(
            (
                b"\x89HDF\r\n\x1a\n" + bytes(512),
                b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400),
                b"",
                bytes(200),
                b"\xff\xff\xff\xff" + bytes(60),
            )
        )
    tags = list(range(128, len(data), 8))
    data = change_at(data, chance, tags if chance.random() < 0.8 else range(len(data)))
    if chance.random() < 0.2:
        packed = zlib.compress(data[128:])
        return (
            data[:128]
            + struct.pack("<II", 15, chance.choice((len(packed), len(packed), 0, 2**32 - 1)))
            + packed
        )
    return data


def mutate_picture(data: bytes, chance: Random) -> bytes:
    """A JPEG or PNG with a size, a length or a block changed, or another format under its name."""
    kind = chance.random()
    if kind < 0.12:
        return chance.choice(OTHERS) + (chance.randbytes(200) if chance.random() < 0.5 else b"")
    if kind < 0.5:
        return mutate_bytes(data, chance)
    return _png(data, chance) if data.startswith(b"\x89PNG") else _jpeg(data, chance)


def _jpeg(data: bytes, chance: Random) -> bytes:
    """A segment with another length or size of the picture, or left out, doubled or moved."""
    places = [
        place
        for place in range(2, min(len(data) - 4, 1500))
        if data[place] == 0xFF and 0xC0 <= data[place + 1] <= 0xFE
    ]
    frames = [place for place in places if data[place + 1] in (0xC0, 0xC2)]
    if frames and chance.random() < 0.5:  # the header of the frame: height, width, components
        place = frames[0] + 5
        sides = struct.pack(
            ">HH", *(chance.choice((0, 1, 2, 7, 65500, 65535, 30000, 178, 218)) for _ in "hw")
        )
        return data[:place] + sides + data[place + 4 :]
    return change_at(data, chance, [place + step for place in places for step in (1, 2, 3, 4)])


def _png(data: bytes, chance: Random) -> bytes:
    """A chunk changed, with its checksum."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    row = chance.randrange(len(chunks))
    name, body = chunks[row]
    if name == b"IHDR" and chance.random() < 0.7:
        body = (
            struct.pack(
                ">II",
                *(chance.choice((0, 1, 7, 40_000, 65_500, 2**31 - 1, 2**32 - 1)) for _ in "wh"),
            )
            + body[8:]
        )
    elif body:
        body = mutate_bytes(body, chance)
    extra = [
        (chance.choice((b"zTXt", b"iCCP", b"iTXt")), _swelling()),
        (b"eXIf", chance.randbytes(60)),
        (b"acTL", b"\xff" * 8),
    ]
    chunks[row : row + 1] = chance.choice(
        (
            [(name, body)],
            [(name, body)],
            [(name, body)] * 2,
            [],
            [(name, body), chance.choice(extra)],
        )
    )
    return data[:8] + b"".join(
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
        for name, body in chunks
    )


@functools.cache
def _swelling() -> bytes:
    """A text chunk of 90 kB that unpacks to 90 MB."""
    return b"a\0\0" + zlib.compress(bytes(90_000_000), 1)
