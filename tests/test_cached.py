"""Maps of many frames, kept in half precision, and the features that heads make of them."""

import pytest
import torch
from torch import nn

from scemae.errors import CheckpointError, ConfigError
from scemae.landmarks import cached
from scemae.landmarks.cached import Cached, cache_maps
from scemae.landmarks.features import Trunk

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (7, 3, 136, 136), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def two_maps(frames, stride):
    return [frames[..., ::8, ::8], frames[..., ::17, ::17]]


def trunk(maps=two_maps) -> Trunk:
    return Trunk("thinned", 0, 6, nn.Identity(), maps, lambda maps, side: maps[0])


def test_maps_kept_in_parts_equal_those_computed_at_once():
    told = []
    kept = cache_maps(trunk(), IMAGES, 8, batch=3, device=CPU, progress=told.append)
    whole = two_maps(IMAGES.float() / 255, 8)
    assert [part.dtype for part in kept] == [torch.float16] * 2 and told == [3, 3, 1]
    assert all(torch.equal(part, found.half()) for part, found in zip(kept, whole))


def test_features_seen_through_a_head_are_made_when_asked_for():
    kept, asked = cache_maps(trunk(), IMAGES, 8, batch=3, device=CPU), []

    def head(maps, side):
        asked.append(len(maps[0]))
        return maps[0].repeat(1, 2, 1, 1) * side

    seen = Cached(kept, head, 2, CPU)
    assert seen.shape == (7, 6, 17, 17) and len(seen) == 7 and asked == [1]
    assert torch.equal(seen[torch.tensor([4, 0])], 2 * kept[0][[4, 0]].float().repeat(1, 2, 1, 1))
    assert [len(part) for part in seen.split(4)] == [4, 3] and asked == [1, 2, 4, 3]


def test_maps_that_memory_cannot_hold_are_refused_after_one_batch(monkeypatch):
    monkeypatch.setattr(cached.memory, "available", lambda: 10_000)
    calls = []
    with pytest.raises(ConfigError, match="use a larger stride"):
        cache_maps(trunk(lambda frames, stride: calls.append(1) or [frames]), IMAGES, 8, batch=2, device=CPU)
    assert calls == [1]


def test_maps_that_are_not_finite_are_refused():
    with pytest.raises(CheckpointError, match="not finite in half precision"):
        cache_maps(trunk(lambda frames, stride: [frames + 1e6]), IMAGES, 8, batch=2, device=CPU)
