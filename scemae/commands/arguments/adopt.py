"""The options of `scemae adopt`, and its help text."""

import argparse

from scemae.config.values import given_path

# What the weights of MAE, DeiT and most others expect: mean and std of R, G, B.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HELP = """\
Public weights of a Vision Transformer as a run folder of stage 1, for backbone= of `scemae
correspond` and `evaluate`.

  scemae adopt mae_pretrain_vit_base.pth runs/mae-imagenet --model deit_base
  scemae adopt model.safetensors runs/augreg --model deit_small --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5
  scemae correspond run_dir=runs/carb backbone=runs/mae-imagenet data.shards=data/celeba/train

WEIGHTS is a local file: a .pth of the official MAE, of which the encoder is used, or a ViT of timm
as .safetensors, .pth or .bin. Pickles are read as plain tensors only. Prefixes of names by training
(module., encoder., model., _orig_mod.) are removed. Weights that this encoder does not have
(registers, distillation tokens, norms of queries and keys, other MLPs) are refused. Patches become
8x8 and positions 12x12; the pixel statistics that the weights expect are folded into the patch
embedding. OUT is a new folder. Nothing here trains; the paper's own stage 1 starts from scratch.
"""
READS = ("weights",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("weights", metavar="WEIGHTS", type=given_path, help="a local file")
    parser.add_argument("out", metavar="OUT", type=given_path, help="the run folder, which is made")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="a file of configs/model: deit_tiny, deit_small, ...",
    )
    for name, value in zip(("mean", "std"), IMAGENET):
        parser.add_argument(
            f"--{name}",
            nargs=3,
            type=float,
            default=value,
            metavar=("R", "G", "B"),
            help=f"of the pixels that the weights expect ({' '.join(map(str, value))}, ImageNet's)",
        )
