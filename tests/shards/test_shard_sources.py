"""Sources: which image goes into which split, with which numbers, and which errors are reported."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from scipy.io import savemat

from scemae.cli import run_command
from scemae.data.storage.shard_set import open_shards
from scemae.errors import ConfigError, DataError
from scemae.shards.listing import unique_keys
from scemae.shards.sources import aflw, celeba, folder, w300
from scemae.shards.splits import Split, read_bytes
from scemae.shards.write import write_split
from tests.support import FACES, needs_faces

PARTITION = [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2]  # of images 000001 to 000012
MAFL_TRAIN, MAFL_TEST = (2, 7, 9), (3, 10)


def run_shards(words: list[str]) -> None:
    """`scemae shards WORDS`."""
    run_command(["shards", *words])


def name(number: int) -> str:
    return f"{number:06d}.jpg"


def picture(seed: int, width: int = 178, height: int = 218) -> bytes:
    pixels = np.random.default_rng(seed).integers(
        0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8
    )
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels.repeat(8, 0).repeat(8, 1)[:height, :width])
    )


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", newline="")


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


def link(path: Path, target: Path | str) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve images in CelebA's layout."""
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    numbers = range(1, 13)
    for number in numbers:
        (root / "img_align_celeba" / name(number)).write_bytes(picture(number))
    rows = [f"{name(i)}   {i}  114  110  113   80  132   73  152  108  151" for i in numbers]
    write(root / "Anno/list_landmarks_align_celeba.txt", "12", "lefteye_x lefteye_y ...", *rows)
    write(root / "Anno/identity_CelebA.txt", *(f"{name(i)} {1000 + i}" for i in numbers))
    write(
        root / "Eval/list_eval_partition.txt", *(f"{name(i)} {PARTITION[i - 1]}" for i in numbers)
    )
    write(root / "MAFL/training.txt", *(name(i) for i in reversed(MAFL_TRAIN)))
    write(root / "MAFL/testing.txt", *(name(i) for i in reversed(MAFL_TEST)))
    return root


def numbers(split: Split) -> list[int]:
    return [int(sample.key) for sample in split.samples]


def by_name(splits: list[Split]) -> dict[str, Split]:
    return {split.name: split for split in splits}


def test_celeba_splits_follow_the_protocol(root):
    splits = by_name(celeba.splits(root))
    assert {key: numbers(split) for key, split in splits.items()} == {
        "train": [1, 4, 5, 6],
        "val": [11, 12],
        "mafl-train": [2, 7, 9],
        "mafl-test": [3, 10],
    }
    assert splits["train"].excluded == {
        "in MAFL's training list": 1,
        "in MAFL's test list": 1,
        "not in partition 0 (train)": 6,
    }
    assert all(len(split.samples) + sum(split.excluded.values()) == 12 for split in splits.values())
    assert splits["train"].options == {"subset": True, "exclude_mafl_train": True}
    assert splits["mafl-test"].options == splits["train"].options | {"official_samples": 1000}


def test_mafl_training_images_can_stay_in_train_but_test_images_never(root):
    assert numbers(by_name(celeba.splits(root, exclude_mafl_train=False))["train"]) == [
        1,
        2,
        4,
        5,
        6,
    ]


def test_val_is_the_first_2000_of_partition_2(root, monkeypatch):
    monkeypatch.setattr(celeba, "VAL_IMAGES", 1)
    val = by_name(celeba.splits(root))["val"]
    assert numbers(val) == [11] and val.excluded["after the first 1"] == 1


def test_celeba_annotations_are_the_raw_numbers(root):
    sample = by_name(celeba.splits(root))["mafl-test"].samples[1]
    assert sample.key == "000010" and sample.annotation == {
        "file": "000010.jpg",
        "landmarks": [[10, 114], [110, 113], [80, 132], [73, 152], [108, 151]],
        "identity": 1010,
    }


def test_celeba_reads_the_same_from_folder_zip_and_tars(root):
    images = root / "img_align_celeba"
    expected = {path.name: path.read_bytes() for path in images.iterdir()}
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(images.iterdir()):
            archive.write(path, f"img_align_celeba/{path.name}")
    for part in (0, 1):
        with tarfile.open(root / f"part{part}.tar", "w") as tar:
            for path in sorted(images.iterdir())[part::2]:
                tar.add(path, f"img_align_celeba/{path.name}")
                tar.add(
                    path, f"img_align_celeba_half/{path.name}"
                )  # another geometry, not to be picked up
    for path in (images, root / "img_align_celeba.zip", None):
        found = celeba.find_images(root)
        assert {image: read_bytes(place) for image, place in found.items()} == expected
        if path:
            path.rename(root / f"away-{path.name}")


def test_celeba_builds_without_landmarks_identities_and_mafl(root):
    (root / "Anno/list_landmarks_align_celeba.txt").unlink()
    splits = celeba.splits(root)
    assert [split.name for split in splits] == ["train", "val"] and numbers(splits[0]) == [
        1,
        4,
        5,
        6,
    ]
    assert splits[0].samples[0].annotation == {"file": "000001.jpg", "identity": 1001}
    (root / "Anno/identity_CelebA.txt").unlink()
    for path in (root / "MAFL").iterdir():
        path.unlink()
    split = celeba.splits(root)[0]
    assert numbers(split) == [1, 2, 3, 4, 5, 6] and len(split.options["notes"]) == 3


def test_full_celeba_must_have_the_official_counts(root, monkeypatch):
    monkeypatch.setattr(celeba, "FULL", 12)
    with pytest.raises(
        DataError, match="found 6 images in partition 0, the full CelebA has 162,770"
    ):
        celeba.splits(root)
    monkeypatch.setattr(celeba, "FULL_TRAIN", 6)
    with pytest.raises(
        DataError, match="found 3 training and 2 test names, MAFL has 19,000 and 1,000"
    ):
        celeba.splits(root)
    monkeypatch.setattr(celeba, "FULL_MAFL", (3, 2))
    assert [split.options["subset"] for split in celeba.splits(root)] == [False] * 4
    monkeypatch.setattr(celeba, "FULL", 13)  # MAFL's counts in another set of images
    assert by_name(celeba.splits(root))["mafl-test"].options["subset"] is True


def test_resize_stores_the_178_frame_and_moves_the_landmarks(root, tmp_path):
    run_shards(
        [
            "build",
            "celeba",
            str(root),
            str(tmp_path / "out"),
            "--resize",
            "89",
            "--workers",
            "1",
            "--split",
            "train",
        ]
    )
    shards = open_shards(str(tmp_path / "out" / "train"))
    source = Image.open(root / "img_align_celeba" / "000004.jpg").crop((0, 30, 178, 208))
    expected = np.asarray(source.resize((89, 89), Image.Resampling.BILINEAR), float)
    assert (
        np.abs(simplejpeg.decode_jpeg(shards.jpeg(1)) - expected).mean() < 4
    )  # JPEG quality 95 of hard blocks
    assert shards.annotation(1)["landmarks"][:2] == [[2, 42], [55, 41.5]]
    assert (
        shards.manifest.options["frame"] == "celeba-178" and shards.manifest.options["size"] == 89
    )


def test_quality_is_for_resized_images_only(root, tmp_path):
    words = [
        "build",
        "celeba",
        str(root),
        str(tmp_path / "out"),
        "--quality",
        "80",
        "--workers",
        "1",
    ]
    with pytest.raises(ConfigError, match="--quality without --resize"):
        run_shards(words)
    run_shards([*words, "--resize", "136", "--split", "val"])
    shards = open_shards(str(tmp_path / "out" / "val"))
    assert (
        shards.manifest.options["encoding"] == "JPEG quality 80, 4:4:4"
        and shards.manifest.options["size"] == 136
    )


def test_images_of_another_size_do_not_fit_the_frame(root, tmp_path):
    (root / "img_align_celeba" / "000004.jpg").write_bytes(picture(4, 89, 109))
    split = celeba.splits(root, resize=136)[0]
    manifest, _ = write_split(split, tmp_path / "out", max_bad_fraction=0.5)
    assert manifest.left_out == [
        {"file": "000004.jpg", "reason": "89x109 pixels, the celeba-178 frame needs 178x218"}
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda root: write(
                root / "Anno/list_landmarks_align_celeba.txt",
                "13",
                "x",
                "000001.jpg 1 2 3 4 5 6 7 8 9 10",
            ),
            "first line says 13, but 1 different images follow",
        ),
        (
            lambda root: write(
                root / "Anno/list_landmarks_align_celeba.txt",
                "1",
                "x",
                "000001.jpg 1 2 3 4 5 6 7 8 9 10",
            ),
            "list_landmarks_align_celeba.txt: does not belong to these images: "
            "11 images are not in it .first 000002.jpg",
        ),
        (
            lambda root: write(
                root / "Anno/list_landmarks_align_celeba.txt", "1", "x", "000001.jpg 1 2 3"
            ),
            "line 3: found 4 columns, needed 11",
        ),
        (
            lambda root: write(
                root / "Anno/list_landmarks_align_celeba.txt",
                "1" * 5000,
                "x",
                "000001.jpg 1 2 3 4 5 6 7 8 9 10",
            ),
            "its first line says 1111",
        ),
        (
            lambda root: write(
                root / "Anno/list_landmarks_align_celeba.txt",
                "1",
                "x",
                "000001.jpg 1 2 3 4 5 6 7 8 9 a",
            ),
            "line 3: found 'a', needed a whole number",
        ),
        (
            lambda root: write(
                root / "Eval/list_eval_partition.txt", *(f"0{i:05d}.png 0" for i in range(12))
            ),
            "list_eval_partition.txt: does not belong to these images: "
            "12 images are not in it .* and 12 names have no image",
        ),
        (
            lambda root: write(root / "Eval/list_eval_partition.txt", "000001.jpg 7"),
            "found partition 7 for 000001.jpg",
        ),
        (
            lambda root: (root / "Eval/list_eval_partition.txt").unlink(),
            "found no Eval/list_eval_partition.txt",
        ),
        (
            lambda root: write(root / "Anno/identity_CelebA.txt", "000001.jpg 1"),
            "identity_CelebA.txt: does not belong",
        ),
        (
            lambda root: (root / "img_align_celeba/000005.jpg").unlink(),
            "1 names have no image .first 000005.jpg",
        ),
        (
            lambda root: (root / "MAFL/testing.txt").unlink(),
            "found only one of training.txt and testing.txt",
        ),
        (
            lambda root: write(root / "MAFL/testing.txt", "000099.jpg"),
            "1 of its names .first 000099.jpg. are not in",
        ),
        (
            lambda root: write(root / "MAFL/testing.txt", "000002.jpg"),
            "are in training.txt and in testing.txt",
        ),
        (
            lambda root: [path.unlink() for path in (root / "img_align_celeba").iterdir()],
            "found no img_align_celeba/NN",
        ),
        (
            lambda root: (root / "Eval/list_eval_partition.txt").write_bytes(b"\xff\xfe\x00"),
            "cannot be read as text",
        ),
        (
            lambda root: append(root / "Eval/list_eval_partition.txt", "000004.jpg 1"),
            "partition.txt: found 000004.jpg twice",
        ),
        (
            lambda root: append(root / "Anno/identity_CelebA.txt", "000004.jpg 7"),
            "identity_CelebA.txt: found 000004.jpg twice",
        ),
        (
            lambda root: append(
                root / "Anno/list_landmarks_align_celeba.txt", "000004.jpg 1 2 3 4 5 6 7 8 9 10"
            ),
            "list_landmarks_align_celeba.txt: found 000004.jpg twice",
        ),
        (
            lambda root: append(root / "MAFL/testing.txt", "000003.jpg"),
            "testing.txt: found 000003.jpg twice",
        ),
        (
            lambda root: append(root / "Anno/identity_CelebA.txt", "000004.jpg " + "9" * 5000),
            "needed a whole number of up to nine",
        ),
        (
            lambda root: link(root / "Eval/list_eval_partition.txt", "/dev/zero"),
            "found no Eval/list_eval_partition.txt",
        ),
        (
            lambda root: link(root / "img_align_celeba/000005.jpg", root / "nowhere"),
            "000005.jpg: cannot be opened",
        ),
    ],
)
def test_celeba_that_does_not_fit_together_is_one_sentence(root, change, words):
    change(root)
    with pytest.raises(DataError, match=words):
        celeba.splits(root)


def test_a_byte_order_mark_before_any_list_changes_nothing(root):
    before = celeba.splits(root)
    lists = [path for path in root.rglob("*.txt")]
    for path in lists:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(lists) == 5 and celeba.splits(root) == [*before]


@pytest.mark.parametrize(
    "splits", [celeba.splits, aflw.splits_m, aflw.splits_r, w300.splits, folder.splits]
)
def test_a_missing_or_empty_folder_is_one_sentence(splits, tmp_path):
    with pytest.raises(DataError, match="no such folder; give the folder"):
        splits(tmp_path / "nowhere")
    with pytest.raises(DataError, match="the folder is empty; give the folder"):
        splits(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="found n|no such file|none of them an image"):
        splits(tmp_path)


def test_broken_containers_and_doubled_names_are_one_sentence(root):
    data = picture(1)
    with tarfile.open(root / "a.tar", "w") as tar:
        for image in ("000001.jpg", "000002.jpg"):
            member = tarfile.TarInfo(f"img_align_celeba/{image}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (root / "img_align_celeba").rename(root / "away")
    (root / "b.tar").write_bytes((root / "a.tar").read_bytes())
    with pytest.raises(DataError, match="b.tar: holds 000001.jpg, and so does .*a.tar"):
        celeba.find_images(root)
    os.truncate(root / "b.tar", 3000)
    (root / "a.tar").unlink()
    with pytest.raises(DataError, match="b.tar: not a whole tar file"):
        celeba.find_images(root)
    (root / "img_align_celeba.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="not a whole zip file"):
        celeba.find_images(root)


def test_folder_takes_other_formats_and_makes_jpegs_of_them(tmp_path):
    (tmp_path / "own" / "b.c").mkdir(parents=True)
    (tmp_path / "own" / "a.JPG").write_bytes(picture(1, 40, 40))
    Image.new("RGBA", (40, 32), (200, 10, 10, 255)).save(tmp_path / "own" / "b.c" / "x y.png")
    Image.new("P", (40, 32)).save(tmp_path / "own" / "b.c" / "x_y.webp")
    (tmp_path / "own" / "readme.txt").write_text("x")
    manifest, _ = write_split(folder.splits(tmp_path / "own")[0], tmp_path / "out")
    shards = open_shards(str(tmp_path / "out"))
    assert [*shards.keys] == ["a", "b_c_x_y", "b_c_x_y-2"] and shards.jpeg(0) == picture(1, 40, 40)
    assert simplejpeg.decode_jpeg(shards.jpeg(1))[0, 0].tolist() == pytest.approx(
        [200, 10, 10], abs=3
    )
    assert shards.annotation(1) == {"file": "b.c/x y.png"} and manifest.options["encoded_anew"] == 2
    assert manifest.excluded == {"not an image by its name": 1}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["AFLW/a.jpg 1 2 3 4 5 6 7 8 9 nan"], "not finite"),
        (
            ["AFLW/a.jpg 1 2 3 4 5 6 7 8 9 10", "AFLW/a.jpg 1 2 3 4 5 6 7 8 9 11"],
            "two annotations of this image that contradict",
        ),
        (["AFLW/../../a.jpg 1 2 3 4 5 6 7 8 9 10"], "lies outside of"),
    ],
)
def test_rows_that_cannot_be_true_are_refused(tmp_path, rows, words):
    write(tmp_path / "MTFL" / "testing.txt", *rows)
    (tmp_path / "MTFL" / "AFLW").mkdir()
    (tmp_path / "MTFL" / "AFLW" / "a.jpg").write_bytes(picture(1, 150, 150))
    with pytest.raises(DataError, match=words):
        aflw.splits_m(tmp_path)


def test_keys_are_unique_and_safe_for_tars():
    keys = unique_keys(
        ["a/b.jpg", "a_b.jpg", "a_b-2.png", "é.jpg", "x" * 300 + ".jpg", "v1.2/3.jpg"]
    )
    assert keys == ["a_b", "a_b-2", "a_b-2-2", "image", "x" * 80, "v1_2_3"]


def mtfl(root: Path, rows: list[str]) -> None:
    (root / "MTFL").mkdir(parents=True)
    (root / "MTFL" / "testing.txt").write_bytes("\r\n".join([*rows, "", ""]).encode())
    for row in rows:
        path = root / "MTFL" / row.split()[0].replace("\\", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(1, 150, 150))


def test_aflw_m_reads_mtfl_text_and_the_training_table(tmp_path):
    mtfl(
        tmp_path,
        [
            " AFLW\\0008-image20752.jpg 1.5 2 3 4 5 10 20 30 40 50 1 1 2 3",
            " net_7876\\a.jpg" + " 1" * 14,
        ],
    )
    crops = tmp_path / "aflw_cropped"
    (crops / "output").mkdir(parents=True)
    (crops / "output" / "7.jpg").write_bytes(picture(7, 150, 150))
    header = "id,image_file,crop_file,set," + ",".join(f"p{i}" for i in range(10))
    write(
        crops / "facedata_cropped.csv",
        header,
        "0,image7.jpg,output/7.jpg,1," + ",".join(map(str, range(1, 11))),
        "1,image8.jpg,output/8.jpg,2," + ",".join("0" * 10),
    )
    splits = by_name(aflw.splits_m(tmp_path))
    test, train = splits["aflw-test"], splits["aflw-train"]
    assert test.samples[0].annotation["landmarks"] == [
        [1.5, 10],
        [2, 20],
        [3, 30],
        [4, 40],
        [5, 50],
    ]
    assert test.samples[0].annotation["file"] == "AFLW/0008-image20752.jpg"
    assert test.excluded == {"in MTFL's test list, not AFLW": 1} and train.excluded == {
        "set is not 1": 1
    }
    assert train.samples[0].annotation["landmarks"] == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    assert test.options["subset"] and write_split(train, tmp_path / "out")[0].samples == 1
    write(
        crops / "facedata_cropped.csv",
        header,
        "0,image20752.jpg,output/7.jpg,1," + ",".join("1" * 10),
    )
    with pytest.raises(
        DataError,
        match="1 of its training photographs .first image20752.jpg. are in MTFL's test list",
    ):
        aflw.splits_m(tmp_path)


def test_aflw_m_that_is_malformed_is_one_sentence(tmp_path):
    mtfl(tmp_path, ["AFLW/a.jpg 1 2 3"])
    with pytest.raises(
        DataError, match="testing.txt, line 1: found 4 columns, needed a name and ten numbers"
    ):
        aflw.splits_m(tmp_path)
    write(tmp_path / "MTFL" / "testing.txt", "AFLW/gone.jpg" + " 1" * 14)
    with pytest.raises(DataError, match="gone.jpg: the data set's list names this image"):
        aflw.splits_m(tmp_path)
    write(tmp_path / "MTFL" / "testing.txt", "AFLW/a.jpg 1 2 3 4 5 6 7 8 9 x")
    with pytest.raises(DataError, match="a coordinate is not a number"):
        aflw.splits_m(tmp_path)
    write(tmp_path / "facedata_cropped.csv", "a,b", "1,2")
    with pytest.raises(DataError, match="needed set, crop_file and five points"):
        aflw.splits_m(tmp_path)


def test_aflw_r_swaps_y_and_x_and_keeps_repeated_images(tmp_path):
    (tmp_path / "output").mkdir()
    for image in ("a.jpg", "b.jpg"):
        (tmp_path / "output" / image).write_bytes(picture(1, 40, 60))
    for part in ("train", "test"):
        write(tmp_path / f"aflw_{part}_images.txt", "a.jpg", "b.jpg", "a.jpg")
        gt = np.arange(30.0).reshape(3, 5, 2)
        savemat(tmp_path / f"aflw_{part}_keypoints.mat", {"gt": gt, "hw": np.array([[60, 40]] * 3)})
    split = by_name(aflw.splits_r(tmp_path))["aflwr-test"]
    assert [sample.key for sample in split.samples] == ["a", "b", "a-2"] and split.options[
        "repeated_images"
    ] == 1
    assert split.samples[1].annotation == {
        "file": "b.jpg",
        "size": [40, 60],
        "landmarks": [[11, 10], [13, 12], [15, 14], [17, 16], [19, 18]],
    }
    write(tmp_path / "aflw_train_images.txt", "a.jpg")
    with pytest.raises(
        DataError, match=r"found gt \(3, 5, 2\) and hw \(3, 2\), aflw_train_images.txt has 1 names"
    ):
        aflw.splits_r(tmp_path)
    (tmp_path / "aflw_train_keypoints.mat").write_bytes(b"no mat file at all" * 20)
    with pytest.raises(DataError, match="aflw_train_keypoints.mat: found no `gt` and `hw`"):
        aflw.splits_r(tmp_path)


@pytest.fixture
def recropped(tmp_path: Path) -> Path:
    """AFLW_R with two test images, the first of them twice in the list, and corrected labels."""
    root = tmp_path / "aflw_r"
    (root / "output").mkdir(parents=True)
    for image in ("a.jpg", "b.jpg"):
        (root / "output" / image).write_bytes(picture(1, 40, 60))
    for part in ("train", "test"):
        write(root / f"aflw_{part}_images.txt", "a.jpg", "b.jpg", "a.jpg")
        savemat(
            root / f"aflw_{part}_keypoints.mat",
            {"gt": np.zeros((3, 5, 2)), "hw": np.array([[60, 40]] * 3)},
        )
    write(
        root / "corrected.csv",
        CORRECTED,
        "b.jpg,10,11.5,12,13,14,15,16,17,18,19",
        "a.jpg,0,1,2,3,4,5,6,7,8,9.25",
    )
    return root


CORRECTED = ",".join(
    [
        "file",
        *(
            f"{point}_{axis}"
            for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
            for axis in "xy"
        ),
    ]
)


def test_corrected_labels_make_a_split_of_the_same_test_images(recropped, tmp_path):
    run_shards(
        [
            "build",
            "aflw_r",
            str(recropped),
            str(tmp_path / "out"),
            "--workers",
            "1",
            "--corrected",
            str(recropped / "corrected.csv"),
        ]
    )
    shards = {
        name: open_shards(str(tmp_path / "out" / name))
        for name in ("aflwr-train", "aflwr-test", "aflwrc-test")
    }
    original, corrected = shards["aflwr-test"], shards["aflwrc-test"]
    assert [*corrected.keys] == [*original.keys] and all(
        corrected.jpeg(i) == original.jpeg(i) for i in range(3)
    )
    assert corrected.annotation(1)["landmarks"] == [
        [10, 11.5],
        [12, 13],
        [14, 15],
        [16, 17],
        [18, 19],
    ]
    assert corrected.annotation(0) == corrected.annotation(2) and corrected.annotation(0)[
        "landmarks"
    ][4] == [8, 9.25]
    assert corrected.manifest.options == original.manifest.options | {"labels": "corrected"}


def test_without_corrected_labels_there_is_no_such_split(recropped, tmp_path):
    assert [split.name for split in aflw.splits_r(recropped)] == ["aflwr-train", "aflwr-test"]
    with pytest.raises(
        DataError, match="--split aflwrc-test: this source gives aflwr-train, aflwr-test"
    ):
        run_shards(
            ["build", "aflw_r", str(recropped), str(tmp_path / "out"), "--split", "aflwrc-test"]
        )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (None, "corrected.csv: no such file"),
        ([], r"found the columns \(none\), needed file,lefteye_x"),
        (["file,x", "a.jpg,1"], "found the columns file,x, needed file,lefteye_x"),
        ([CORRECTED, "a.jpg,0,1,2,3,4,5,6,7,8,9"], "1 test images have no row .first b.jpg."),
        (
            [CORRECTED, "a.jpg,0,1,2,3,4,5,6,7,8,9", "a.jpg,0,1,2,3,4,5,6,7,8,9"],
            "found two rows for a.jpg",
        ),
        (
            [CORRECTED, *(f"{n}.jpg,0,1,2,3,4,5,6,7,8,9" for n in "abc")],
            "1 rows name no test image .first c.jpg.",
        ),
        ([CORRECTED, "a.jpg,0,1,2"], "found 3 numbers for a.jpg"),
        ([CORRECTED, "a.jpg,0,1,2,3,4,5,6,7,8,x"], "no number for a.jpg"),
        ([CORRECTED, "a.jpg,0,1,2,3,4,5,6,7,8,nan"], "needed numbers that are finite"),
    ],
)
def test_corrected_labels_that_do_not_fit_are_one_sentence(tmp_path, lines, words):
    if lines is not None:
        write(tmp_path / "corrected.csv", *lines)
    with pytest.raises(DataError, match=words):
        aflw.read_corrected(tmp_path / "corrected.csv", ["a.jpg", "b.jpg", "a.jpg"])


def pts(path: Path, points: np.ndarray) -> None:
    write(path, "version: 1", "n_points:  68", "{", *(f"{x:.6f} {y:.6f}" for x, y in points), "}")


def three_hundred_w(root: Path) -> np.ndarray:
    """Two images in each of three folders, with boxes as in 300-W: cells of structs of arrays."""
    points = np.random.default_rng(0).uniform(10, 90, (68, 2)).round(6)
    for place, images in (
        ("afw", ("2.jpg", "1.jpg")),
        ("ibug", ("image_1.jpg", "other.jpg")),
        ("lfpw/testset", ("image_0001.png", "image_0002.png")),
    ):
        cells = np.empty((1, len(images)), object)
        for i, image in enumerate(images):
            pts(root / place / f"{Path(image).stem}.pts", points)
            if image.endswith("png"):
                Image.new("RGB", (100, 100), (i, 0, 9)).save(root / place / image)
            else:
                (root / place / image).write_bytes(picture(i, 100, 100))
            cells[0, i] = {"imgName": image, "bb_ground_truth": np.array([[10.5, 11, 90, 89 + i]])}
        (root / "Bounding Boxes").mkdir(exist_ok=True)
        savemat(
            root / "Bounding Boxes" / f"bounding_boxes_{place.replace('/', '_')}.mat",
            {"bounding_boxes": cells},
        )
    return points


def test_300w_takes_official_boxes_in_their_order(tmp_path):
    points = three_hundred_w(tmp_path)
    splits = by_name(w300.splits(tmp_path))
    train, test = splits["w300-train"], splits["w300-test"]
    assert [sample.annotation["file"] for sample in train.samples] == ["afw/2.jpg", "afw/1.jpg"]
    assert train.samples[1].annotation["box"] == [10.5, 11, 90, 90]
    assert train.samples[0].annotation["landmarks"] == points.tolist()
    assert [sample.key for sample in test.samples] == [
        "lfpw_testset_image_0001",
        "lfpw_testset_image_0002",
        "ibug_image_1",
    ]
    assert test.excluded == {'in ibug, name does not begin with "image"': 1}
    assert test.options["absent_folders"] == ["helen/testset"] and test.options["subset"]
    manifest, _ = write_split(test, tmp_path / "out")
    assert manifest.samples == 3 and manifest.options["encoded_anew"] == 2  # LFPW is PNG


def test_300w_without_boxes_takes_the_extent_of_the_landmarks(tmp_path):
    points = three_hundred_w(tmp_path)
    (tmp_path / "Bounding Boxes" / "bounding_boxes_afw.mat").unlink()
    with pytest.raises(
        DataError, match="bounding_boxes_afw.mat: no such file; .*--boxes landmarks"
    ):
        w300.splits(tmp_path)
    sample = w300.splits(tmp_path, boxes="landmarks")[0].samples[0]
    assert sample.annotation["file"] == "afw/1.jpg"
    assert sample.annotation["box"] == [*points.min(0), *points.max(0)]


def test_300w_that_is_malformed_is_one_sentence(tmp_path):
    points = three_hundred_w(tmp_path)
    pts(tmp_path / "afw" / "1.pts", points[:5])
    with pytest.raises(DataError, match="1.pts: found 5 points, needed 68"):
        w300.splits(tmp_path)
    write(tmp_path / "afw" / "1.pts", "version: 1")
    with pytest.raises(DataError, match="not a whole .pts file"):
        w300.splits(tmp_path)
    (tmp_path / "Bounding Boxes" / "bounding_boxes_afw.mat").write_bytes(
        b"nothing of the kind" * 20
    )
    with pytest.raises(DataError, match="not a file of 300-W's bounding boxes"):
        w300.splits(tmp_path)


@needs_faces
def test_real_faces_list_as_celeba_without_the_half_size_images():
    splits = by_name(celeba.splits(FACES))
    assert {key: len(split.samples) for key, split in splits.items()} == {
        "train": 6817,
        "val": 562,
        "mafl-train": 1500,
        "mafl-test": 1000,
    }
    assert not any(
        "half" in sample.place.path for split in splits.values() for sample in split.samples
    )
    assert simplejpeg.decode_jpeg_header(read_bytes(splits["train"].samples[-1].place))[:2] == (
        218,
        178,
    )


@needs_faces
def test_native_mtfl_and_300w_samples_build(tmp_path):
    for tar in ("native_MTFL.tar", "native_300W.tar"):
        with tarfile.open(FACES / tar) as archive:
            archive.extractall(tmp_path, filter="data")
    (test,) = aflw.splits_m(tmp_path)
    assert (
        test.name == "aflw-test"
        and test.excluded["in MTFL's training list (LFW and web images)"] == 88
    )
    assert (
        len(test.samples) == 972
        and test.options["subset"]
        and test.options["official_samples"] == 2995
    )
    (train,) = w300.splits(tmp_path / "300W", boxes="landmarks")
    assert train.options["folders"] == ["afw", "helen/trainset"] and len(train.samples) == 300
    assert sum(sample.annotation["file"].startswith("afw/") for sample in train.samples) == 87
    for split in (test, train):
        manifest, _ = write_split(split, tmp_path / "out" / split.name)
        assert manifest.samples == len(split.samples) > 0 and not manifest.left_out
    annotation = open_shards(str(tmp_path / "out" / "w300-train")).annotation(0)
    assert (
        len(annotation["landmarks"]) == 68
        and len(annotation["box"]) == 4
        and json.dumps(annotation)
    )
