"""To and from other programs: names of timm, export, adoption of public weights."""

# before any module of this package imports timm or lightly, which import torchvision
import scemae.models.torchvision_cpu  # noqa: F401
