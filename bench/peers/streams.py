"""Loaders of others that stream from an object store, each as its documentation trains with it.

    PYTHON -m bench.peers.streams versions
    PYTHON -m bench.peers.streams write FORMAT JPEGS FOLDER
    PYTHON -m bench.peers.streams read JOB            a Job as JSON

`bench streams` starts it with a Python that has the peers and need not have what scemae needs: so
nothing of scemae is imported here but what makes torchvision importable. `read` prints one line for
each event, with its time.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MARK = "@event "
BUFFER = 5000  # images of webdataset's shuffle buffer; its default for the first image is 100
PEERS = ("mosaicml-streaming", "litdata", "webdataset")
OTHERS = ("torch", "simplejpeg", "boto3", "obstore")
KEYS = {"access": "someone", "secret": "something"}  # the store looks at none


@dataclass
class Job:
    """What a loader reads, and how."""

    loader: str
    url: str  # of the store, which has the buckets tars, gzips, mds and litdata
    cache: str  # a folder, empty
    limit: int  # bytes of it that may be used
    samples: int
    of_shard: int
    images: int  # to read after the first batch
    batch: int = 256
    workers: int = 2
    first: int = 0  # the images of the epoch before this one were read before
    decoded: bool = True
    together: int = 0  # samples that are shuffled together, where a loader can be told
    epochs: int = 1
    gzip: bool = False  # the tars are compressed
    full: bool = False  # webdataset's buffer is filled before the first image leaves it

    @property
    def tars(self) -> str:
        """The name of the bucket that holds the tars."""
        return "gzips" if self.gzip else "tars"


def say(event: str, **values: Any) -> None:
    """Report an event."""
    print(MARK + json.dumps({"event": event, "time": time.time(), **values}), flush=True)


def read(job: Job, batches: Iterator[Any]) -> None:
    """Read as much as the job asks for; report the first batch and the end."""
    found = next(batches)
    say("first", shape=list(found.shape))
    count = 0
    for found in batches:
        count += len(found)
        if count >= job.images:
            break
    say("last", images=count)


def tensor(decoded: bool) -> Callable[[bytes], Any]:
    """From JPEG bytes to a uint8 tensor (3, h, w), or to one of a single pixel."""
    import simplejpeg
    import torch

    if decoded:
        return lambda data: torch.from_numpy(simplejpeg.decode_jpeg(data)).permute(2, 0, 1)
    return lambda data: torch.full((3, 1, 1), data[0], dtype=torch.uint8)


def load(loader: str) -> None:
    """Import a peer, and torch."""
    if loader == "mosaicml-streaming":
        import_module("scemae.models.torchvision_cpu")  # it imports torchvision
        import_module("streaming")
    else:
        import_module("torch.utils.data")
        import_module(loader)


def mosaicml_streaming(job: Job) -> Iterator[Any]:
    """A subclass and its own StreamingDataLoader; py1e, its default shuffle, with shuffle=True."""
    from streaming import StreamingDataLoader, StreamingDataset

    class Images(StreamingDataset):
        view = staticmethod(tensor(job.decoded))

        def __getitem__(self, at: int) -> Any:
            return self.view(super().__getitem__(at)["image"])

    dataset = Images(
        remote="s3://mds",
        local=job.cache,
        cache_limit=job.limit,
        shuffle=True,
        shuffle_block_size=job.together or None,
        batch_size=job.batch,
    )
    loader = StreamingDataLoader(dataset, batch_size=job.batch, num_workers=job.workers)
    if job.first:
        loader.load_state_dict(dataset.state_dict(job.first, True) | {"epoch": 0})
    for _ in range(job.epochs):
        yield from loader


def litdata(job: Job) -> Iterator[Any]:
    """A subclass and its own StreamingDataLoader, with shuffle=True."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    # obstore, its faster client, would refuse a store without TLS
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True

    class Images(StreamingDataset):
        view = staticmethod(tensor(job.decoded))

        def __getitem__(self, index: Any) -> Any:
            return self.view(super().__getitem__(index))

    dataset = Images(
        "s3://litdata",
        cache_dir=job.cache,
        max_cache_size=f"{job.limit}B",
        shuffle=True,
        storage_options={
            "endpoint_url": job.url,
            "aws_access_key_id": KEYS["access"],
            "aws_secret_access_key": KEYS["secret"],
            "region_name": "us-east-1",
        },
    )
    loader = StreamingDataLoader(dataset, batch_size=job.batch, num_workers=job.workers)
    if job.first:
        state = loader.state_dict() | {"num_samples_yielded": job.first, "current_epoch": 1}
        state["dataset"] = dataset.state_dict(job.first, job.workers, job.batch)
        loader.load_state_dict(state)
    for _ in range(job.epochs):
        yield from loader


def webdataset(job: Job) -> Iterator[Any]:
    """Shards in random order, a shuffle buffer in each worker, a DataLoader; no cache."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    end = ".tar.gz" if job.gzip else ".tar"
    names = [f"train-{i:06d}{end}" for i in range(job.samples // job.of_shard)]
    dataset = (
        wds.WebDataset([f"{job.url}/{job.tars}/{name}" for name in names], shardshuffle=len(names))
        .shuffle(BUFFER, initial=BUFFER if job.full else 100)
        .to_tuple("jpg")
        .map_tuple(tensor(job.decoded))
    )
    for _ in range(job.epochs):
        for (found,) in DataLoader(dataset, batch_size=job.batch, num_workers=job.workers):
            yield found


def write_mds(jpegs: list[bytes], folder: Path) -> None:
    """One shard: the files as they are."""
    load("mosaicml-streaming")
    from streaming import MDSWriter

    columns, size = {"image": "bytes"}, 2 * sum(map(len, jpegs)) + 2**16
    with MDSWriter(out=str(folder), columns=columns, size_limit=size) as out:
        for data in jpegs:
            out.write({"image": data})


def write_litdata(jpegs: list[bytes], folder: Path) -> None:
    """One chunk: the files as they are."""
    from litdata.streaming import Cache

    cache = Cache(str(folder), chunk_size=len(jpegs))
    for at, data in enumerate(jpegs):
        cache[at] = data
    cache.done()
    cache.merge()


def versions() -> dict[str, str | None]:
    """Of each package here; None where it is absent."""
    found: dict[str, str | None] = {}
    for name in (*PEERS, *OTHERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


READERS = {"mosaicml-streaming": mosaicml_streaming, "litdata": litdata, "webdataset": webdataset}
WRITERS = {"mds": write_mds, "litdata": write_litdata}


def main(words: list[str]) -> None:
    """See the top of the file."""
    if words[0] == "versions":
        print(json.dumps(versions()))
    elif words[0] == "write":
        jpegs = [path.read_bytes() for path in sorted(Path(words[2]).iterdir())]
        WRITERS[words[1]](jpegs, Path(words[3]))
    else:
        job = Job(**json.loads(words[1]))
        load(job.loader)
        say("imported")
        read(job, READERS[job.loader](job))


if __name__ == "__main__":
    main(sys.argv[1:])
