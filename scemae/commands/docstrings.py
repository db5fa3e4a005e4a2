"""The docstring of a module of scemae, read from its source: importing most of them takes torch."""

import ast
from pathlib import Path

import scemae


def docstring_of(module: str) -> str:
    """What `MODULE.__doc__` would be for a dotted name such as scemae.runs.verify."""
    parts = module.split(".")[1:]
    path = Path(scemae.__file__).parent.joinpath(*parts).with_suffix(".py")
    return ast.get_docstring(ast.parse(path.read_bytes()), clean=False) or ""
