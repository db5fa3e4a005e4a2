"""Hides from Python what a borrowed GPU machine lacks: an installed scemae, and some packages.

    cd CHECKOUT && PYTHONPATH=tests/bare python -m scemae pretrain ...

scemae is then found in the current folder alone. Python imports this file at its start, as any
sitecustomize on its path. An editable installation of scemae is removed from the import system; the
packages below are found neither by an import nor by importlib.metadata.
"""

import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from importlib.metadata import Distribution

PACKAGES = {
    "webdataset",
    "ray",
    "submitit",
    "lightly",
    "optuna",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "hydra_plugins",
}


class Bare(PathFinder):
    """The finder of all that lies on sys.path, but for PACKAGES."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> object:
        return None if name.split(".")[0] in PACKAGES else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *context: object) -> Iterable[Distribution]:
        hidden = {"scemae", *PACKAGES}
        return (
            one
            for one in super().find_distributions(*context)
            if one.name.lower().replace("-", "_") not in hidden
        )


sys.meta_path[:] = [
    Bare if finder is PathFinder else finder
    for finder in sys.meta_path
    if not getattr(finder, "__module__", "").startswith("__editable__")
]
sys.path[:] = [place for place in sys.path if not place.startswith("__editable__")]
