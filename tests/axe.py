"""axe-core on a page in Debian's Chromium: what it finds of contrast, names, order and keyboard.

axe-core is not part of this repository (its licence is MPL-2.0): npm fetches it once, into the
user's cache. A test that needs it is skipped where playwright, Chromium or axe-core is missing.
"""

import os
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium

VERSION = "4.14.1"
SHOWN = [(1200, 900, "light"), (390, 844, "dark")]  # windows: width, height, light or dark
BAD = ("serious", "critical")


@cache
def source() -> str:
    """axe.min.js."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache_home / "scemae-tests"
    tarball = folder / f"axe-core-{VERSION}.tgz"
    if not tarball.exists():
        if not shutil.which("npm"):
            pytest.skip("found no axe-core and no npm that fetches it")
        folder.mkdir(parents=True, exist_ok=True)
        words = ["npm", "pack", f"axe-core@{VERSION}", "--silent", "--ignore-scripts"]
        if subprocess.run(words, cwd=folder, capture_output=True, timeout=120).returncode:
            pytest.skip("npm could not fetch axe-core")
    with tarfile.open(tarball) as tar:
        file = tar.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode("utf8")


def findings(page: Any) -> list[str]:
    """What axe-core calls serious or critical on an open page: rule and first element."""
    page.evaluate(source())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']} ({len(one['nodes'])}): {one['nodes'][0]['html'][:200]}"
        for one in found
        if one["impact"] in BAD
    ]


def check_file(path: Path) -> None:
    """Assert that axe-core has no serious finding on a file, wide and narrow, light and dark, and
    that the page is not wider than its window."""
    source()  # skips before a browser starts
    with chromium() as browser:
        for width, height, scheme in SHOWN:
            view = {"width": width, "height": height}
            page = browser.new_page(viewport=view, color_scheme=scheme)
            page.goto(path.resolve().as_uri())
            assert findings(page) == [], (width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.close()
