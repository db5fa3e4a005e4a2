"""`python -m tests.fuzz`: the command; ends with 1 where an input did what none may do."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ["OMP_NUM_THREADS"] = "1"
sys.dont_write_bytecode = True

from tests.fuzz import pool  # noqa: E402
from tests.fuzz.all import TARGETS  # noqa: E402
from tests.fuzz.campaign import fuzz, keep, table  # noqa: E402


def main() -> int:
    """Try the inputs, print a table and what was found; the exit status."""
    given = _arguments()
    chosen = {name: TARGETS[name] for name in given.targets or TARGETS}
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as root:
        if given.only is not None:
            pool.show(chosen[given.targets[0]], Path(root), given.seed, given.only)
            return 0
        tallies, findings = fuzz(chosen, Path(root), given.seed, inputs=given.inputs, seconds=given.seconds, workers=given.workers)
    print(table(tallies))
    for finding in sorted(findings, key=lambda one: (one.target, -one.times)):
        print(f"\n{finding.target}: {finding.kind}, {finding.times} times: {finding.signature}\n"
              f"  again: python -m tests.fuzz {finding.target} --seed {given.seed} --only {finding.number}")
        if given.verbose:
            print(finding.text)
    if given.keep:
        keep(Path(given.keep), findings, given.seed)
    return 1 if findings else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=sys.modules["tests.fuzz"].__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, metavar="N", help="of each target (default: what a full run has)")
    parser.add_argument("--seconds", type=float, default=3600, help="at most")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--only", type=int, metavar="N", help="try this one input of the first TARGET here, with its traceback")
    parser.add_argument("--keep", metavar="FOLDER", help="write each finding into a file of this folder")
    parser.add_argument("--verbose", action="store_true", help="print the tracebacks")
    given = parser.parse_args()
    if unknown := [name for name in given.targets if name not in TARGETS]:
        parser.error(f"no target {unknown[0]}, there are {', '.join(TARGETS)}")
    return given


if __name__ == "__main__":
    sys.exit(main())
