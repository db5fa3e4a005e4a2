"""The methods, one file each: the paper's two stages, mae and carb, and its rivals (registry.py)."""

# before any module of this package imports timm or lightly, which import torchvision
import scemae.models.torchvision_cpu  # noqa: F401
