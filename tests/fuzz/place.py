"""The files of one input: put in place, tried, and made whole again."""

import os
import shutil
import sys
import traceback
from pathlib import Path

from tests.fuzz.guard import Guard, Outcome
from tests.fuzz.target import Target


class Place:
    """The folder of one worker for one target.

    in/ holds the document, out/ what is written, canary/ what may not change; here/ is the current
    folder.
    """

    def __init__(self, folder: Path, target: Target, seeds: Path) -> None:
        self.folder, self.target, self.seed = folder, target, _seed(seeds, target)
        self.originals = {
            name: (self.seed / name).read_bytes()
            for name in {*target.files, target.repaired}
            if name
        }
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("canary", "here", "tmp"):
            (folder / name).mkdir(parents=True)
        (folder / "canary" / "kept").write_bytes(b"kept")
        shutil.copytree(self.seed, folder / "in")
        os.chdir(folder / "here")
        os.environ["TMPDIR"] = str(folder / "tmp")

    def put(self, name: str, content: bytes) -> None:
        """Change one file, and repair the digests and sizes that must agree with it."""
        (self.folder / "in" / name).write_bytes(content)
        if self.target.repair:
            self.target.repair(self.folder / "in")

    def restore(self, name: str, *, whole: bool) -> None:
        """Restore the changed file, or with `whole` all of them."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        if whole:
            shutil.rmtree(self.folder / "in")
            shutil.copytree(self.seed, self.folder / "in")
        for changed in filter(None, (name, self.target.repaired)):
            (self.folder / "in" / changed).write_bytes(self.originals[changed])


def _seed(seeds: Path, target: Target) -> Path:
    """The valid document, made once for all workers."""
    folder = seeds / target.name
    if not folder.exists():
        aside = seeds / f"{target.name}.{os.getpid()}"
        aside.mkdir(parents=True)
        target.make(aside)
        try:
            aside.rename(folder)
        except OSError:  # another worker was first
            shutil.rmtree(aside)
    return folder


def try_one(place: Place, guard: Guard, seed: int, number: int) -> Outcome:
    """Try input `number`."""
    target = place.target
    name, content = target.change(seed, number, place.originals)
    try:
        place.put(name, content)
        outcome = guard.run(lambda: target.enter[number % len(target.enter)](place.folder / "in"))
    finally:
        place.restore(name, whole=guard.wrote)
    return outcome


def show(target: Target, root: Path, seed: int, number: int) -> None:
    """Try one input in this process and print how it ended, with its traceback."""
    place = Place(root / "one", target, root / "seeds")
    name, content = target.change(seed, number, place.originals)
    sys.stdout.write(f"{name}, {len(content):,} bytes: {content[:3000]!r}\n")
    place.put(name, content)
    try:
        target.enter[number % len(target.enter)](place.folder / "in")
        sys.stdout.write("accepted\n")
    except BaseException:
        traceback.print_exc()
