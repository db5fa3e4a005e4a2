"""Before any test imports torch or timm: scemae says how torch's threads wait (scemae/__init__.py),
and makes torchvision importable beside a CPU build of torch.
"""

import scemae.models.torchvision_cpu  # noqa: F401
