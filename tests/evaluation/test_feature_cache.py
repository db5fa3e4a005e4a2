"""Maps of many frames cached in half precision, and the features of heads on them."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from scemae.errors import CheckpointError, ConfigError
from scemae.evaluation.landmarks import feature_cache
from scemae.evaluation.landmarks.feature_cache import Cached, cache_maps
from scemae.evaluation.landmarks.features import Trunk
from scemae.evaluation.landmarks.regression import RegressionConfig, train_regressor

CPU = torch.device("cpu")
IMAGES = torch.randint(
    0, 256, (7, 3, 136, 136), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def two_maps(frames, stride):
    return [frames[..., ::8, ::8], frames[..., ::17, ::17]]


def trunk(maps=two_maps) -> Trunk:
    return Trunk("thinned", 0, 6, nn.Identity(), maps, lambda maps, side: maps[0])


def test_maps_kept_in_parts_equal_those_computed_at_once():
    reported = []
    kept = cache_maps(trunk(), IMAGES, 8, batch=3, device=CPU, advance=reported.append)
    whole = two_maps(IMAGES.float() / 255, 8)
    assert [part.dtype for part in kept] == [torch.float16] * 2 and reported == [3, 3, 1]
    assert all(torch.equal(part, found.half()) for part, found in zip(kept, whole))


def test_features_seen_through_a_head_are_made_when_asked_for():
    kept, calls = cache_maps(trunk(), IMAGES, 8, batch=3, device=CPU), []

    def head(maps, side):
        calls.append(len(maps[0]))
        return maps[0].repeat(1, 2, 1, 1) * side

    seen = Cached(kept, head, 2, CPU)
    assert seen.shape == (7, 6, 17, 17) and len(seen) == 7 and calls == [1]
    assert torch.equal(seen[torch.tensor([4, 0])], 2 * kept[0][[4, 0]].float().repeat(1, 2, 1, 1))
    assert [len(part) for part in seen.split(4)] == [4, 3] and calls == [1, 2, 4, 3]


def test_maps_that_memory_cannot_hold_are_refused_after_one_batch(monkeypatch):
    monkeypatch.setattr(feature_cache.host_memory, "available", lambda: 10_000)
    calls = []
    with pytest.raises(ConfigError, match="use a larger stride"):
        cache_maps(
            trunk(lambda frames, stride: calls.append(1) or [frames]),
            IMAGES,
            8,
            batch=2,
            device=CPU,
        )
    assert calls == [1]


class HostToDevice(TorchDispatchMode):
    """Counts bytes copied from the host to the device "meta", which stands for a GPU."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        given = (
            args[1]
            if operation.overloadpacket is torch.ops.aten.copy_
            else args[0]
            if args
            else None
        )
        if (
            isinstance(found, torch.Tensor)
            and found.is_meta
            and isinstance(given, torch.Tensor)
            and not given.is_meta
        ):
            self.bytes += given.nbytes
        return found


def test_a_regressor_learns_from_maps_that_never_leave_the_device(monkeypatch):
    monkeypatch.setattr(feature_cache.host_memory, "free", lambda device: 1 << 30)
    monkeypatch.setattr(feature_cache, "refuse_infinite", lambda trunk, is_finite: None)
    meta, landmarks = torch.device("meta"), torch.zeros(7, 5, 2)
    kept = cache_maps(trunk(), IMAGES, 8, batch=3, device=meta)
    assert [part.device for part in kept] == [meta] * 2 and kept[0].shape == (7, 3, 17, 17)
    seen = Cached(kept, lambda maps, side: maps[0], 17, meta)
    with HostToDevice() as travelled:
        train_regressor(
            seen, landmarks, RegressionConfig(intermediate=2, epochs=2, batch=2), device=meta
        )
    weights, rows = 4 * (5 * 2 * 3 * 9 + 5 * 4 * 2), 2 * (7 + 6) * 8
    assert travelled.bytes <= weights + landmarks.nbytes + rows + 200


@pytest.mark.parametrize("gpu,host,found", [(10_000, 0, "cuda"), (9_000, 10_000, "cpu")])
def test_maps_go_where_there_is_room(monkeypatch, gpu, host, found):
    monkeypatch.setattr(feature_cache.host_memory, "free", lambda device: gpu)
    monkeypatch.setattr(feature_cache.host_memory, "available", lambda: host)
    assert (
        feature_cache.choose_place(
            trunk(), 10, [torch.Size((3, 10, 10))], torch.device("cuda", 0)
        ).type
        == found
    )


def test_rows_gathered_for_a_copy_are_the_rows():
    kept, rows = torch.rand(9, 2, 3).half(), torch.tensor([4, 0, 8, 4])
    assert torch.equal(feature_cache.gather(kept, rows, is_pinned=False), kept[rows])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("gpu", [1 << 30, 0])
def test_a_regressor_is_the_same_wherever_its_maps_are(monkeypatch, gpu):
    monkeypatch.setattr(feature_cache.host_memory, "free", lambda device: gpu)
    device, settings = torch.device("cuda", 0), RegressionConfig(intermediate=2, epochs=2, batch=2)
    kept = cache_maps(trunk(), IMAGES, 8, batch=3, device=device)
    assert kept[0].is_cuda == bool(gpu)
    found = train_regressor(
        Cached(kept, lambda maps, side: maps[0], 17, device),
        torch.zeros(7, 5, 2),
        settings,
        device=device,
    )
    expected = train_regressor(
        two_maps(IMAGES.to(device).float() / 255, 8)[0].half(),
        torch.zeros(7, 5, 2),
        settings,
        device=device,
    )
    assert torch.allclose(found.readout, expected.readout, atol=1e-4)


def test_maps_that_are_not_finite_are_refused():
    with pytest.raises(CheckpointError, match="not finite in half precision"):
        cache_maps(trunk(lambda frames, stride: [frames + 1e6]), IMAGES, 8, batch=2, device=CPU)
