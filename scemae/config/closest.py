"""The known name that a misspelt one probably means."""

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Up to `count` of the known names, closest first; dotted ones also by their last part."""
    names = list(dict.fromkeys(known))
    by_last: dict[str, list[str]] = {}
    for name in names:
        by_last.setdefault(name.rpartition(".")[2].lstrip("-"), []).append(name)
    bare = word.lstrip("-")
    found = list(by_last.get(bare, []))
    found += difflib.get_close_matches(word, names, count)
    if len(found) < count:
        for last in difflib.get_close_matches(bare, by_last, count):
            found += by_last[last]
    return list(dict.fromkeys(found))[:count]


def hint(word: object, known: Iterable[object]) -> str:
    """`, did you mean NAME` for a misspelt word; empty where nothing is close."""
    found = closest(str(word), map(str, known))
    return f", did you mean {found[0]!r}" if found else ""
