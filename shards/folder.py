"""Any plain folder of images, sub-folders included, as one split without annotations: train.

Upright JPEGs are stored byte for byte. Those that EXIF turns, and PNG, WebP, TIFF, BMP, GIF and PPM, are encoded as JPEG: the
first of several pictures, transparent parts on white, 16 bits brought to 8. What is empty, damaged, smaller than 32 pixels
or larger than 100 million is left out with a reason in the manifest; linked folders are counted there and not entered.
"""

import os
from collections import Counter
from pathlib import Path

from scemae.errors import DataError
from scemae.shards.image import ENCODING
from scemae.shards.record import BUILD_FOLDER
from scemae.shards.source import Sample, Split, file_place, needed_folder, unique_keys

OTHER, LINKS = "not an image by its name", "linked folders, not entered"
DEVICES = "an image by its name, but no regular file"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})


def splits(root: Path, *, name: str = "train") -> list[Split]:
    """List all images below `root`, sorted by path, as the split `name`; hidden files are passed over, links to folders
    are counted and not entered (they may lead anywhere, and round in a circle).

    What is an image goes by the file name's ending; JPEG bytes stay untouched where they are upright; turned ones and other
    formats are encoded as JPEG.
    Raises DataError if there is no image.
    """
    needed_folder(root)
    images, excluded = _find(root)
    if not images:
        raise DataError(
            f"{root}: found {excluded[OTHER]:,} files, none of them an image ({' '.join(sorted(SUFFIXES))})"
            f"{f', and {excluded[LINKS]} {LINKS}' if excluded[LINKS] else ''}; give the folder that holds the "
            "images"
        )
    names = sorted(file.as_posix() for file in images)
    samples = [
        Sample(key, {"file": file}, file_place(root, file))
        for key, file in zip(unique_keys(names), names)
    ]
    return [
        Split(
            "folder",
            name,
            samples,
            dict(excluded),
            {"other_formats": ENCODING},
            accept_other_formats=True,
            upright=True,
        )
    ]


def _find(root: Path) -> tuple[list[Path], Counter]:
    """The images below `root`, and how many other things there are, by reason. Raises DataError.

    In a folder of shards, of an earlier build into `root` say, only images count: what we wrote is no part of a source.
    """
    images, excluded = [], Counter()
    for place, folders, names in os.walk(root, onerror=_refuse):
        here, is_output = Path(place), BUILD_FOLDER in folders
        visible = [folder for folder in folders if not folder.startswith(".")]
        folders[:] = [folder for folder in visible if not (here / folder).is_symlink()]
        excluded[LINKS] += len(visible) - len(folders)
        for path in (here / name for name in names if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                images.append(path.relative_to(root))
            elif path.suffix.lower() in SUFFIXES:
                excluded[DEVICES] += 1
            elif path.is_file() and not is_output:
                excluded[OTHER] += 1
    return images, +excluded


def _refuse(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: cannot be listed ({error.strerror}); make it readable, or take it away"
    ) from error
