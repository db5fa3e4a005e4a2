"""Before any test imports torch: scemae says how its threads wait (scemae/__init__.py)."""

import scemae  # noqa: F401
