"""The options of `scemae export`, and its help text."""

import argparse

from scemae.config.values import given_path

HELP = """\
A trained encoder for use without scemae: a folder that timm and transformers load, and ONNX.

  scemae export runs/mae out
      model.safetensors, config.json, README.md
  scemae export runs/carb out
      the backbone of runs/carb in them, and projector.safetensors
  scemae export runs/carb out --onnx
      and encoder.onnx, features.onnx (any batch size)

RUN is a run folder of stage 1 or 2 or one of its checkpoints, or the folder of a chain or a demo;
adopted weights too. OUT is a new folder. In Python: timm.create_model("local-dir:out",
pretrained=True), transformers' AutoModel.from_pretrained("out") or scemae.load("out").
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
        "run", metavar="RUN", type=given_path, help="run folder or checkpoint of stage 1 or 2"
    )
    parser.add_argument("out", metavar="OUT", type=given_path, help="a new folder")
    parser.add_argument(
        "--projector",
        metavar="RUN2",
        type=given_path,
        help="run folder or checkpoint of stage 2 on RUN, where RUN is of stage 1",
    )
    parser.add_argument("--onnx", action="store_true", help="write ONNX too")
    parser.add_argument(
        "--check", metavar="N", type=int, default=8, help="images that are compared (8)"
    )
