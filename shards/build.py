"""`scemae shards build | index | verify | info`: shards made, adopted, checked and described."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from scemae.config.locations import below, scheme_of
from scemae.data.storage.manifest import Manifest
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.errors import ConfigError, DataError, printable
from scemae.files import disk
from scemae.process.cores import cores
from scemae.shards import check, describe, index
from scemae.shards.claim import Part
from scemae.shards.finished import Place
from scemae.shards.image import QUALITY
from scemae.shards.listing import Listing
from scemae.shards.sources import aflw, annotated, celeba, folder, w300
from scemae.shards.splits import Split
from scemae.shards.write import FEW, write_split

# The options of a folder with points, beside --landmarks.
OWN = ("category", "test", "scale_points", "pair", "margin")


def main(arguments: argparse.Namespace) -> None:
    """Build, verify or describe shards. Raises ScemaeError."""
    if arguments.command == "build":
        build(arguments)
    elif arguments.command == "index":
        given = arguments.tars, arguments.workers, arguments.out, _part(arguments)
        print(printable(index.index_tars(*given)))
    elif arguments.command == "verify":
        print(printable(check.verify(arguments.folder, decode=arguments.decode)))
    elif arguments.keys:
        for key in describe.keys(arguments.folder):
            print(key)
    else:
        print(printable(describe.describe(arguments.folder)))


def build(arguments: argparse.Namespace) -> None:
    """Build all splits asked for, and print a line for each. Raises DataError, ShardError."""
    if scheme_of(arguments.out) is not None:
        RemoteFolder(arguments.out, to_write=True).names()  # before minutes go into a listing
    part = _part(arguments)
    for split in _chosen(_splits(arguments), arguments.split):
        target = place_of(arguments.out, split.name)
        if arguments.shuffle is not None and split.name == "train":
            split = shuffled(split, arguments.shuffle)
        manifest, kept = write_split(
            split,
            target,
            part=part,
            samples_per_shard=arguments.samples_per_shard,
            max_bad_fraction=arguments.max_bad_fraction,
            gzip=arguments.gzip,
            workers=arguments.workers or (1 if len(split.samples) < FEW else cores()),
        )
        if manifest is None:
            print(
                f"{target}: part {part} is written ({kept} of its shards were there "
                "before); when all parts are, the same command without --part writes the manifest"
            )
        else:
            print(_summary(target, manifest, kept))


def _part(arguments: argparse.Namespace) -> Part | None:
    return Part(*arguments.part) if arguments.part else None


def place_of(out: str, split: str) -> Place:
    """Where the shards of a split are built, in a folder or below a URL. Raises ShardError."""
    if scheme_of(out) is None:
        return Path(out) / split
    return RemoteFolder(below(out, split), to_write=True)


def shuffled(split: Split, seed: int) -> Split:
    """The split in a random order, which its manifest names."""
    order = np.random.Generator(np.random.Philox(key=[seed, len(split.samples)]))
    samples = Listing(split.samples.__getitem__, order.permutation(len(split.samples)))
    return replace(split, samples=samples, options=split.options | {"shuffle": seed})


def _summary(target: Place, manifest: Manifest, kept: int) -> str:
    """One line: samples, shards written and kept, images left out and excluded, by reason."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest.excluded.items())
    return (
        f"{target}: {manifest.samples:,} samples in {len(manifest.shards)} shards "
        f"({kept} finished earlier and kept, {len(manifest.shards) - kept} written now), "
        f"{len(manifest.left_out):,} unusable images left out, "
        f"{sum(manifest.excluded.values()):,} excluded{f' ({reasons})' if reasons else ''}"
        f"{', a subset of the official split' if manifest.options.get('subset') else ''}"
    )


def _splits(arguments: argparse.Namespace) -> list[Split]:
    root = arguments.root
    match arguments.source:
        case "celeba":
            if arguments.quality and not arguments.resize:
                raise ConfigError(
                    "--quality without --resize: the original bytes are stored, nothing is "
                    "encoded; leave it out, or add --resize N"
                )
            return celeba.splits(
                root,
                exclude_mafl_train=not arguments.keep_mafl_train,
                resize=arguments.resize,
                quality=arguments.quality or QUALITY,
            )
        case "aflw_m":
            return aflw.splits_m(root)
        case "aflw_r":
            return aflw.splits_r(root, corrected=arguments.corrected)
        case "w300":
            return w300.splits(root, boxes=arguments.boxes)
        case _:
            if arguments.landmarks:
                return _annotated(arguments)
            if given := [name for name in OWN if getattr(arguments, name) is not None]:
                raise ConfigError(
                    f"--{given[0].replace('_', '-')}: found no --landmarks, which it belongs to; "
                    "give the annotation file, or leave it out"
                )
            return folder.splits(root)


def _annotated(arguments: argparse.Namespace) -> list[Split]:
    """The splits of a folder with points; writes OUT/benchmark.yaml and prints what is worth
    knowing.
    """
    if scheme_of(arguments.out) is not None:
        raise ConfigError(
            f"{arguments.out}: shards with --landmarks come with a benchmark.yaml in a folder; "
            "give a folder, and copy it to the bucket"
        )
    if arguments.gzip:
        raise ConfigError(
            "--gzip: found --landmarks too, and `scemae fit` reads annotated shards without the "
            "cache that compressed ones need; leave --gzip out"
        )
    wishes = annotated.Wishes(
        arguments.landmarks,
        arguments.category,
        arguments.test or "0",
        tuple(arguments.scale_points) if arguments.scale_points else None,
        [(first, second) for first, second in arguments.pair] if arguments.pair else None,
        arguments.margin,
        Path(arguments.out).resolve().name,
    )
    found = annotated.splits(arguments.root, wishes)
    target = Path(arguments.out) / "benchmark.yaml"
    disk.make_folders(target.parent, target.parent)
    disk.write_text(target, found.benchmark)
    for note in found.notes:
        print(printable(f"note: {note}"))
    print(f"{target}: the points, their pairs and the scale of errors")
    return found.splits


def _chosen(splits: list[Split], names: list[str] | None) -> list[Split]:
    if unknown := sorted(set(names or []) - {split.name for split in splits}):
        raise DataError(
            f"--split {unknown[0]}: this source gives {', '.join(split.name for split in splits)}; "
            "name one of them"
        )
    return [split for split in splits if not names or split.name in names]
