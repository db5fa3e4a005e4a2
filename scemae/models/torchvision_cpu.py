"""Makes torchvision, and so timm, importable beside a CPU build of torch.

The package registry holds torchvision for CUDA only. Beside a CPU torch its import fails with
"operator torchvision::nms does not exist", because its compiled operators cannot load. It is enough
to declare the two operators that it asks for at import: nothing here calls them. On a healthy
installation this does nothing.
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
