"""Archives and .mat files from outside: no size in them is trusted, and reading is limited."""

import io
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from scemae.data.picture import UnusablePicture
from scemae.errors import DataError
from scemae.shards.archive import Member, read_zip_member, tar_members, zip_members
from scemae.shards.sources import aflw, celeba, w300
from scemae.shards.splits import ImagePlace, read_bytes

NAME = "img_align_celeba/000001.jpg"


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """One block of a tar, with a right checksum."""
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157], block[257:265] = (
        name.encode(),
        size,
        kind,
        b"ustar\x0000",
    )
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: bytes) -> bytes:
    body = b"".join(
        b"%d %s\n" % (len(record) + 4, record) for record in records
    )  # two digits, a space, a new line
    return header("x", b"%011o" % len(body), b"x") + padded(body)


FIRST = header("a", b"%011o" % 3) + padded(b"abc")
TARS = {
    "a negative size in binary": FIRST + header(NAME, b"\xff" * 10 + b"\xfe\0"),
    "a negative size in a pax header": FIRST
    + pax(b"size=-1536")
    + header(NAME, b"3")
    + padded(b"abc"),
    "a size of 2^62": FIRST + header(NAME, b"\x80" + bytes(3) + struct.pack(">Q", 2**62)),
    "a pax header of a size of 2^62": FIRST
    + pax(b"size=4611686018427387904")
    + header(NAME, b"3")
    + padded(b"abc"),
    "a wrong checksum": FIRST + header(NAME, b"3").replace(b"ustar", b"usta!") + padded(b"abc"),
    "a pax record of no length": FIRST + header("x", b"11", b"x") + padded(b"0 size=3\n"),
    "a pax header without an end": FIRST + header("x", b"20", b"x") + padded(b"9" * 16),
    "a sparse member": FIRST + header(NAME, b"3", b"S") + padded(b"abc"),
    "half a header": FIRST + header(NAME, b"3")[:300],
    "less than it says": FIRST + header(NAME, b"%011o" % 5000) + padded(b"abc"),
}


@pytest.mark.parametrize("kind", TARS)
def test_a_tar_that_contradicts_itself_is_refused_at_once(kind, tmp_path):
    (tmp_path / "a.tar").write_bytes(TARS[kind] + bytes(1024))
    if kind == "half a header":
        (tmp_path / "a.tar").write_bytes(TARS[kind])
    start = time.monotonic()
    with pytest.raises(DataError, match="a.tar: not a whole tar file .*; copy it again"):
        celeba.find_images(tmp_path)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_our_own_walk_finds_what_tarfile_finds(form, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for number, name in enumerate(
            ["a.jpg", "d/" * 45 + "b.jpg", "ü" * 30 + "/c.jpg", "n" * 99, "e" * 100]
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = 511 + number, 0.5 * number
            tar.addfile(member, io.BytesIO(bytes(member.size)))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("other")
            member.type, member.linkname = kind, "a.jpg"
            tar.addfile(member)
        if form != tarfile.USTAR_FORMAT:
            member = tarfile.TarInfo("long/" * 60 + "d.jpg")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"1"))
    with tarfile.open(tmp_path / "a.tar") as tar:
        expected = [
            Member(member.name, member.size, member.offset_data) for member in tar if member.isreg()
        ]
    assert tar_members(tmp_path / "a.tar") == expected and len(expected) >= 5


def test_a_folder_that_is_called_a_tar_is_one_sentence(tmp_path):
    (tmp_path / "x.tar").mkdir()
    with pytest.raises(DataError, match="x.tar: a folder, where a tar was needed; rename it"):
        celeba.find_images(tmp_path)


def test_a_zip_with_a_name_twice_is_refused(tmp_path):
    path = tmp_path / "img_align_celeba.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(NAME, b"first")
        archive.writestr("elsewhere/" + NAME, b"second")
    with pytest.raises(DataError, match="img_align_celeba.zip: holds 000001.jpg twice"):
        celeba.find_images(tmp_path)
    path.write_bytes(
        path.read_bytes().replace(b"elsewhere/" + NAME.encode(), b"otherwise/" + b"z" * len(NAME))
    )
    assert celeba.find_images(tmp_path).keys() == {"000001.jpg"}


def test_a_small_zip_that_expands_is_refused_before_it_does(tmp_path, monkeypatch):
    path = tmp_path / "img_align_celeba.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(NAME, bytes(16 * 2**20))
    (place,) = celeba.find_images(tmp_path).values()
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *words: pytest.fail("it was opened"))
    with pytest.raises(
        UnusablePicture, match="expands from 16,3.. bytes to 16,777,216, which no picture does"
    ):
        read_bytes(place)
    with pytest.raises(UnusablePicture, match="4,294,967,295 bytes, which no picture has"):
        read_bytes(ImagePlace(str(path), 2**32 - 1, NAME))


def test_a_damaged_or_locked_zip_is_one_sentence(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(NAME, b"abcdefgh")
    whole = path.read_bytes()
    at = whole.index(b"PK\1\2")
    for number, (data, call) in enumerate(
        [
            (whole.replace(b"abcd", b"abxd"), lambda path: read_zip_member(str(path), NAME)),
            (whole[:-9], zip_members),
            (b"no zip", zip_members),
            (
                whole[: at + 8] + b"\1" + whole[at + 9 :],
                lambda path: read_zip_member(str(path), NAME),
            ),  # says it is encrypted
            (
                whole[: at + 10] + b"\x63" + whole[at + 11 :],
                lambda path: read_zip_member(str(path), NAME),
            ),
        ]
    ):  # compressed somehow
        here = tmp_path / f"{number}.zip"
        here.write_bytes(data)
        with pytest.raises(DataError, match=f"{number}.zip"):
            call(here)


def keypoints(root: Path, **arrays) -> bytes:
    """AFLW_R with one list, and its .mat file."""
    (root / "aflw_train_images.txt").write_text("a.jpg\n")
    (root / "output").mkdir(exist_ok=True)
    (root / "output" / "a.jpg").write_bytes(b"-")
    path = root / "aflw_train_keypoints.mat"
    savemat(path, {"gt": np.zeros((1, 5, 2)), "hw": np.array([[60, 40]])} | arrays)
    return path.read_bytes()


def test_a_mat_file_that_crashes_scipy_is_one_sentence(tmp_path):
    data = bytearray(keypoints(tmp_path))
    data[data.index(b"gt") + 5] = (
        0x7F  # a type of numbers that is in no table: scipy reads beyond the end of one
    )
    (tmp_path / "aflw_train_keypoints.mat").write_bytes(data)
    with pytest.raises(
        DataError,
        # whether scipy crashes here, or which error it raises, depends on the memory that it reads
        match=r"keypoints.mat: found no `gt` and `hw` \(.+\); copy it again",
    ):
        aflw.splits_r(tmp_path)


def test_a_matlab_7_3_file_is_one_sentence(tmp_path):
    keypoints(tmp_path)
    (tmp_path / "Bounding Boxes").mkdir()
    for name in ("aflw_train_keypoints.mat", "Bounding Boxes/bounding_boxes_afw.mat"):
        (tmp_path / name).write_bytes(
            b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n"
        )
    for call in (
        lambda: aflw.splits_r(tmp_path),
        lambda: w300.read_boxes(tmp_path / "Bounding Boxes/bounding_boxes_afw.mat"),
    ):
        with pytest.raises(
            DataError,
            match=r"\.mat: is a MATLAB 7.3 file .HDF5., .*save it again with save\(..., '-v7'\)",
        ):
            call()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"gt": np.full((1, 5, 2), np.nan)}, "not finite"),
        ({"gt": np.zeros((1, 5, 2), object)}, "found no `gt`|not fini|does not"),
        ({"hw": np.array(["60 40"])}, "found no `gt` and `hw`"),
    ],
)
def test_a_mat_file_with_other_things_in_it_is_one_sentence(tmp_path, arrays, words):
    keypoints(tmp_path, **arrays)
    with pytest.raises(DataError, match=words):
        aflw.splits_r(tmp_path)


def test_a_zip_may_hold_a_file_without_a_name(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(NAME, b"-")
    data, at = bytearray(path.read_bytes()), path.read_bytes().index(b"PK\1\2")
    data[at + 28], data[at + 32] = 0, len(NAME)  # its name is its comment
    path.write_bytes(data)
    assert zip_members(path) == [Member("", 1)]


def test_a_zip_that_was_replaced_is_opened_again(tmp_path):
    path = tmp_path / "img_align_celeba.zip"
    for content in (b"first", b"second"):
        with zipfile.ZipFile(tmp_path / "new", "w") as archive:
            archive.writestr(NAME, content)
        (tmp_path / "new").replace(path)
        (place,) = celeba.find_images(tmp_path).values()
        assert read_bytes(place) == content
