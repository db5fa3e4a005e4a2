"""Lets torchvision, and so timm, import beside a CPU build of torch; does nothing on a healthy installation.

The package registries hold torchvision for CUDA alone. Beside a CPU torch its import fails with "operator
torchvision::nms does not exist", because its compiled operators cannot load. Declaring the two operators that it
asks for at import is enough: nothing here calls them.
"""

import sys

import torch

_library: torch.library.Library | None = None  # must live as long as the declared operators


def make_importable() -> None:
    """Import torchvision, declaring its missing operators first if that is what it takes."""
    global _library
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


make_importable()
