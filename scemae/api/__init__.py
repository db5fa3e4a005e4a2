"""What `import scemae` offers: trained features, matches and landmark detectors as Python objects.

`scemae.load` and the other names are imported from here when they are first used.
"""

from scemae.api.landmarks import Detector, Landmarks, fit_landmarks, load_detector
from scemae.api.model import Matches, Model, load
from scemae.api.training import pretrain
from scemae.errors import FramingWarning

__all__ = [
    "Detector",
    "FramingWarning",
    "Landmarks",
    "Matches",
    "Model",
    "fit_landmarks",
    "load",
    "load_detector",
    "pretrain",
]
