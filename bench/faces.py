"""The images that are measured on: faces of the project's own generator as shards, drawn once and kept in a cache."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def shards(count: int) -> Path:
    """Shards of the training split of `count` generated faces (about 0.7 of them), in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "scemae-bench"
    folder = cache / f"faces-{count}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            for command in (
                [
                    "faces",
                    f"{aside}/faces",
                    f"--count={count}",
                    f"--identities={max(count // 10, 10)}",
                ],
                ["shards", "build", "celeba", f"{aside}/faces", f"{aside}/shards"],
            ):
                subprocess.run([sys.executable, "-m", "scemae", *command], check=True)
            shutil.move(f"{aside}/shards", folder)
    return folder / "train"
