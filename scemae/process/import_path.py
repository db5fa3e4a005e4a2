"""Keep Python from importing modules of the current folder, where somebody may have put a `ray.py`.

`python -m scemae` and `torchrun -m scemae` put the current folder first on the path, and so would
every process that they start. It is removed here before anything is imported from it, and
PYTHONSAFEPATH does the same in the processes that are started. This file imports only modules that
Python itself has loaded by then.
"""

import os
import sys

# the checkout, or site-packages
HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def leave_out_current_folder() -> None:
    """Remove the current folder from the path of this process and of those that it starts.

    It stays where PYTHONPATH names it. A checkout that is not installed is added to PYTHONPATH, so
    that processes find it from any folder.
    """
    here, given = os.getcwd(), os.environ.get("PYTHONPATH", "")
    named = [part for part in given.split(os.pathsep) if part]
    if not sys.flags.safe_path and sys.path[:1] in ([here], [""]):  # as -m and -c put it there
        del sys.path[0]
    if given and len(named) <= given.count(os.pathsep) and here in sys.path and here not in named:
        # An empty part of PYTHONPATH means the current folder, seldom on purpose.
        sys.path.remove(here)
    if not _is_found():
        sys.path.append(HOME)
        named.append(HOME)
    if named or given:
        os.environ["PYTHONPATH"] = os.pathsep.join(named)
    os.environ["PYTHONSAFEPATH"] = "1"


def _is_found() -> bool:
    """True where a process without the current folder would find this scemae."""
    for finder in sys.meta_path:
        if (found := finder.find_spec("scemae", None)) is not None:
            package = os.path.dirname(os.path.abspath(found.origin or ""))
            return package == os.path.join(HOME, "scemae")
    return False
