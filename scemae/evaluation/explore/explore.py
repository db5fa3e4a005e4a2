"""`scemae explore RUN`: trained features in the browser, as one page that needs no server.

scemae explore runs/carb                  writes explore.html
scemae explore runs/eval --out page.html  all features that an evaluation measured
"""

import argparse
import base64
import gzip
from functools import partial
from pathlib import Path

from scemae import __version__
from scemae.config.values import given_path
from scemae.data.augment import MEAN, STD
from scemae.errors import ConfigError
from scemae.evaluation.explore import runtime
from scemae.evaluation.explore.examples import examples
from scemae.evaluation.explore.held import Held, hold
from scemae.evaluation.explore.runtime import Runtime
from scemae.evaluation.page import html_page
from scemae.files import disk
from scemae.interop.export import check_packages

HELP = f"""\
Write one page that runs the networks of trained runs in the browser: drop photographs on it, click
a point in one, and see where its feature is found in the others.

  scemae explore runs/carb                         explore.html; the backbone is found by the run
  scemae explore runs/mae runs/carb runs/lda       some of one backbone, to switch between
  scemae explore runs/eval --out page.html         all that an evaluation measured

RUN is a run folder of stage 1, of stage 2, or of `scemae evaluate`. The page opens from the disk
(file://) and sends nothing anywhere: photographs stay in the browser. It shows cosines as a heat
map, the best match, the distance between the point and the match of its match (as `scemae match`
does, by the same numbers), and the attentive tokens of Eq. 1; features are refined from stride 8 to
4 and 2 while it is used. Drawn faces are built in as examples.

The page holds the networks (4 bytes a parameter, a third more as text) and onnxruntime-web
{runtime.VERSION} (5 MB), which comes from npm once and is kept in the user's cache; --runtime names
a copy instead. Needs the packages of `pip install 'scemae[export]'`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = partial(parser.add_argument, type=given_path)
    add("runs", metavar="RUN", nargs="+", help="of stage 1 or 2 on one backbone, or an evaluation")
    add("--out", metavar="FILE", default=Path("explore.html"), help="the page (explore.html)")
    add("--runtime", metavar="FOLDER", help="folder dist of onnxruntime-web, instead of npm's")


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
