"""The digest of samples: the same however tars cut them up, another for any other samples."""

import itertools
import random

import pytest

from scemae.data.storage import content
from scemae.data.storage.manifest import Manifest, Shard

SAMPLES = [(b"k%02d" % i, i * 977, b"{}" * (i % 3)) for i in range(20)]


def digest(samples, cuts):
    bounds = [0, *cuts, len(samples)]
    parts = [samples[a:b] for a, b in itertools.pairwise(bounds)]
    return content.of_shards((len(part), content.of_shard(part)) for part in parts)


def test_cuts_do_not_matter():
    draw = random.Random(0)
    for _ in range(50):
        cuts = sorted(draw.choices(range(21), k=draw.randrange(6)))
        assert digest(SAMPLES, cuts) == digest(SAMPLES, [])


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s[:-1],
        lambda s: [*s, s[0]],
        lambda s: [s[1], s[0], *s[2:]],
        lambda s: [(b"other", *s[0][1:]), *s[1:]],
        lambda s: [(s[0][0], 1, s[0][2]), *s[1:]],
        lambda s: [(*s[0][:2], b"[]"), *s[1:]],
    ],
)
def test_other_samples_or_another_order_have_another_digest(change):
    assert digest(change(SAMPLES), [5]) != digest(SAMPLES, [5])


def test_shards_of_earlier_versions_have_the_digest_of_their_tars():
    shards = [Shard(f"a-{i}.tar", 2, 10240, str(i) * 64, "f" * 64, "1" * 32) for i in range(2)]
    manifest = Manifest("d", "train", 4, shards)
    assert manifest.digest() != manifest.tars_digest()
    shards[1].content = ""
    assert manifest.digest() == manifest.tars_digest()
