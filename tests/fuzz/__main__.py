"""`python -m tests.fuzz`: the command; ends with 1 where an input did what none may do."""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ["OMP_NUM_THREADS"] = "1"
sys.dont_write_bytecode = True

from tests.fuzz import place  # noqa: E402
from tests.fuzz.all import TARGETS  # noqa: E402
from tests.fuzz.campaign import fuzz, head, keep, row, totals  # noqa: E402
from tests.fuzz.pool import Finding, Tally  # noqa: E402


def main() -> int:
    """Try the inputs; print a row for each target that ends, then faults and totals."""
    given = _arguments()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as root:
        if given.only is not None:
            place.show(TARGETS[given.targets[0]], Path(root), given.seed, given.only)
            return 0
        return _campaign(given, Path(root))


def _campaign(given: argparse.Namespace, root: Path) -> int:
    chosen, started = {name: TARGETS[name] for name in given.targets or TARGETS}, time.monotonic()
    shown = set()

    def ended(name: str, tally: Tally) -> None:
        shown.add(name)
        print(row(name, tally), flush=True)

    print(head(), flush=True)
    tallies, findings = fuzz(
        chosen,
        root,
        given.seed,
        inputs=given.inputs,
        seconds=given.seconds,
        workers=given.workers,
        ended=ended,
    )
    for name in [name for name in tallies if name not in shown]:  # the run was cut
        ended(name, tallies[name])
    for finding in sorted(findings, key=lambda one: (one.target, -one.times)):
        _tell(finding, given)
    if given.keep:
        keep(Path(given.keep), findings, given.seed)
    print(totals(tallies, time.monotonic() - started), flush=True)
    return 1 if findings else 0  # the exit status


def _tell(finding: Finding, given: argparse.Namespace) -> None:
    again = f"python -m tests.fuzz {finding.target} --seed {given.seed} --only {finding.number}"
    print(f"\n{finding.target}: {finding.kind}, {finding.times} times: {finding.signature}")
    print(f"  again: {again}\n{finding.text if given.verbose else ''}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.fuzz",
        description=sys.modules["tests.fuzz"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--inputs", type=int, metavar="N", help="of each target (default: what a full run has)"
    )
    parser.add_argument("--seconds", type=float, default=3600, help="at most")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument(
        "--only", type=int, metavar="N", help="try this one input of TARGET and show its traceback"
    )
    parser.add_argument(
        "--keep", metavar="FOLDER", help="write each finding into a file of this folder"
    )
    parser.add_argument("--verbose", action="store_true", help="print the tracebacks")
    given = parser.parse_args()
    if unknown := [name for name in given.targets if name not in TARGETS]:
        parser.error(f"no target {unknown[0]}, there are {', '.join(TARGETS)}")
    if given.only is not None and len(given.targets) != 1:
        parser.error("--only needs one TARGET")
    return given


def _interrupt(number: int, frame: object) -> None:
    """`kill` and `timeout` end a run as ctrl-C does: with the figures until then."""
    signal.signal(number, signal.SIG_IGN)  # it may come twice
    signal.signal(number, signal.SIG_IGN)  # it may come twice
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
