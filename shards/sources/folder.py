"""Any plain folder of images, sub-folders included, as one split without annotations: train.

Upright JPEGs are stored byte for byte. JPEGs that EXIF turns, and PNG, WebP, TIFF, BMP, GIF and PPM
are encoded as JPEG: the first of several pictures, transparent parts on white, 16 bits reduced to
8. Files that are empty or damaged, and pictures smaller than 32 pixels or larger than 100 million,
are left out with a reason in the manifest; linked folders are counted there and not entered.
"""

import os
from collections import Counter
from pathlib import Path

from scemae.errors import DataError
from scemae.shards.finished import BUILD_FOLDER
from scemae.shards.image import ENCODING
from scemae.shards.splits import Sample, Split, file_place, needed_folder, unique_keys

OTHER, LINKS = "not an image by its name", "linked folders, not entered"
DEVICES = "an image by its name, but no regular file"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})


def splits(root: Path, *, name: str = "train") -> list[Split]:
    """List all images below `root`, by the ending of their names and sorted by path, as one split.

    Hidden files are ignored. Links to folders are counted and not entered: they may lead anywhere,
    even in a circle. Raises DataError if there is no image.
    """
    needed_folder(root)
    images, excluded = _find(root)
    if not images:
        links = f", and {excluded[LINKS]} {LINKS}" if excluded[LINKS] else ""
        raise DataError(
            f"{root}: found {excluded[OTHER]:,} files, none of them an image "
            f"({' '.join(sorted(SUFFIXES))}){links}; give the folder that holds the images"
        )
    names = sorted(file.as_posix() for file in images)
    samples = [
        Sample(key, {"file": file}, file_place(root, file))
        for key, file in zip(unique_keys(names), names)
    ]
    options = {"other_formats": ENCODING}
    return [
        Split(
            "folder",
            name,
            samples,
            dict(excluded),
            options,
            upright=True,
            accept_other_formats=True,
        )
    ]


def _find(root: Path) -> tuple[list[Path], Counter]:
    """The images below `root`, and how many other entries there are, by reason. Raises DataError.

    In a folder of shards, for example of an earlier build into `root`, only images count: the tars
    are no part of the source.
    """
    images: list[Path] = []
    excluded: Counter[str] = Counter()
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
