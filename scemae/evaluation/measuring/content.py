"""What features know without and with their place, as units of work (ours; landmarks/position.py).

One unit takes the mean feature of each place over training faces; the others match the couples with
each part alone, and need its file.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from scemae.data.augment import to_device
from scemae.errors import RunFolderError
from scemae.evaluation.landmarks.features import Head
from scemae.evaluation.landmarks.pairs import Pairs
from scemae.evaluation.landmarks.position import PARTS, PlaceMeans, split_features
from scemae.evaluation.measuring.measure import Heads, Measure
from scemae.evaluation.measuring.testsets import TestSet
from scemae.evaluation.measuring.units import Advance, Arrays, Unit
from scemae.evaluation.subject import CONTENT, PLACES, Subject
from scemae.files import arrays


def content_units(measure: Measure, subject: Subject, pairs: Pairs, data: TestSet) -> list[Unit]:
    """The units of one subject; no units where matching.place_images is 0."""
    images, lines = measure.config.matching.place_images, subject.of(PLACES)
    if not images or not lines:
        return []
    facts = {"data": data.digest, "images": images}
    known = {"test": PLACES, "stride": measure.config.stride, **facts}
    path, title = measure.path(subject, lines, known), f"mean features, {subject.title}"
    work = partial(_place_means, measure, subject, data)
    count = data.count("train", images)
    places = Unit(path, title, work, count, PLACES, "mafl")
    heads = partial(_heads_of_parts, subject, path)
    return [places, *measure.units_of_couples(subject, pairs, CONTENT, heads, facts, needs=path)]


def _place_means(measure: Measure, subject: Subject, data: TestSet, advance: Advance) -> Arrays:
    """For each line: the means (d, side, side) in fp16, the position share, how many faces."""
    config, device, trunk = measure.config, measure.device, subject.trunk
    stride, side = config.stride, trunk.side(config.stride, matching=True)
    batch = 3 * subject.couples_at_once(config.runtime.batch_size, side)
    subject.to(device, measure.dtype)
    sums = {line.name: PlaceMeans() for line in subject.of(PLACES)}
    with torch.no_grad():
        for frames in data.frames("train", config.matching.place_images).images.split(batch):
            maps = trunk.maps(to_device(frames, device).float() / 255, stride)
            for line in subject.of(PLACES):
                sums[line.name].add(line.head(maps, side))
            advance(len(frames))
    found: Arrays = {}
    for name, one in sums.items():
        found[f"{name}/means"] = one.means.half().cpu().numpy()
        found[f"{name}/share"] = np.array(one.share)
        found[f"{name}/images"] = np.array(one.images)
    return found


def _heads_of_parts(subject: Subject, path: Path) -> Heads:
    """For each line a head of its content and one of its position, given the file of the means."""
    means = arrays.read(path, error=RunFolderError, remedy="remove it, and it is measured again")
    return {
        f"{line.name}/{part}": _part(line.head, torch.from_numpy(means[f"{line.name}/means"]), part)
        for line in subject.of(CONTENT)
        for part in PARTS
    }


def _part(head: Head, means: torch.Tensor, part: str) -> Head:
    return lambda maps, side: split_features(head(maps, side), means, part)
