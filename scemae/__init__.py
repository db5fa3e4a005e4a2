"""SCE-MAE: Selective Correspondence Enhancement with Masked Autoencoder (CVPR 2024), as a training system."""

from pathlib import Path

__version__ = "0.1.0"

# An installed scemae holds shards, cluster and configs; in a checkout they stand beside it, and are found there.
if not (Path(__file__).parent / "shards").is_dir():
    __path__.append(str(Path(__file__).resolve().parent.parent))
