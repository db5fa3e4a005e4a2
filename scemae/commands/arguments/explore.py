"""The options of `scemae explore`, and its help text."""

import argparse
from functools import partial
from pathlib import Path

from scemae.config.values import given_path

HELP = """\
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
(5 MB), which comes from npm once and is kept in the user's cache; --runtime names
a copy instead. Needs the packages of `pip install 'scemae[export]'`.
"""
READS = ("runs", "runtime")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = partial(parser.add_argument, type=given_path)
    add("runs", metavar="RUN", nargs="+", help="of stage 1 or 2 on one backbone, or an evaluation")
    add("--out", metavar="FILE", default=Path("explore.html"), help="the page (explore.html)")
    add("--runtime", metavar="FOLDER", help="folder dist of onnxruntime-web, instead of npm's")
