"""Photographs of others, as `scemae match` and `detect` open them."""

from pathlib import Path

from PIL import Image

from scemae.evaluation.photographs.photograph_features import open_photograph
from tests.fuzz.containers import mutate_picture
from tests.fuzz.of_sources import jpeg, png
from tests.fuzz.target import Target


def make(folder: Path) -> None:
    """A JPEG turned by its EXIF, a PNG, a grey PNG of 16 bits and a TIFF."""
    (folder / "a.jpg").write_bytes(jpeg(1, (80, 60)))
    (folder / "b.png").write_bytes(png(2))
    exif = Image.Exif()
    exif[274] = 6
    with Image.open(folder / "a.jpg") as image:
        image.save(folder / "c.jpg", exif=exif)
        image.convert("I;16").save(folder / "d.png")
        image.save(folder / "e.tif", compression="tiff_lzw")


def open_all(folder: Path) -> None:
    """The one that was changed is among them; the others are small."""
    for name in ("a.jpg", "b.png", "c.jpg", "d.png", "e.tif"):
        open_photograph(folder / name, None)


TARGETS = (
    Target(
        "photographs",
        make,
        {name: mutate_picture for name in ("a.jpg", "b.png", "c.jpg", "d.png", "e.tif")},
        (open_all,),
        2_000,
    ),
)
