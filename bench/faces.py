"""The images of the benchmarks: generated faces as shards, drawn once and cached."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def shards(count: int) -> Path:
    """Shards of the training split (about 0.7) of `count` generated faces, in the user's cache."""
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
