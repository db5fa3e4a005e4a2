"""Pictures from outside: what each kind becomes, which are refused, in every command alike."""

import io
import re

import numpy as np
import pytest
import simplejpeg
from PIL import EpsImagePlugin, Image

from scemae.data import picture
from scemae.data.decode import decode
from scemae.data.picture import UnusablePicture, check_jpeg, open_picture, read_picture, to_rgb
from scemae.errors import DataError
from scemae.shards.image import to_jpeg
from tests.support import REPO
from tests.support import picture as drawn

WHITE, INK = (255, 255, 255), (10, 20, 30)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(mode: str, colour, side: int = 40) -> Image.Image:
    return Image.new(mode, (side, side), colour)


def deep(value: int) -> Image.Image:
    return Image.fromarray(np.full((40, 40), value, np.uint16))


def palette(index: int) -> Image.Image:
    image = Image.new("P", (40, 40), index)
    image.putpalette([*INK, 200, 0, 0])
    return image


def declaring(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    at, found = data.index(b"\xff\xc0") + 5, bytearray(data)
    found[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(found)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


KINDS = {
    "rgb png": (saved(plain("RGB", INK), "PNG"), INK),
    "hidden red under alpha 0": (saved(plain("RGBA", (255, 0, 0, 0)), "PNG"), WHITE),
    "half transparent black": (saved(plain("RGBA", (0, 0, 0, 128)), "PNG"), (127,) * 3),
    "hidden grey under alpha 0": (saved(plain("LA", (9, 0)), "PNG"), WHITE),
    "palette": (saved(palette(0), "PNG"), INK),
    "palette, the transparent colour": (saved(palette(1), "PNG", transparency=1), WHITE),
    "gif, the transparent colour": (saved(palette(1), "GIF", transparency=1), WHITE),
    "animated gif": (saved(palette(0), "GIF", save_all=True, append_images=[palette(1)]), INK),
    "16-bit grey": (saved(deep(153 * 257), "PNG"), (153,) * 3),
    "16-bit grey, the transparent value": (saved(deep(9), "PNG", transparency=9), WHITE),
    "16-bit grey tiff": (saved(deep(65535), "TIFF"), WHITE),
    "one bit": (saved(plain("1", 1), "PNG"), WHITE),
    "grey jpeg": (saved(plain("L", 77), "JPEG"), (77,) * 3),
    "cmyk jpeg of Adobe's": (
        saved(plain("CMYK", (255, 0, 0, 0)), "JPEG", quality=100),
        (0, 255, 255),
    ),
    "cmyk tiff": (saved(plain("CMYK", (255, 0, 0, 0)), "TIFF"), (0, 255, 255)),
    "webp with alpha": (
        saved(plain("RGBA", (255, 0, 0, 0)), "WEBP", lossless=True, exact=True),
        WHITE,
    ),
    "animated webp": (
        saved(
            plain("RGB", INK),
            "WEBP",
            lossless=True,
            save_all=True,
            append_images=[plain("RGB", WHITE)],
        ),
        INK,
    ),
    "bmp": (saved(plain("RGB", INK), "BMP"), INK),
    "ppm": (saved(plain("RGB", INK), "PPM"), INK),
    "two pictures in one jpeg": (
        saved(plain("L", 200), "MPO", save_all=True, append_images=[plain("L", 0)]),
        (200,) * 3,
    ),
}
TRUTH = drawn(3, (60, 40))
PNG, JPEG = saved(TRUTH, "PNG"), saved(TRUTH, "JPEG")
REFUSED = {
    "empty file": b"",
    "not an image that can be read": b"<html>not found</html>",
    "is damaged .image file is truncated": half(JPEG),
    "is damaged": half(PNG),
    "floating-point": saved(Image.fromarray(np.zeros((40, 40), np.float32)), "TIFF"),
    "32-bit numbers": saved(Image.fromarray(np.full((40, 40), 70_000, np.int32)), "TIFF"),
    "found 20000x9000 pixels, more than 100 million|more than 100 million": saved(
        Image.new("1", (20_000, 9_000)), "PNG"
    ),
    "found 65500x1600 pixels, more than 100 million": declaring(JPEG, 65_500, 1_600),
    "found more than 100 million": declaring(JPEG, 65_500, 65_500),
    "does not decode wholly|is damaged|not an image": b"\xff\xd8 nothing",
    "a JPEG of 5000 scans": JPEG + b"\xff\xda" * 4_999,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_any_kind_becomes_the_rgb_that_it_shows(kind):
    data, expected = KINDS[kind]
    found = np.asarray(open_picture(data)).astype(int)
    assert found.shape == (40, 40, 3) and abs(found - expected).max() <= 1
    stored = simplejpeg.decode_jpeg(
        to_jpeg(data, None, accept_other_formats=True, upright=True).jpeg
    ).astype(int)
    assert abs(stored - expected).max() <= 3  # in shards the same, but for what JPEG itself loses


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "HSV", "PA"]
)
def test_an_image_of_any_mode_becomes_rgb(mode):
    grey, deep = (
        Image.new("RGB", (40, 40), (153,) * 3),
        {"I;16": np.uint16, "I": np.int32}.get(mode),
    )  # 153: in P's palette
    image = (
        Image.fromarray(np.full((40, 40), 153 * 257, deep))
        if deep
        else grey.convert(mode[:1] if mode == "PA" else mode)
    )
    found = np.asarray(to_rgb(image.convert("PA") if mode == "PA" else image)).astype(int)
    assert found.shape == (40, 40, 3) and (mode == "1" or abs(found - 153).max() <= 2)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: np.rot90(np.fliplr(a))),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(np.fliplr(a), -1)),
        (8, np.rot90),
    ],
)
def test_exif_turns_the_picture_upright_once(kind, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(
        TRUTH,
        kind,
        exif=exif,
        **(
            {"lossless": True}
            if kind == "WEBP"
            else {"quality": 98, "subsampling": 0}
            if kind == "JPEG"
            else {}
        ),
    )
    shown, stored = open_picture(data), to_jpeg(data, None, accept_other_formats=True, upright=True)
    expected = turn(np.asarray(TRUTH)).astype(int)
    assert abs(np.asarray(shown) - expected).mean() < 2
    assert (
        shown.size == stored.size and abs(simplejpeg.decode_jpeg(stored.jpeg) - expected).mean() < 4
    )
    assert stored.anew == (kind != "JPEG" or orientation != 1)


def test_damaged_exif_turns_nothing_and_refuses_nothing():
    data = saved(TRUTH, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert (
        open_picture(data).size == TRUTH.size
        and to_jpeg(data, None, accept_other_formats=True, upright=True).jpeg == data
    )


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_no_picture_is_refused_with_a_reason_before_it_is_decoded(words, tmp_path):
    (tmp_path / "a").write_bytes(REFUSED[words])
    for call in (lambda: open_picture(REFUSED[words]), lambda: read_picture(tmp_path / "a")):
        with pytest.raises((UnusablePicture, DataError), match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(UnusablePicture):
        to_jpeg(REFUSED[words], None, accept_other_formats=True)


def test_training_reads_the_header_before_it_decodes():
    for data in (declaring(JPEG, 65_500, 65_500), JPEG + b"\xff\xda" * 200, saved(TRUTH, "EPS")):
        for read in (check_jpeg, lambda data: decode(data, 32)):
            with pytest.raises(UnusablePicture):
                read(data)
    assert decode(JPEG, 32).shape == (32, 32, 3) and check_jpeg(JPEG) == TRUTH.size
    assert decode(PNG, 32).shape == (32, 32, 3)  # of tars that other programs wrote
    with pytest.raises(UnusablePicture):
        check_jpeg(PNG)


def test_eps_never_reaches_ghostscript(monkeypatch, tmp_path):
    data = saved(TRUTH, "EPS")
    monkeypatch.setattr(
        EpsImagePlugin,
        "Ghostscript",
        lambda *words, **options: pytest.fail("ghostscript was started"),
    )
    with pytest.raises(UnusablePicture, match="not an image"):
        to_jpeg(data, None, accept_other_formats=True)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(DataError, match="not an image that can be read"):
        read_picture(tmp_path / "a.jpg")


def test_small_pictures_are_refused_with_their_size():
    with pytest.raises(UnusablePicture, match="found 300x20 pixels, at least 32 each way"):
        to_jpeg(saved(drawn(1, (300, 20)), "JPEG"), None, accept_other_formats=False)


def test_ordinary_pictures_keep_the_bytes_they_had_in_earlier_shards():
    jpeg = saved(drawn(1), "JPEG")
    assert to_jpeg(jpeg, None, accept_other_formats=True, upright=True).jpeg == jpeg
    for kind in ("PNG", "WEBP"):
        data = saved(drawn(1), kind)
        before = simplejpeg.encode_jpeg(
            np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), 95, colorsubsampling="444"
        )
        assert to_jpeg(data, None, accept_other_formats=True, upright=True).jpeg == before


def test_pictures_are_opened_by_picture_py_alone():
    for folder in ("scemae", "shards", "cluster", "bench"):
        for path in (REPO / folder).rglob("*.py"):
            for call in re.findall(r"Image\.open\((?:[^()]|\([^)]*\))*\)", path.read_text()):
                assert path == REPO / "scemae/data/picture.py" or folder == "bench", path
                assert "formats=" in call, path
    assert not {"EPS", "PDF", "WMF"} & set(picture.FORMATS)
