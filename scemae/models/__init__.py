"""The networks of both stages.

Letters of shapes, everywhere: b images, n patches (144), k kept tokens, d channels, c colours,
h w rows and columns, p patch size, l landmarks.
"""

# before any module of this package imports timm or lightly, which import torchvision
import scemae.models.torchvision_cpu  # noqa: F401
