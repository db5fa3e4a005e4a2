"""From shards on disk to augmented batches: order, decoding, augmentation, and the geometry of images."""
