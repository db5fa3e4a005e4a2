"""The folder of pictures that the page shows: names, sizes, and JPEG files for a browser.

A browser gets every picture upright and in 8-bit RGB, at most SHOWN pixels each way. Points are in
pixels of the upright original nevertheless, whose size goes along.
"""

import io
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from PIL import Image

from scemae.data.framing import square_of
from scemae.data.picture import KINDS, UnusablePicture, check_sides, open_picture, upright_size
from scemae.errors import DataError
from scemae.evaluation.photographs.photograph_features import BoxedPhotograph
from scemae.files import disk
from scemae.shards.sources import folder
from scemae.shards.splits import Sample, read_bytes

SHOWN = 1600  # pixels of a side, at most, as the browser gets it
QUALITY = 92
KEPT = 32  # JPEG files kept in memory


class Pictures:
    """The pictures below a folder, by their paths in it, in the order of `shards build folder`."""

    def __init__(self, root: Path) -> None:
        """Raises DataError where the folder has no picture."""
        self.root = root
        samples: list[Sample] = list(folder.splits(root)[0].samples)
        self._samples = {one.annotation["file"]: one for one in samples}
        self.names = list(self._samples)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._shown: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def size(self, name: str) -> tuple[int, int]:
        """(width, height) of the upright picture. Raises DataError."""
        if name not in self._sizes:
            try:
                self._sizes[name] = upright_size(self._read(name))[0]
            except UnusablePicture as error:
                raise _unusable(name, error) from error
        return self._sizes[name]

    def digest(self, name: str) -> str:
        """SHA-256 of the file. Raises DataError."""
        return disk.digest(self._read(name))

    def image(self, name: str) -> Image.Image:
        """The upright picture. Raises DataError."""
        try:
            image = open_picture(self._read(name))
            check_sides(*image.size)
        except UnusablePicture as error:
            raise _unusable(name, error) from error
        return image

    def shown(self, name: str) -> bytes:
        """A JPEG file of the upright picture for the browser. Raises DataError."""
        with self._lock:
            if name in self._shown:
                return self._shown[name]
        image, file = self.image(name), io.BytesIO()
        image.thumbnail((SHOWN, SHOWN), Image.Resampling.BICUBIC)
        image.save(file, "JPEG", quality=QUALITY, subsampling=0)
        with self._lock:
            self._shown[name] = file.getvalue()
            while len(self._shown) > KEPT:
                self._shown.popitem(last=False)
        return file.getvalue()

    def photograph(self, name: str, box: list[float] | None, margin: float) -> BoxedPhotograph:
        """A picture with its square, for the networks. Raises DataError, ConfigError."""
        image = self.image(name)
        square = square_of(image.size, box, name, margin=margin)
        return BoxedPhotograph(self.root / name, image, square)

    def _read(self, name: str) -> bytes:
        if name not in self._samples:
            raise DataError(f"found no picture {name!r} in {self.root}; reload the page")
        try:
            return read_bytes(self._samples[name].place)
        except UnusablePicture as error:
            raise _unusable(name, error) from error


def _unusable(name: str, error: UnusablePicture) -> DataError:
    return DataError(f"{name}: {error}; leave it out, or give a whole {KINDS} picture")
