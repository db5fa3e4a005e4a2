"""The sizes of images: evaluation frame, its central crop, and the frame of aligned CelebA (paper 4; PROTOCOL 3.1)."""

FRAME = 136  # side of the evaluation frame in pixels
CROP = 20  # pixels cut off each side of the frame
INPUT = 96  # side of what the network and the scores see: FRAME - 2 * CROP
UNIT = 70  # matching errors are given in pixels of a frame of this side (PROTOCOL 3.4)

CELEBA_SIZE = (178, 218)  # aligned CelebA, width and height
CELEBA_TOP = 30  # rows 30..207 of it are the 178x178 frame
