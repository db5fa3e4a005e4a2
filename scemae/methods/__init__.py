"""One file per method: the paper's stages mae and carb beside their rivals; see registry.py."""

# before any module of this package imports timm or lightly, which import torchvision
import scemae.models.torchvision_cpu  # noqa: F401
