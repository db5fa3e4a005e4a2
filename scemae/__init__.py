"""SCE-MAE: Selective Correspondence Enhancement with Masked Autoencoder (CVPR 2024)."""

# Import nothing else here: the current folder may still be on the path (process/import_path.py).
import os

TYPE_CHECKING = False  # typing's own would be an import
if TYPE_CHECKING:
    from scemae.api import Detector as Detector
    from scemae.api import FramingWarning as FramingWarning
    from scemae.api import Landmarks as Landmarks
    from scemae.api import Matches as Matches
    from scemae.api import Model as Model
    from scemae.api import fit_landmarks as fit_landmarks
    from scemae.api import load as load
    from scemae.api import load_detector as load_detector
    from scemae.api import pretrain as pretrain

__version__ = "0.1.0"
# Imported from scemae/api/ when first used, since that imports torch.
OFFERED = (
    "Detector",
    "FramingWarning",
    "Landmarks",
    "Matches",
    "Model",
    "fit_landmarks",
    "load",
    "load_detector",
    "pretrain",
)

# OpenMP reads these once, when torch is imported, so they are set before any module of ours can
# import torch; child processes inherit them. Threads that spin for long while they wait take cores
# from each other as soon as anything else runs on the machine. A thousand rounds of spinning cost
# nothing then, and are enough on an idle machine (docs/results/robustness.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> object:
    if name in OFFERED:
        from scemae.process.collector import stopped

        with stopped():
            from scemae import api

        return getattr(api, name)
    raise AttributeError(f"module 'scemae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *OFFERED])
