"""Any plain folder of images, sub-folders included, as one split without annotations."""

from pathlib import Path

from scemae.errors import DataError
from scemae.shards.image import ENCODING
from scemae.shards.source import Sample, Split, file_place, needed_folder, unique_keys

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})


def splits(root: Path, *, name: str = "train") -> list[Split]:
    """List all images below `root`, sorted by path, as the split `name`; hidden files are passed over.

    What is an image goes by the file name's ending; JPEG bytes stay untouched where they are upright; turned ones and other
    formats are encoded as JPEG.
    Raises DataError if there is no image.
    """
    needed_folder(root)
    files = sorted((path.relative_to(root) for path in root.rglob("*") if path.is_file()), key=Path.as_posix)
    visible = [file for file in files if not any(part.startswith(".") for part in file.parts)]
    images = [file for file in visible if file.suffix.lower() in SUFFIXES]
    if not images:
        raise DataError(f"{root}: found {len(visible):,} files, none of them an image ({' '.join(sorted(SUFFIXES))}); "
                        "give the folder that holds the images")
    names = [file.as_posix() for file in images]
    samples = [Sample(key, {"file": file}, file_place(root / file)) for key, file in zip(unique_keys(names), names)]
    excluded = {"not an image by its name": len(visible) - len(images)} if len(visible) > len(images) else {}
    return [Split("folder", name, samples, excluded, {"other_formats": ENCODING}, accept_other_formats=True,
                  upright=True)]
