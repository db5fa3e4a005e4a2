"""SCE-MAE: Selective Correspondence Enhancement with Masked Autoencoder (CVPR 2024)."""

# Import nothing else here: the current folder may still be on the path (process/import_path.py).
import os

__version__ = "0.1.0"

# OpenMP reads these once, when torch is imported, so they are set before any module of ours can
# import torch; child processes inherit them. Threads that spin for long while they wait take cores
# from each other as soon as anything else runs on the machine. A thousand rounds of spinning cost
# nothing then, and are enough on an idle machine (docs/results/robustness.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
