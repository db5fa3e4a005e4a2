"""Changes of lists in text: rows and columns missing, doubled or moved, and words for numbers."""

from random import Random

from tests.fuzz.binary import mutate_bytes
from tests.fuzz.trees import SECRET

TOKENS = (
    "",
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e400",
    "-1e400",
    "1e5",
    str(2**62),
    str(2**64),
    "9" * 5_000,
    "1.5",
    "²",
    "٣",
    "0x10",
    "1_0",
    "--",
    "/",
    "..",
    SECRET,
    "/dev/zero",
    "/etc/passwd",
    "000001.jpg",
    "999999.jpg",
    "a" * 5_000,
    "\0",
    "\x1b[31m",
    "ü",
    "日本.jpg",
    '"',
    "'",
    ",",
    "#",
    "\\",
    "{",
    "}",
)
BREAKS = ("\n", "\r\n", "\r", "\n\n", "\x0b", "\x0c", "\x1c", "\u2028", "\x85", "")


def mutate_lines(data: bytes, chance: Random) -> bytes:
    """A list in text with one to three changes."""
    if chance.random() < 0.15:
        return mutate_bytes(data, chance)
    lines = data.decode("utf8").splitlines()
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        _change(lines, chance)
    text = chance.choice(BREAKS if chance.random() < 0.1 else BREAKS[:1]).join(lines)
    mark = chance.random()
    text = "\ufeff" + text if mark < 0.04 else text
    return text.encode("latin-1" if mark > 0.98 else "utf-16" if mark > 0.96 else "utf8", "replace")


def _change(lines: list[str], chance: Random) -> None:
    if not lines:
        lines.append(chance.choice(TOKENS))
    row = chance.randrange(len(lines))
    match chance.randrange(9):
        case 0:
            del lines[row]
        case 1:
            lines.insert(chance.randrange(len(lines) + 1), lines[row])
        case 2:
            lines.insert(row, chance.choice(("", "   ", "\t", "#", "{", "}", "x y", "\ufeff")))
        case 3:
            other = chance.randrange(len(lines))
            lines[row], lines[other] = lines[other], lines[row]
        case 4:
            del lines[row:]
        case _:
            lines[row] = _row(lines[row], chance)


def _row(line: str, chance: Random) -> str:
    comma = "," if "," in line else " "
    words = line.split(comma)
    place = chance.randrange(len(words))
    match chance.randrange(5):
        case 0:
            del words[place]
        case 1:
            words.insert(place, chance.choice(TOKENS))
        case 2:
            words = words[:place]
        case _:
            words[place] = chance.choice(TOKENS)
    return comma.join(words)
