"""The options of `scemae faces`, and its help text."""

import argparse

from scemae.config.values import given_path
from scemae.process.cores import cores

LAYOUTS = ("celeba", "aflw_m", "aflw_r", "300w", "butterflies")
HELP = """Draw faces with exact landmarks, in the layout of CelebA or of another benchmark.

Every picture follows from the seed, the layout and its number, so the same command gives the same
files with any number of workers. People are split 80/10/10.

celeba   train, val and test; MAFL's testing list shows people of the test part only, its training
         list the other two. Aligned pictures of 178x218 pixels.
aflw_m   MTFL's crops of 150x150 pixels, training people 80 %, test people 20 %
aflw_r   lmdis-rep's tighter crops of many sizes; some labels are wrong, as the paper finds AFLW_R's
         to be (AFLW_RO), and corrected.csv has the exact ones of the test set (AFLW_RC)
300w     whole pictures of many sizes in 300-W's folders, 68 points and a box around each face
butterflies   no faces: a folder of pictures, with ten points of each in JSON files, to try
         `scemae shards build folder --landmarks` with

  scemae faces faces/ --count 4000 --identities 400 --seed 0 --workers 8
  scemae faces aflw/ --layout aflw_r --count 2000 --identities 400
  scemae shards build aflw_r aflw/ data/aflw --corrected aflw/corrected.csv

A picture takes about 10 ms of one core and 7 kB. Make shards of the folder as of the data set."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("out", type=given_path, metavar="OUT", help="folder to write; new or empty")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="celeba",
        help="the data set whose files to write (default: %(default)s)",
    )
    parser.add_argument(
        "--count", type=int, default=4000, help="pictures, at least 20 (default: %(default)s)"
    )
    parser.add_argument(
        "--identities", type=int, default=400, help="people, 10 to COUNT (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, other people (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=cores(), help="processes (default: %(default)s)"
    )
