"""Hooks of MkDocs: pages that are not kept under docs/ but generated when the site is built.

Commands and settings come from `docs/reference.py`, which reads them from the code. CONTRIBUTING,
SECURITY and CHANGELOG come from the root of the checkout, their links rewritten for the site.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

REPO = Path(__file__).parents[1]
SHIM = "https://unpkg.com/iframe-worker/shim"  # the theme would load it from there
ROOT_PAGES = {
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the files of the site."""
    for page, source in ROOT_PAGES.items():
        text = links_of_the_site((REPO / source).read_text())
        files.append(File.generated(config, page, content=text))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, REPO / "docs" / "reference.py", folder]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(REPO)})
        for path in sorted(Path(folder).glob("*.md")):
            text = path.read_text()
            files.append(File.generated(config, f"reference/{path.name}", content=text))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The page with our copy of the script that the search needs without a server.

    Raises PluginError if the page would load anything from another site.
    """
    output = output.replace(SHIM, get_relative_url("scripts/iframe-worker.js", page.url))
    if loaded := re.search(r'<(?:script|link|img)[^>]* (?:src|href)="https?:[^"]*"', output):
        raise PluginError(f"{page.file.src_uri}: found {loaded[0]}, a page must load nothing")
    return output


def links_of_the_site(text: str) -> str:
    """Markdown from the root of the checkout with its links into docs/ seen from docs/."""
    text = re.sub(r"\]\(docs/", "](", text)
    for page, source in ROOT_PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text
