"""SCE-MAE: Selective Correspondence Enhancement with Masked Autoencoder (CVPR 2024), as a training system."""

__version__ = "0.1.0"
