"""SCE-MAE: Selective Correspondence Enhancement with Masked Autoencoder (CVPR 2024), as a training system."""

import os  # and nothing else: the current folder may still be on the path (process/import_path.py)

__version__ = "0.1.0"

# OpenMP reads these once, when torch is imported: so they are set here, before any module of ours can import torch, and what
# this process starts inherits them. Threads that wait by spinning for long take the cores from each other as soon as anything
# else runs on the machine; a thousand rounds cost nothing there, and are enough on an idle one (docs/results/robustness.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
