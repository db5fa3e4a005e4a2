"""The rivals that the paper compares with, one file each: methods/registry.py says what such a file has, and finds it by its name."""

# before any module of this package imports timm or lightly, which import torchvision
import scemae.models.torchvision_cpu  # noqa: F401
