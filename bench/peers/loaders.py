"""Other loaders, each used as its documentation trains with it: same JPEGs, same batches.

A loader is a generator of normalised float32 batches (b, 3, 96, 96). Where a loader leaves decoding
to its user there are three cases: "pil" (Pillow decodes, crops and resizes), "simplejpeg" (it
decodes, Pillow does the rest) and "v2" (simplejpeg, then torchvision.transforms.v2 on uint8).
"""

# isort: off
import scemae.models.torchvision_cpu  # noqa: F401  before torchvision

# isort: on
import io
import random
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from scemae.data.augment import MEAN, STD
from scemae.data.geometry import celeba_box
from scemae.distributed.process_group import keep_freed_memory

DECODERS = ("pil", "simplejpeg", "v2")
FRAME = celeba_box()  # left, top, right, bottom (PROTOCOL 2.4)
SIZE, SCALE, RATIO = 96, (0.2, 1.0), (3 / 4, 4 / 3)


@dataclass
class Images:
    """Where the images lie in each format, and how many an epoch has.

    An epoch is longer than what is measured: the pause between two epochs must not count.
    """

    tars: list[str]
    files: Path  # files/all/KEY.jpg
    mds: Path
    litdata: Path
    epoch: int


@cache
def view(decoder: str) -> Callable[[bytes], Tensor]:
    """JPEG bytes to a float32 image (3, 96, 96), augmented as MAE does (bicubic, antialiased)."""
    crop = {
        "size": SIZE,
        "scale": SCALE,
        "ratio": RATIO,
        "interpolation": InterpolationMode.BICUBIC,
    }
    if decoder == "v2":
        return transforms.Compose(
            [
                tensor_frame,
                v2.RandomResizedCrop(antialias=True, **crop),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD, inplace=True),
            ]
        )
    return transforms.Compose(
        [
            {"pil": by_pil, "simplejpeg": by_simplejpeg}[decoder],
            transforms.RandomResizedCrop(**crop),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD, inplace=True),
        ]
    )


def by_pil(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB").crop(FRAME)


def by_simplejpeg(data: bytes) -> Image.Image:
    return Image.fromarray(simplejpeg.decode_jpeg(data)[FRAME[1] : FRAME[3]])


def tensor_frame(data: bytes) -> Tensor:
    return torch.from_numpy(simplejpeg.decode_jpeg(data)[FRAME[1] : FRAME[3]]).permute(2, 0, 1)


def read(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def webdataset(images: Images, decoder: str, batch: int, workers: int) -> Iterator[Tensor]:
    """webdataset.github.io/webdataset: resampled shards, a shuffle buffer of 1,000, a DataLoader.

    Bytes to `view` instead of .decode("pil"): the same decoding, without the annotation's.
    """
    import webdataset as wds

    dataset = (
        wds.WebDataset(images.tars, resampled=True, shardshuffle=False)  # draws shards at random
        .shuffle(1000)
        .to_tuple("jpg")
        .map_tuple(view(decoder))
    )
    for (found,) in DataLoader(
        dataset, batch_size=batch, num_workers=workers, persistent_workers=True
    ):
        yield found


def torchvision(images: Images, decoder: str, batch: int, workers: int) -> Iterator[Tensor]:
    """torchvision.datasets.ImageFolder as in its documentation: files and a DataLoader."""
    dataset = ImageFolder(str(images.files), transform=view(decoder), loader=read)
    sampler = RandomSampler(dataset, num_samples=images.epoch)
    for found, _ in DataLoader(
        dataset, batch_size=batch, sampler=sampler, num_workers=workers, persistent_workers=True
    ):
        yield found


def streaming(images: Images, decoder: str, batch: int, workers: int) -> Iterator[Tensor]:
    """docs.mosaicml.com/projects/streaming, "Image Data: CIFAR10": a subclass and a DataLoader."""
    from streaming import StreamingDataset

    class Faces(StreamingDataset):
        transform = staticmethod(view(decoder))

        def __getitem__(self, at: int) -> Tensor:
            return self.transform(super().__getitem__(at)["image"])

    dataset = Faces(local=str(images.mds), shuffle=True, batch_size=batch, epoch_size=images.epoch)
    yield from DataLoader(dataset, batch_size=batch, num_workers=workers, persistent_workers=True)


def litdata(images: Images, decoder: str, batch: int, workers: int) -> Iterator[Tensor]:
    """lightning.ai/docs/litdata/features/custom-data-transforms: a subclass, its own loader."""
    from litdata import StreamingDataLoader, StreamingDataset

    class Faces(StreamingDataset):
        transforms = staticmethod(view(decoder))

        def __getitem__(self, index: object) -> Tensor:
            return self.transforms(super().__getitem__(index))

    dataset = Faces(str(images.litdata), shuffle=True)
    yield from StreamingDataLoader(dataset, batch_size=batch, num_workers=workers)


def spdl(images: Images, decoder: str, batch: int, workers: int) -> Iterator[Tensor]:
    """facebookresearch.github.io/spdl, getting_started/execution_models: a Pipeline over files.

    "ffmpeg": SPDL's own decoder in threads; its filters crop, mirror and resize. Otherwise `view`
    runs in processes, as SPDL advises for Python code that holds the GIL; threads were slower.
    """
    from spdl.pipeline import PipelineBuilder

    paths = PipelineBuilder().add_source(shuffled(images))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=settle) as processes:
        if decoder == "ffmpeg":
            stages = paths.pipe(by_ffmpeg, concurrency=workers).aggregate(batch).pipe(from_frames)
        else:
            stages = paths.aggregate(batch).pipe(
                partial(stacked, decoder), executor=processes, concurrency=2 * workers
            )
        pipeline = stages.add_sink(3).build(num_threads=workers)
        with pipeline.auto_stop():
            yield from pipeline


def settle() -> None:
    """A worker's settings, which others inherit."""
    keep_freed_memory()
    torch.set_num_threads(1)


def stacked(decoder: str, paths: list[str]) -> Tensor:
    return torch.stack([view(decoder)(read(path)) for path in paths])


def shuffled(images: Images) -> Iterator[str]:
    """Paths in a random order, epoch after epoch, `images.epoch` of them."""
    paths = sorted(str(path) for path in images.files.rglob("*.jpg"))
    for row in range(images.epoch):
        if row % len(paths) == 0:
            random.shuffle(paths)
        yield paths[row % len(paths)]


def by_ffmpeg(path: str) -> object:
    """A file's frame as FFmpeg decodes, crops, mirrors and resizes it."""
    import spdl.io

    top, left, height, width = transforms.RandomResizedCrop.get_params(
        torch.empty(1, 178, 178), SCALE, RATIO
    )
    mirror = "hflip," if random.random() < 0.5 else ""
    return spdl.io.decode_packets(
        spdl.io.demux_image(path),
        filter_desc=(
            f"crop={width}:{height}:{left}:{FRAME[1] + top},{mirror}"
            f"scale={SIZE}:{SIZE}:flags=bicubic,format=pix_fmts=rgb24"
        ),
    )


def from_frames(frames: list) -> Tensor:
    """FFmpeg's frames to a normalised batch."""
    import spdl.io

    batch = spdl.io.to_torch(spdl.io.convert_frames(frames)).permute(0, 3, 1, 2).float().div_(255)
    return batch.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))


PEERS = {
    "webdataset": webdataset,
    "torchvision": torchvision,
    "mosaicml-streaming": streaming,
    "litdata": litdata,
    "spdl": spdl,
}
MODULES = {"mosaicml-streaming": "streaming"}  # where the import's name is another


def installed() -> list[str]:
    return [name for name in PEERS if find_spec(MODULES.get(name, name))]


def prepare(shards: Path, folder: Path, epoch: int) -> Images:
    """Write the images of `shards` into `folder` in each format whose loader is installed."""
    images = Images(
        sorted(map(str, shards.glob("*.tar"))),
        folder / "files",
        folder / "mds",
        folder / "litdata",
        epoch,
    )
    (images.files / "all").mkdir(parents=True)
    for tar in images.tars:
        with tarfile.open(tar) as members:
            for member in members:
                if member.name.endswith(".jpg"):
                    (images.files / "all" / member.name).write_bytes(
                        members.extractfile(member).read()
                    )
    paths = sorted(map(str, images.files.rglob("*.jpg")))
    if "mosaicml-streaming" in installed():
        write_mds(paths, images.mds)
    if "litdata" in installed():
        write_litdata(paths * -(-epoch // len(paths)), images.litdata)
    return images


def write_mds(paths: list[str], folder: Path) -> None:
    """The files as they are: "bytes", since "jpeg" would decode by Pillow alone."""
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"image": "bytes"}) as out:
        for path in paths:
            out.write({"image": read(path)})


def write_litdata(paths: list[str], folder: Path) -> None:
    """The files as they are. Its loader cannot repeat a set: `paths` must hold a whole epoch.

    Forks, since it would set "spawn" for the whole program.
    """
    from litdata import optimize

    optimize(
        fn=read,
        inputs=paths,
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        start_method="fork",
        verbose=False,
    )
