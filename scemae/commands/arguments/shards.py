"""The options of `scemae shards`, and its help text."""

import argparse

from scemae.commands.docstrings import docstring_of
from scemae.config.values import given_count, given_location, given_path
from scemae.process.cores import cores

EXAMPLES = """examples:
  scemae shards build celeba /datasets/CelebA /data/shards/celeba --workers 16
  scemae shards build celeba /datasets/CelebA /data/celeba136 --resize 136 --split train --split val
  scemae shards build aflw_m /data/aflw-mtfl /data/shards/aflw
  scemae shards build aflw_r /data/aflw-recrop /data/shards/aflw --corrected corrected.csv
  scemae shards build w300 /data/300w /data/shards/300w --boxes landmarks
  scemae shards build folder /data/photographs /data/shards/own
  scemae shards build folder /data/photographs s3://bucket/own --part 3/8
  scemae shards build folder /data/cats /data/shards/cats --landmarks points.json --test 0.2
  scemae shards index '/data/laion/{00000..00099}.tar'
  scemae shards index s3://theirs/laion --out data/laion
  scemae shards verify /data/shards/celeba --decode
  scemae shards verify s3://bucket/own
  scemae shards info /data/shards/celeba/train
  scemae shards info s3://bucket/own/train --keys
"""
BUILD = """Turn a raw data set into one folder of shards for each split, OUT/<split>.

Every image is decoded once; those that are not whole are named in the manifest and left out. Run
the same command again after an interruption: finished shards are kept, the others are written. The
same source and options always give the same bytes.

OUT may be s3://bucket/folder (gs, az, file). Each worker then has one shard at a time in a folder
for temporary files (TMPDIR) and puts it. A bucket has no locks: a builder marks what it writes and
renews the mark; where one was killed, the next waits a minute to see that. Two that are at work on
the same part nevertheless write the same bytes, unless the images change meanwhile."""
QUALITY = 95  # the default of shards/image.py
FEW = 2000  # that of shards/write.py
# Each source: the file of shards/sources that reads it, and what it gives.
SOURCES = {
    "celeba": ("celeba", "CelebA, and MAFL from it: train, val, mafl-train, mafl-test"),
    "aflw_m": ("aflw", "AFLW in MTFL's crops: aflw-train, aflw-test"),
    "aflw_r": (
        "aflw",
        "AFLW in lmdis-rep's crops: aflwr-train, aflwr-test; with --corrected aflwrc-test",
    ),
    "w300": ("w300", "300-W with 68 points: w300-train, w300-test"),
    "folder": (
        "folder",
        "any folder of images: train; with --landmarks annotated-train and annotated-test too",
    ),
}
READS = ("root",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `scemae shards`."""
    raw, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="build | index | verify | info"
    )
    builder = commands.add_parser(
        "build",
        help="turn a raw data set into shards",
        description=BUILD,
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    sources = builder.add_subparsers(dest="source", required=True, metavar=" | ".join(SOURCES))
    for name, (file, words) in SOURCES.items():
        text = docstring_of(f"scemae.shards.sources.{file}")
        source = sources.add_parser(name, help=words, description=text, formatter_class=raw)
        _add_source(source, name)
    _add_index(commands)
    verify = commands.add_parser(
        "verify",
        help="compare every byte with the manifest",
        description="Read all shards and compare sizes and SHA-256 with the manifest.",
    )
    verify.add_argument("--decode", action="store_true", help="also decode every image")
    info = commands.add_parser(
        "info",
        help="describe what a folder of shards holds",
        description="Describe what a folder of shards holds, and what was left out of it and why.",
    )
    info.add_argument(
        "--keys",
        action="store_true",
        help="print the keys of all samples instead, a line each, as data.subset takes them",
    )
    for command in (verify, info):
        command.add_argument(
            "folder",
            type=given_location,
            help="folder or URL (s3, gs, az, http) of one split, or the one that holds several",
        )


def _add_index(commands: "argparse._SubParsersAction") -> None:
    indexer = commands.add_parser(
        "index",
        help="use WebDataset tars that others wrote",
        description=docstring_of("scemae.shards.index"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    indexer.add_argument(
        "tars", type=given_location, help="folder of tars, FOLDER/{000..099}.tar, or a bucket's URL"
    )
    indexer.add_argument(
        "--out",
        type=given_location,
        metavar="PLACE",
        help="folder or URL of a bucket for manifest and indexes (default: beside the tars)",
    )
    indexer.add_argument(
        "--workers",
        type=given_count,
        default=cores(),
        metavar="N",
        help="tars read at a time (default: all cores, here %(default)s)",
    )
    _add_part(indexer, "index")


def _add_source(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("root", type=given_path, help="folder of the raw data set")
    parser.add_argument(
        "out",
        type=given_location,
        help="folder, or URL of a bucket (s3, gs, az), to write; each split becomes a folder in it",
    )
    parser.add_argument(
        "--split", action="append", metavar="NAME", help="build this split only (may be repeated)"
    )
    parser.add_argument(
        "--samples-per-shard",
        type=given_count,
        default=1000,
        metavar="N",
        help="images of the source per tar (default 1000)",
    )
    parser.add_argument(
        "--gzip",
        action="store_true",
        help="compress the tars, which saves most where images are small; they are read through "
        "data.cache_dir",
    )
    parser.add_argument(
        "--workers",
        type=given_count,
        metavar="N",
        help="processes, each writing whole shards (default: all cores, here "
        f"{cores()}; 1 for a split of fewer than {FEW:,} images)",
    )
    parser.add_argument(
        "--max-bad-fraction",
        type=_fraction,
        default=0.01,
        metavar="F",
        help="stop when more than this share of a split's images is unusable (default 0.01)",
    )
    parser.add_argument(
        "--shuffle",
        type=_seed,
        metavar="SEED",
        help="store the split train in a random order, which an order in lanes profits from; the "
        "order of the others belongs to the protocols",
    )
    _add_part(parser, "write")
    _add_own(parser, name)


def _add_own(parser: argparse.ArgumentParser, name: str) -> None:
    """The options of one source alone."""
    if name == "celeba":
        _add_celeba(parser)
    if name == "folder":
        _add_landmarks(parser)
    if name == "aflw_r":
        parser.add_argument(
            "--corrected",
            type=given_path,
            metavar="FILE",
            help="a CSV of corrected labels of the test images: adds the split aflwrc-test",
        )
    if name == "w300":
        parser.add_argument(
            "--boxes",
            choices=("official", "landmarks"),
            default="official",
            help="face boxes: 300-W's bounding_boxes_*.mat, or the extent of the 68 points",
        )


def _add_part(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help=f"{verb} every N-th tar from the I-th on, beside other machines that have other "
        "parts; then run the same command without --part once",
    )


def _add_landmarks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--landmarks",
        type=given_path,
        action="append",
        metavar="FILE",
        help="points of some of the pictures: COCO, CSV, DeepLabCut, Label Studio, CVAT, or our "
        "JSON (may be repeated)",
    )
    parser.add_argument(
        "--category", metavar="NAME", help="of a COCO file with several that have key points"
    )
    parser.add_argument(
        "--test",
        metavar="SHARE|FILE",
        help="annotated pictures to test on: a share of them, or a file with a name on each line "
        "(default 0: all are trained on, and `scemae fit` leaves each out in turn)",
    )
    parser.add_argument(
        "--scale-points",
        nargs=2,
        metavar=("A", "B"),
        help="errors are in %% of the distance of these points (default: the two farthest)",
    )
    parser.add_argument(
        "--pair",
        nargs=2,
        action="append",
        metavar=("A", "B"),
        help="points that change places in a mirrored picture (default: by left and right in "
        "their names; may be repeated)",
    )
    parser.add_argument(
        "--margin",
        type=_margin,
        metavar="F",
        help="how many times as wide as its box an object's frame is (default 1.5; 1 where the "
        "files have no boxes and the whole picture is the box)",
    )


def _margin(text: str) -> float:
    number = float(text)
    if not 0.1 <= number <= 10:
        raise argparse.ArgumentTypeError(f"found {number:g}, needed 0.1 to 10")
    return number


def _add_celeba(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-mafl-train",
        action="store_true",
        help="leave MAFL's training images in train: 161,962 images instead of 146,501",
    )
    parser.add_argument(
        "--resize",
        type=given_count,
        metavar="N",
        help="store the 178x178 frame scaled to NxN instead of the original bytes (lossy)",
    )
    parser.add_argument(
        "--quality",
        type=_quality,
        metavar="Q",
        help=f"JPEG quality of what --resize stores, 1 to 100 (default {QUALITY})",
    )


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"found {number}, needed 0 or more")
    return number


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"found {text!r}, needed I/N with I from 1 to N, as 3/8")
    return int(index) - 1, int(count)


def _quality(text: str) -> int:
    number = given_count(text)
    if number > 100:
        raise argparse.ArgumentTypeError(f"found {number}, needed 1 to 100")
    return number


def _fraction(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"found {number}, needed a number from 0 to 1")
    return number
