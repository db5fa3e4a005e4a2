"""Where Python looks for modules: never in the current folder, which may be somebody else's and hold a `ray.py` of theirs.

`python -m scemae` and `torchrun -m scemae` put the current folder first, and so would every process that they start. It is
taken away here before anything is imported from it; PYTHONSAFEPATH does the same in what is started. This file imports
nothing but what Python itself has loaded by then.
"""

import os
import sys

HOME = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
)  # the checkout, or site-packages


def leave_out_current_folder() -> None:
    """Take the current folder off the path of this process and of all that it starts, where nobody put it there by name.

    A checkout that is not installed is named in PYTHONPATH instead, so that what is started finds it from anywhere.
    """
    here, given = os.getcwd(), os.environ.get("PYTHONPATH", "")
    named = [part for part in given.split(os.pathsep) if part]
    if not sys.flags.safe_path and sys.path[:1] in ([here], [""]):  # as -m and -c put it there
        del sys.path[0]
    if given and len(named) <= given.count(os.pathsep) and here in sys.path and here not in named:
        sys.path.remove(
            here
        )  # an empty part of PYTHONPATH means the current folder, seldom on purpose
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
            return os.path.dirname(os.path.abspath(found.origin or "")) == os.path.join(
                HOME, "scemae"
            )
    return False
