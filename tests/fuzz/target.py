"""What is tried: a kind of document, how it is made and changed, and the functions that read it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

Mutate = Callable[[bytes, Random], bytes]


@dataclass(frozen=True)
class Target:
    """One kind of document.

    make: write a valid one, with all that it needs, into an empty folder.
    files: what is changed (a path in that folder), and how.
    enter: functions of the program, given the folder; inputs go to them in turn. They may write to
        folder.parent / "out".
    repair: compute the digests and sizes in the file `repaired` again, so that the change is read.
    inputs: how many a full run tries.
    """

    name: str
    make: Callable[[Path], object]
    files: Mapping[str, Mutate]
    enter: tuple[Callable[[Path], object], ...]
    inputs: int
    repair: Callable[[Path], object] | None = None
    repaired: str = ""

    def change(self, seed: int, number: int, originals: Mapping[str, bytes]) -> tuple[str, bytes]:
        """Input `number`: the changed file and its new content, the same for the same seed."""
        chance = Random(f"{self.name} {seed} {number}")
        name = chance.choice(sorted(self.files))
        return name, self.files[name](originals[name], chance)
