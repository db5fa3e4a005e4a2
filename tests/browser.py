"""Debian's Chromium, driven by playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright; the test is skipped where playwright or Chromium is missing."""
    playwright, path = pytest.importorskip("playwright.sync_api"), shutil.which("chromium")
    if path is None:
        pytest.skip("found no chromium")
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
