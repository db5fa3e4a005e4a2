"""Headers of the members of a tar: how a name and a size stand there."""

from typing import Any
from urllib.parse import unquote

# Bytes: a member's header takes BLOCK, and the length of a tar is a multiple of RECORD.
BLOCK, RECORD = 512, 10240


def in_blocks(size: Any) -> Any:
    """`size` bytes (a number or an array of them) rounded up to whole blocks of a tar."""
    return -(-size // BLOCK) * BLOCK


def member_name(key: str, is_annotation: int | bool) -> str:
    """The name of a sample's JPEG or annotation in its tar."""
    return f"{key}.json" if is_annotation else f"{key}.jpg"


def is_header(block: bytes, name: str, size: int, foreign: bool = False) -> bool:
    """True where `block` begins with the tar header of a member `name` of `size` bytes.

    foreign: the tar is of another program.
    """
    if foreign:
        return _is_foreign_header(block, name, size)
    return (
        block.startswith(name.encode() + b"\0")
        and block[156:157] in (b"0", b"\0")
        and block[124:136].rstrip(b"\0 ") == b"%011o" % size
    )


def foreign_name(key: str, suffix: str) -> str:
    """The name of a foreign image in its tar."""
    return f"{unquote(key, errors='surrogateescape')}.{suffix}"


def _is_foreign_header(block: bytes, name: str, size: int) -> bool:
    """As is_header.

    A header holds 100 bytes of a name, so that of a longer one, or one that is not plain ASCII,
    only the size is compared.
    """
    head, prefix = (part.split(b"\0", 1)[0] for part in (block[:100], block[345:500]))
    full = prefix + b"/" + head if prefix and block[257:263] == b"ustar\0" else head
    digits = block[124:136].rstrip(b"\0 ").lstrip(b" 0") or b"0"
    is_short = name.isascii() and len(name) < 100
    return digits == b"%o" % size and (not is_short or full == name.encode())


def wrong_header(block: bytes, name: str, path: object) -> str:
    """The error message: the tar `path` has another member where its index has `name`."""
    found = block[:100].split(b"\0", 1)[0].decode("utf8", "backslashreplace")[:80]
    return (
        f"{path}: found {found!r} where its index names {name}; run `scemae shards verify` and "
        "copy the shards again, or rebuild them"
    )
