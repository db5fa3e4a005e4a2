"""A checkpoint of 1,024 ranks, loaded by another number of them: few files, few bytes."""

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from scemae.distributed.process_group import Place
from scemae.distributed.zero_state import Fragment
from scemae.runs.checkpoints import resume
from scemae.runs.checkpoints.checkpoint import TrainState
from scemae.runs.checkpoints.tensor_file import write_tensors

WRITERS = 1024
SHAPES = {"embed": 40_000, "blocks.weight": 150_000, "blocks.bias": 700, "head": 60_000}
TOTAL = sum(SHAPES.values())


def flat_parts(rank, world_size):
    """The fragments (name, start, count) of one rank: an equal share of all parameters in a line,
    as ZeRO 1 and 2 cut them."""
    first, last = (TOTAL * r // world_size for r in (rank, rank + 1))
    begin = 0
    for name, count in SHAPES.items():
        start, stop = max(first - begin, 0), min(last - begin, count)
        if start < stop:
            yield name, start, stop - start
        begin += count


def own_parts(rank, world_size):
    """As ZeRO 3 cuts them: an equal share of each parameter."""
    for name, count in SHAPES.items():
        start, stop = (count * r // world_size for r in (rank, rank + 1))
        if start < stop:
            yield name, start, stop - start


def values(name, start, count):
    """What element i of a moment holds: its number in the parameter, and which parameter."""
    return np.arange(start, start + count, dtype=np.float32) + 1e6 * [*SHAPES].index(name)


@pytest.fixture(scope="module", params=[flat_parts, own_parts])
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    files = []
    for rank in range(WRITERS):
        parts = [*request.param(rank, WRITERS)]
        arrays = {
            f"{n}/{k}": values(n, s, c) for n, s, c in parts for k in ("exp_avg", "exp_avg_sq")
        }
        path = folder / f"moments-{rank + 1:04d}-of-{WRITERS:04d}.safetensors"
        metadata = {"starts": json.dumps({n: s for n, s, _ in parts})}
        files.append({"file": write_tensors(path, arrays, metadata).file, "bytes": 0, "sha256": ""})
    state = TrainState(0, 0, WRITERS, 1, "pretrain", {}, "", 1, files=files)
    return folder, state, request.param


@dataclass
class Counting:
    """safe_open, whose files and numbers read are counted."""

    opened: int = 0
    numbers: int = 0

    def __call__(self, path, framework):
        self.opened += 1
        return File(self, resume_open(path, framework=framework))


resume_open = resume.safe_open


class File:
    def __init__(self, counts, file):
        self.counts, self.file = counts, file

    def __enter__(self):
        self.inner = self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def get_slice(self, name):
        return Part(self.counts, self.inner.get_slice(name))


class Part:
    def __init__(self, counts, part):
        self.counts, self.part = counts, part

    def get_shape(self):
        return self.part.get_shape()

    def __getitem__(self, wanted):
        found = self.part[wanted]
        self.counts.numbers += found.numel()
        return found


@pytest.mark.parametrize("ranks", [512, 768, 1000, 1024, 2048])
def test_a_rank_opens_four_files_at_most_and_reads_its_share(saved, monkeypatch, ranks):
    folder, state, cut = saved
    opened = Counter()
    for rank in {0, 1, ranks // 3, ranks // 2, ranks - 2, ranks - 1}:
        mine = [
            Fragment(
                name,
                start,
                torch.zeros(count),
                {key: torch.zeros(count) for key in ("exp_avg", "exp_avg_sq")},
            )
            for name, start, count in cut(rank, ranks)
        ]
        counting = Counting()
        monkeypatch.setattr(resume, "safe_open", counting)
        resume._load_moments(folder, state, mine, Place(rank, ranks, torch.device("cpu")))
        for part in mine:
            wanted = torch.from_numpy(values(part.name, part.start, len(part)))
            assert all(torch.equal(moment, wanted) for moment in part.moments.values())
        assert counting.numbers == sum(2 * len(part) for part in mine)
        opened[counting.opened] += 1
    assert max(opened) <= 4, opened


def test_weights_are_read_by_their_rows(tmp_path, monkeypatch):
    whole = np.arange(60, dtype=np.float32).reshape(10, 2, 3)
    write_tensors(tmp_path / "w", {"w": whole, "one": np.float32([7])}, {})
    counting = Counting()
    with counting(tmp_path / "w", "pt") as file:
        assert resume._elements(file, "w", 13, 9).tolist() == [*range(13, 22)]
        assert counting.numbers == 12  # two rows of six
        assert resume._elements(file, "one", 0, 1).tolist() == [7]
