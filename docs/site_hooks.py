"""Hooks of MkDocs: pages that are not kept under docs/ but generated when the site is built.

Commands and settings come from `docs/reference.py`, which reads them from the code. CONTRIBUTING,
SECURITY and CHANGELOG come from the root of the checkout, their links rewritten for the site. Where
the environment has RUN, a trained run, its explorer is built in and the first page links to it.
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
EXPLORER = "explorer.html"
LINK = f"""\
[Open the explorer]({EXPLORER}){{ .md-button .md-button--primary }}

Trained features in the browser: click a point in one face, and see where it is found in others.
Photographs stay on your machine. The last part of the page says which model it holds.
"""


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
        if run := os.environ.get("RUN"):
            page_of_explorer = explorer_of(run, Path(folder) / EXPLORER)
            files.append(File.generated(config, EXPLORER, content=page_of_explorer))
    return files


def explorer_of(run: str, out: Path) -> bytes:
    """The page of `scemae explore RUN`, written to `out`. Raises PluginError."""
    command = [sys.executable, "-m", "scemae.cli", "explore", run, "--out", str(out)]
    if subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPO)}).returncode:
        raise PluginError(
            f"RUN={run}: `scemae explore` made no page of it, see its message above; give a run of "
            "`make demo`, such as RUN=runs/demo, or none"
        )
    return out.read_bytes()


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The first page with a link to the explorer, where there is one."""
    if page.file.src_uri != "index.md" or files.get_file_from_path(EXPLORER) is None:
        return markdown
    return with_explorer(markdown)


def with_explorer(markdown: str) -> str:
    """The first page's text with LINK instead of the words that there is no explorer."""
    marked = re.compile("<!-- explorer: .*?<!-- end of explorer -->\n", re.DOTALL)
    return marked.sub(lambda _: LINK, markdown)


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
