"""From shards on disk to augmented batches: order, decoding, augmentation, sizes of images."""
