"""The example pictures of the explorer: drawn faces, with nothing of a photograph in them."""

import io

from PIL import Image

from scemae.faces.write import make_face

SEED = 7  # another world than that of `scemae demo`, whose seed is 0
PEOPLE = (3, 3, 11, 26)  # the first person twice
QUALITY = 92  # of the JPEG files: about 10 kB each


def examples() -> list[tuple[str, bytes]]:
    """Names and JPEG files of drawn faces, 178x218 pixels as CelebA's aligned pictures."""
    found = []
    for index, person in enumerate(PEOPLE):
        pixels, _, _ = make_face(index, person, SEED)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
        found.append((f"drawn face {index + 1}, person {person}", file.getvalue()))
    return found
