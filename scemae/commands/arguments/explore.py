"""The options of `scemae explore`, and its help text."""

import argparse
from functools import partial

from scemae.commands.arguments.fit import add_fitting_options
from scemae.config.values import given_count, given_path

HELP = """\
Write one page that runs the networks of trained runs in the browser: drop photographs on it, click
a point in one, and see where its feature is found in the others.

  scemae explore runs/carb                         explore.html; the backbone is found by the run
  scemae explore runs/mae runs/carb runs/lda       some of one backbone, to switch between
  scemae explore runs/eval --out page.html         all that an evaluation measured

RUN is a run of stage 1 or 2, a checkpoint, the folder of a chain or a demo, an export, or a run of
`scemae evaluate`. The page opens from the disk
(file://) and sends nothing anywhere: photographs stay in the browser. It shows cosines as a heat
map, the best match, the distance between the point and the match of its match (as `scemae match`
does, by the same numbers), the attentive tokens of Eq. 1 and the clusters of the others; features
are refined from stride 8 to 4 and 2 while it is used. Drawn faces are built in as examples.

The page holds the networks (4 bytes a parameter, a third more as text) and onnxruntime-web
(5 MB), which comes from npm once and is kept in the user's cache; --runtime names
a copy instead. Needs the packages of `pip install 'scemae[export]'`.

  scemae explore runs/demo --serve --pictures photos/cats --out cats

With --serve a page on this machine, at an address with a random token, annotates a folder of
pictures: points are clicked in, suggested by the features, and saved in OUT/points.json after each
change. It fits a regressor on them as `scemae fit` does, shows the error of each picture left out,
and writes OUT/shards and OUT/fit for `scemae detect`. Needs `pip install 'scemae[serve]'`.
"""
READS = ("runs", "runtime", "pictures")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = partial(parser.add_argument, type=given_path)
    add("runs", metavar="RUN", nargs="+", help="of stage 1 or 2 on one backbone, or an evaluation")
    add(
        "--out",
        metavar="PLACE",
        help="the page (explore.html); with --serve the folder of what is saved (annotated)",
    )
    add("--runtime", metavar="FOLDER", help="folder dist of onnxruntime-web, instead of npm's")
    parser.add_argument(
        "--serve", action="store_true", help="annotate pictures, at an address of this machine"
    )
    add("--pictures", metavar="FOLDER", help="with --serve: the pictures to annotate")
    number = partial(parser.add_argument, type=given_count, metavar="N")
    number("--port", default=8765, help="with --serve: of the address (8765)")
    add_fitting_options(parser)
