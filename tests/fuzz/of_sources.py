"""Raw data sets of others: lists, tables, .pts, .mat, pictures, and tars and zips of pictures."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.io import savemat

from scemae.data.picture import UnusablePicture
from scemae.shards import archive
from scemae.shards.sources import aflw, celeba, w300
from scemae.shards.sources import folder as any_folder
from scemae.shards.splits import read_bytes
from scemae.shards.write import write_split
from tests.fuzz.containers import mutate_mat, mutate_picture, mutate_tar, mutate_zip
from tests.fuzz.lines import mutate_lines
from tests.fuzz.target import Target
from tests.support import picture

NAMES = [f"{number:06d}.jpg" for number in range(1, 7)]
HEADER = "id,image_file,crop_file,set," + ",".join(f"p{i}" for i in range(10))


def jpeg(seed: int, size: tuple[int, int] = (178, 218)) -> bytes:
    """A picture."""
    out = io.BytesIO()
    picture(seed, size).save(out, "JPEG")
    return out.getvalue()


def png(seed: int) -> bytes:
    """A picture of 60 x 40."""
    out = io.BytesIO()
    picture(seed, (60, 40)).save(out, "PNG")
    return out.getvalue()


def write(path: Path, *lines: str) -> None:
    """A text of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def make_celeba(root: Path) -> None:
    """Six images in CelebA's layout, with all its lists."""
    (root / "img_align_celeba").mkdir()
    for number, name in enumerate(NAMES):
        (root / "img_align_celeba" / name).write_bytes(jpeg(number))
    make_lists(root)


def make_lists(root: Path) -> None:
    """CelebA's lists of six images, and MAFL's."""
    write(
        root / "Anno/list_landmarks_align_celeba.txt",
        "6",
        "lefteye_x lefteye_y ...",
        *(f"{name}  69  109  106  113   77  142   73  152  108  154" for name in NAMES),
    )
    write(
        root / "Anno/identity_CelebA.txt", *(f"{name} {i + 1000}" for i, name in enumerate(NAMES))
    )
    write(
        root / "Eval/list_eval_partition.txt",
        *(f"{name} {(0, 0, 0, 1, 2, 2)[i]}" for i, name in enumerate(NAMES)),
    )
    write(root / "MAFL/training.txt", NAMES[1])
    write(root / "MAFL/testing.txt", NAMES[2], NAMES[4])


def make_tar(root: Path) -> None:
    """The same, images in a tar of its own format and one of pax."""
    make_lists(root)
    for name, form, chosen in (
        ("a.tar", tarfile.USTAR_FORMAT, NAMES[:3]),
        ("b.tar", tarfile.PAX_FORMAT, NAMES[3:]),
    ):
        with tarfile.open(root / name, "w", format=form) as tar:
            for number, image in enumerate(chosen):
                data = jpeg(number)
                member = tarfile.TarInfo(f"img_align_celeba/{image}")
                member.size, member.pax_headers = len(data), {"comment": "x" * 9}
                tar.addfile(member, io.BytesIO(data))


def make_zip(root: Path) -> None:
    """The same, images in a zip."""
    make_lists(root)
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
        for number, name in enumerate(NAMES):
            archive.writestr(f"img_align_celeba/{name}", jpeg(number), zipfile.ZIP_DEFLATED)


def make_aflw_m(root: Path) -> None:
    """Two test images of MTFL's, two training crops."""
    for name in (
        "MTFL/AFLW/0008-image1.jpg",
        "MTFL/AFLW/0009-image2.jpg",
        "crops/output/7.jpg",
        "crops/output/8.jpg",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(1, (150, 150)))
    write(
        root / "MTFL/testing.txt",
        *(
            f" AFLW\\{name} 30.5 110 75 40 101 41.5 42 70 100 99 1 1 2 3"
            for name in ("0008-image1.jpg", "0009-image2.jpg")
        ),
    )
    write(root / "MTFL/training.txt", " lfw_5590\\a.jpg" + " 50" * 10 + " 1 2 2 3")
    write(
        root / "crops/facedata_cropped.csv",
        HEADER,
        *(f"{i},image{i}.jpg,output/{i}.jpg,1," + ",".join(["40.5"] * 10) for i in (7, 8)),
    )


def make_aflw_r(root: Path) -> None:
    """Two images in lmdis-rep's layout, with corrected labels."""
    (root / "output").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (root / "output" / name).write_bytes(jpeg(1, (60, 60)))
    for part in ("train", "test"):
        write(root / f"aflw_{part}_images.txt", "a.jpg", "b.jpg", "a.jpg")
        savemat(
            root / f"aflw_{part}_keypoints.mat",
            {"gt": np.full((3, 5, 2), 30.0), "hw": np.array([[60, 60]] * 3)},
        )
    write(
        root / "corrected.csv",
        ",".join(aflw.CORRECTED),
        "b.jpg" + ",30.5" * 10,
        "a.jpg" + ",20.5" * 10,
    )


def make_w300(root: Path) -> None:
    """Two images of 300-W's AFW, with boxes."""
    cells = np.empty((1, 2), object)
    for i, name in enumerate(("1", "2")):
        write(
            root / f"afw/{name}.pts",
            "version: 1",
            "n_points: 68",
            "{",
            *(f"{30 + k % 40:.6f} {40 + k % 30:.6f}" for k in range(68)),
            "}",
        )
        (root / f"afw/{name}.jpg").write_bytes(jpeg(i, (100, 100)))
        cells[0, i] = {"imgName": f"{name}.jpg", "bb_ground_truth": np.array([[10.5, 11, 90, 89]])}
    (root / "Bounding Boxes").mkdir()
    savemat(root / "Bounding Boxes/bounding_boxes_afw.mat", {"bounding_boxes": cells})


def make_pictures(root: Path) -> None:
    """A JPEG, a PNG, and one that is never changed, so that the build always has an image."""
    for name, data in (
        ("a.jpg", jpeg(1, (90, 70))),
        ("b.png", png(2)),
        ("c.jpg", jpeg(3, (90, 70))),
    ):
        (root / name).write_bytes(data)


def read_all(splits: Callable[[Path], list]) -> Callable[[Path], None]:
    """List a source, and read each of its images."""

    def enter(root: Path) -> None:
        with fresh():
            for split in splits(root):
                for sample in split.samples:
                    try:
                        read_bytes(sample.place)
                    except UnusablePicture:  # it is left out, and counted
                        pass

    return enter


def build(splits: Callable[[Path], list]) -> Callable[[Path], None]:
    """`scemae shards build`, with one worker."""

    def enter(root: Path) -> None:
        with fresh():
            for split in splits(root):
                write_split(split, root.parent / "out" / split.name, max_bad_fraction=0.9)

    return enter


@contextmanager
def fresh() -> Iterator[None]:
    """Forget zips that an earlier input opened under the same name."""
    archive._open_zip.cache_clear()
    yield


def corrected(root: Path) -> list:
    """AFLW_R with corrected labels."""
    return aflw.splits_r(root, corrected=root / "corrected.csv")


CELEBA_LISTS = {
    name: mutate_lines
    for name in (
        "Anno/list_landmarks_align_celeba.txt",
        "Anno/identity_CelebA.txt",
        "Eval/list_eval_partition.txt",
        "MAFL/training.txt",
        "MAFL/testing.txt",
    )
}
MATS = {f"aflw_{part}_keypoints.mat": mutate_mat for part in ("train", "test")}
TARGETS = (
    Target("celeba-lists", make_celeba, CELEBA_LISTS, (celeba.splits,), 10_000),
    Target(
        "celeba-tar",
        make_tar,
        {"a.tar": mutate_tar, "b.tar": mutate_tar},
        (read_all(celeba.splits),),
        5_000,
    ),
    Target(
        "celeba-zip",
        make_zip,
        {"img_align_celeba.zip": mutate_zip},
        (read_all(celeba.splits), build(celeba.splits)),
        600,
    ),
    Target(
        "aflw-lists",
        make_aflw_m,
        {
            name: mutate_lines
            for name in ("MTFL/testing.txt", "MTFL/training.txt", "crops/facedata_cropped.csv")
        },
        (aflw.splits_m,),
        12_000,
    ),
    Target(
        "aflw-csv",
        make_aflw_r,
        {name: mutate_lines for name in ("corrected.csv",)},
        (lambda root: aflw.read_corrected(root / "corrected.csv", ["a.jpg", "b.jpg", "a.jpg"]),),
        12_000,
    ),
    Target(
        "aflw-mat", make_aflw_r, {"aflw_test_images.txt": mutate_lines, **MATS}, (corrected,), 60
    ),
    Target(
        "w300-mat",
        make_w300,
        {"Bounding Boxes/bounding_boxes_afw.mat": mutate_mat},
        (w300.splits,),
        60,
    ),
    Target(
        "pts",
        make_w300,
        {"afw/1.pts": mutate_lines},
        (lambda root: w300.splits(root, boxes="landmarks"),),
        12_000,
    ),
    Target(
        "pictures",
        make_pictures,
        {"a.jpg": mutate_picture, "b.png": mutate_picture},
        (build(any_folder.splits),),
        500,
    ),
)
