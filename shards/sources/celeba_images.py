"""CelebA's aligned images: where they lie (a folder, a zip, tars), and all of them in memory."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from scemae.errors import DataError
from scemae.shards.archive import Member, tar_members, zip_members
from scemae.shards.image import Frame
from scemae.shards.listing import Places, Texts
from scemae.shards.splits import ImagePlace, Sample, stamped

MEMBER = re.compile(r"(?:.*/)?img_align_celeba/([0-9]{6}\.jpg)")


class Faces:
    """All images with their annotations, in columns."""

    def __init__(
        self,
        images: dict[str, ImagePlace],
        landmarks: dict[str, list[list[int]]],
        identities: dict[str, int],
        frame: Frame | None,
    ) -> None:
        self._names, self._places, self._frame = Texts(), Places(), frame
        for name, place in images.items():
            self._names.append(name)
            self._places.append(place)
        # (n, 5, 2) and (n,), or empty where there is no list
        self._landmarks = np.array([landmarks[name] for name in images if landmarks], np.int32)
        self._identities = np.array([identities[name] for name in images if identities], np.int32)

    def sample(self, row: int) -> Sample:
        """One image."""
        name = self._names[row]
        annotation: dict[str, Any] = {"file": name}
        if len(self._landmarks):
            points = self._landmarks[row].tolist()
            annotation["landmarks"] = self._frame.move(points) if self._frame else points
        if len(self._identities):
            annotation["identity"] = int(self._identities[row])
        return Sample(name.removesuffix(".jpg"), annotation, self._places[row])


def find_images(root: Path) -> dict[str, ImagePlace]:
    """Every img_align_celeba/NNNNNN.jpg in a folder, else a zip, else tars, of `root` or root/Img.

    Members of other folders in the same tars are ignored. Raises DataError if there is no image, or
    one twice.
    """
    for base in (root, root / "Img"):
        for find in (_in_folder, _in_zip, _in_tars):
            if images := find(base):
                return images
    raise DataError(
        f"{root}: found no img_align_celeba/NNNNNN.jpg (in a folder, img_align_celeba.zip or "
        "*.tar); give the folder that holds CelebA's aligned JPEG images, or use the source "
        "`folder`"
    )


def _in_folder(base: Path) -> dict[str, ImagePlace]:
    folder = base / "img_align_celeba"
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {
            entry.name: _file(entry)
            for entry in entries
            if re.fullmatch(r"[0-9]{6}\.jpg", entry.name)
        }


def _file(entry: os.DirEntry) -> ImagePlace:
    try:
        return stamped(entry.path, entry.stat())
    except OSError as error:
        raise DataError(
            f"{entry.path}: cannot be opened ({error.strerror}); copy the image again, or take the "
            "link away"
        ) from error


def _in_zip(base: Path) -> dict[str, ImagePlace]:
    path = base / "img_align_celeba.zip"
    return _in_archive(path, zip_members(path)) if path.exists() else {}


def _in_tars(base: Path) -> dict[str, ImagePlace]:
    images: dict[str, ImagePlace] = {}
    for path in sorted(base.glob("*.tar")):
        for name, place in _in_archive(path, tar_members(path)).items():
            _once(images, name, place)
    return images


def _in_archive(path: Path, members: list[Member]) -> dict[str, ImagePlace]:
    images: dict[str, ImagePlace] = {}
    stamp = stamped(str(path), path.stat()).stamp
    for member in members:
        if match := MEMBER.fullmatch(member.name):
            name = "" if member.offset >= 0 else member.name  # a zip's members are read by name
            place = ImagePlace(str(path), member.size, name, member.offset, stamp)
            _once(images, match[1], place)
    return images


def _once(images: dict[str, ImagePlace], name: str, place: ImagePlace) -> None:
    if name not in images:
        images[name] = place
    elif images[name].path == place.path:
        raise DataError(f"{place.path}: holds {name} twice; pack the images again, each once")
    else:
        raise DataError(
            f"{place.path}: holds {name}, and so does {images[name].path}; "
            "keep only the archives of one data set in the folder"
        )
