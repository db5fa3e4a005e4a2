"""Any plain folder of images, sub-folders included, as one split without annotations: train.

Upright JPEGs are stored byte for byte. JPEGs that EXIF turns, and PNG, WebP, TIFF, BMP, GIF and PPM
are encoded as JPEG: the first of several pictures, transparent parts on white, 16 bits reduced to
8. Files that are empty or damaged, and pictures smaller than 32 pixels or larger than 100 million,
are left out with a reason in the manifest; linked folders are counted there and not entered.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scemae.errors import DataError
from scemae.shards.finished import BUILD_FOLDER
from scemae.shards.image import ENCODING
from scemae.shards.listing import Files, Listing
from scemae.shards.splits import Split, needed_folder

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
    images.finish()
    samples = Listing(images.sample, range(len(images)))
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


def _find(root: Path) -> tuple[Files, Counter]:
    """The images below `root`, and how many other entries there are, by reason. Raises DataError.

    In a folder of shards, for example of an earlier build into `root`, only images count: the tars
    are no part of the source.
    """
    images = Files(str(root))
    excluded: Counter[str] = Counter()
    open_folders = [_entries(root, "", images, excluded)]
    while open_folders:
        if (folder := next(open_folders[-1], None)) is None:
            open_folders.pop()
        else:
            open_folders.append(_entries(root, folder, images, excluded))
    return images, Counter({why: excluded[why] for why in (LINKS, DEVICES, OTHER) if excluded[why]})


def _entries(root: Path, folder: str, images: Files, excluded: Counter) -> Iterator[str]:
    """Add the images of one folder; yields each folder in it where its turn comes in the order.

    The order is that of whole paths, so a folder counts as its name and a slash.
    """
    here = os.path.join(root, folder)
    names, is_output = _listed(here, excluded)
    names.sort(reverse=True)
    while names:  # from the end, so that memory is given back
        name = names.pop()
        if name.endswith("/"):
            yield folder + name
            continue
        is_image = os.path.splitext(name)[1].lower() in SUFFIXES
        path = os.path.join(here, name)
        if is_image and os.path.isfile(path):
            images.append(folder, name, _stat(path))
        elif is_image:
            excluded[DEVICES] += 1
        elif not is_output and os.path.isfile(path):
            excluded[OTHER] += 1


def _listed(here: str, excluded: Counter) -> tuple[list[str], bool]:
    """The names in a folder, of folders with / behind; whether a build writes shards there."""
    names, is_output = [], False
    try:
        with os.scandir(here) as entries:
            for entry in entries:
                is_folder = _is_folder(entry)
                is_output |= is_folder and entry.name == BUILD_FOLDER
                if entry.name.startswith("."):
                    continue
                if is_folder and entry.is_symlink():
                    excluded[LINKS] += 1
                else:
                    names.append(f"{entry.name}/" if is_folder else entry.name)
    except OSError as error:
        _refuse(error)
    return names, is_output


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be opened ({error.strerror}), and was there when its folder was "
            "listed; run the same command again"
        ) from error


def _refuse(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: cannot be listed ({error.strerror}); make it readable, or take it away"
    ) from error
