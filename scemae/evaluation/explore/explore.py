"""`scemae explore RUN`: trained features in the browser, as one page that needs no server.

scemae explore runs/carb                  writes explore.html
scemae explore runs/eval --out page.html  all features that an evaluation measured
"""

import argparse
import base64
import gzip
from pathlib import Path

from scemae import __version__
from scemae.data.augment import MEAN, STD
from scemae.errors import ConfigError
from scemae.evaluation.explore import runtime
from scemae.evaluation.explore.examples import examples
from scemae.evaluation.explore.held import Held, hold
from scemae.evaluation.explore.runtime import Runtime
from scemae.evaluation.page import html_page
from scemae.files import disk
from scemae.interop.export import check_packages


def main(given: argparse.Namespace) -> None:
    """Write the page. Raises ConfigError, CheckpointError or RunFolderError."""
    if given.out.is_dir():
        raise ConfigError(f"--out: {given.out} is a folder; give a file, such as explore.html")
    check_packages("explore")
    found = runtime.load(given.runtime)
    page = render(hold(given.runs), found)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(given.out, page)
    print(f"{given.out}: {len(page) / 1e6:.1f} MB; open it in a browser")


def render(held: Held, found: Runtime) -> str:
    """The page."""
    model = {
        "mean": list(MEAN),
        "std": list(STD),
        "features": held.features,
        "attentive": held.attentive,
    }
    heads = [None if head is None else packed(head) for head in held.heads]
    faces = [(name, base64.b64encode(data).decode()) for name, data in examples()]
    return html_page.render(
        Path(__file__).with_name("explore.html"),
        title=held.title,
        model=model,
        facts=held.facts,
        encoder=packed(held.encoder),
        heads=heads,
        runtime_script=packed(runtime.as_classic(found.script)),
        runtime_binary=packed(found.binary),
        runtime_version=found.version,
        faces=faces,
        version=__version__,
    )


def packed(data: bytes) -> str:
    """Bytes as text for the page: gzip (without a time, so that pages are equal), then base64."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()
