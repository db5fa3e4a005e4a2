"""python -m bench needs: which packages a checkout lacks on this machine.

  python3 -m bench needs        names what is absent or too old; ends with 1 where one is absent
                                that every command needs

What is lacking can travel as wheels. Where there is a network, `pip wheel --no-deps -w wheels
NAME...` (for another Python: `pip download --python-version ...`); on the other machine
`pip install --no-index --no-deps --target /tmp/site wheels/*.whl`, and PYTHONPATH=/tmp/site.
"""

import argparse
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
OPTIONAL = {
    "webdataset": "scemae shards build",
    "lightly": "method=moco and byol",
    "ray": "sweeps",
    "optuna": "sweeps",
    "submitit": "submitted jobs",
    "onnx": "exports to ONNX",
    "pytest": "tests",
}
WHOLE = {"torch", "torchvision"}  # how these find CUDA's libraries is their builder's matter


def main(argv: list[str]) -> int:
    """Print what is lacking; 1 where one that is needed is absent."""
    argparse.ArgumentParser(
        "python -m bench needs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)
    wanted = tomllib.loads(PROJECT.read_text(encoding="utf8"))["project"]["dependencies"]
    found = {name: why for name, why in lacking(wanted).items() if name not in OPTIONAL}
    for name, use in OPTIONAL.items():
        if name in lacking([name]):
            print(f"{name}: absent, only {use} need it")
    for name, why in found.items():
        print(f"{name}: {why}")
    if absent := [name for name, why in found.items() if why.startswith("absent")]:
        print(
            f"found no {', '.join(absent)}, which every command needs; bring wheels "
            "(python3 -m bench needs --help)"
        )
    return bool(absent)


def lacking(wanted: list[str]) -> dict[str, str]:
    """What is wrong, by name, with requirements as pyproject.toml writes them, and with theirs."""
    from packaging.requirements import Requirement

    found, seen, queue = {}, set(), [(Requirement(line), "scemae") for line in wanted]
    while queue:
        one, who = queue.pop(0)
        if (name := one.name.lower().replace("_", "-")) in seen or not (
            one.marker is None or one.marker.evaluate({"extra": ""})
        ):
            continue
        seen.add(name)
        try:
            there = distribution(one.name)
        except PackageNotFoundError:
            found[name] = f"absent; {who} needs {one}"
            continue
        if not one.specifier.contains(there.version, prereleases=True):
            found[name] = f"found {there.version}; {who} needs {one}"
        if name not in WHOLE:
            queue += [(Requirement(line), name) for line in there.requires or []]
    return found
