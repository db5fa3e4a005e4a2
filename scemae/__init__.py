"""SCE-MAE: Selective Correspondence Enhancement with Masked Autoencoder (CVPR 2024), as a training system."""

import os  # and nothing else: the current folder may still be on the path (module_path.py)

__version__ = "0.1.0"

# OpenMP reads it once, when torch is imported: so it is set here, before any module of ours can import torch, and what this
# process starts inherits it. Threads that wait by spinning take the cores from each other as soon as anything else runs on
# the machine (docs/results/speed/busy.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# An installed scemae holds shards, cluster and configs; in a checkout they stand beside it, and are found there.
if not os.path.isdir(os.path.join(os.path.dirname(__file__), "shards")):
    __path__.append(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
