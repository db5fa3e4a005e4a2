"""Before a test imports timm: on a CPU, torchvision has to be imported without its operators."""

import scemae.interop  # noqa: F401
