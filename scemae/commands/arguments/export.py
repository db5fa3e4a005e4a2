"""The options of `scemae export`, and its help text."""

import argparse

from scemae.config.values import given_path

HELP = """\
A trained encoder for use without scemae: safetensors that timm's VisionTransformer loads, and ONNX.

  scemae export runs/mae out
      encoder.safetensors, config.json, README.md
  scemae export runs/mae out --projector runs/carb
      and projector.safetensors
  scemae export runs/mae out --projector runs/carb --onnx
      and encoder.onnx, features.onnx (any batch size)

RUN is a run folder of stage 1 or one of its checkpoints; adopted weights too. OUT is a new folder.
The encoder takes images of 96x96 pixels, normalised as config.json says, and gives CLS and patch
tokens; features.onnx gives the projected map, 12x12, of length one at each place. The files are
read back and compared with the original on seeded images, to within 2e-5 (timm) and 1e-4
(onnxruntime) of the largest value; otherwise nothing is left in OUT. --onnx needs the packages of
`pip install 'scemae[export]'`.
"""
READS = ("run", "projector")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "run", metavar="RUN", type=given_path, help="run folder or checkpoint of stage 1"
    )
    parser.add_argument("out", metavar="OUT", type=given_path, help="a new folder")
    parser.add_argument(
        "--projector",
        metavar="RUN2",
        type=given_path,
        help="run folder or checkpoint of stage 2 on it",
    )
    parser.add_argument("--onnx", action="store_true", help="write ONNX too")
    parser.add_argument(
        "--check", metavar="N", type=int, default=8, help="images that are compared (8)"
    )
