"""What runs on a GPU, on "meta" tensors: one device, no wait, few operators, small graphs."""

from functools import cache

import numpy as np
import pytest
import torch

from scemae.config.load import load_config
from scemae.data import pipeline
from scemae.data.frame_cache import DeviceFrames, HostFrames, row_bytes
from scemae.data.order import Slice
from scemae.data.pipeline import Batch
from scemae.distributed.process_group import Place
from scemae.errors import ConfigError
from scemae.evaluation.landmarks import features, few_shot, few_shot_views, matching, regression
from scemae.methods import registry
from scemae.models import carb
from scemae.models.hypercolumn import ResNetTrunk
from scemae.models.vit import Encoder
from scemae.training.heartbeat import Meter
from scemae.training.record_file import RecordFile
from scemae.training.token_fill import ORIGIN
from scemae.training.token_store import TokenStore
from tests.distributed.meta_cuda import META, DeviceError, MetaCuda, graph_nodes, images, on_meta

B = 8  # images of a batch: shapes say all, there are no numbers
STAGE_1, STAGE_2 = ("mae", "dve", "moco", "byol"), ("carb", "cl", "lead")


def batch(size):
    """Frames on the device, as the pipeline hands them over."""
    samples = np.arange(B)
    part = Slice(1, samples, np.zeros(B, np.int64), np.full(B, 1 / B, np.float32), samples)
    return Batch(images(B, 3, size, size, dtype=torch.uint8), part, 0)


def found(name, stage):
    """A method's file; skips where its packages are absent."""
    try:
        return registry.find(name, stage)
    except ConfigError as error:
        pytest.skip(str(error))


@cache
def encoder(width, depth, heads):
    """A frozen trunk of a ViT."""
    return on_meta(Encoder(width, depth, heads).requires_grad_(False))


@cache
def resnet(name):
    """A frozen trunk of a ResNet."""
    return on_meta(ResNetTrunk(name).requires_grad_(False))


def stage_1(name):
    """A method's module at the paper's size, and what cuts its views."""
    given, method = (
        load_config("pretrain", ["run_dir=-", f"method={name}", "norm_pix=true"]),
        found(name, 1),
    )
    settings = registry.settings_of(method, given)
    cut = method.views(settings, size=96, scale=(0.2, 1.0))
    return on_meta(method.build(settings, seed=0)), lambda: cut(batch(given.data.frame))


def stage_2(name):
    """A method's module, and its frozen trunk's outputs for the views of a batch."""
    overrides = ["run_dir=-", "backbone=-", f"method={name}", "carb.clusters=12"]
    method, given = found(name, 2), load_config("correspond", overrides)
    settings = registry.settings_of(method, given)
    trunk = encoder(384, 12, 6) if name == "carb" else resnet("resnet50")

    def arguments():
        views = pipeline.correspondence_views(batch(136), 96, (0.2, 1.0))
        return *method.embed(settings, trunk, views), images(B)

    return on_meta(method.build(settings, trunk, seed=0)), arguments


@cache
def built(name):
    """A method's module, built once for all tests of this file, and what makes its arguments."""
    return stage_1(name) if name in STAGE_1 else stage_2(name)


# Operators of one forward and backward pass, each at least a launch on a GPU, at the paper's sizes:
# as measured, and a tenth more. A bound that breaks says that a step has become another one.
OPERATORS = {"mae": 1240, "dve": 1830, "moco": 880, "byol": 1930, "carb": 77, "cl": 65, "lead": 102}


@pytest.mark.parametrize("name", OPERATORS)
def test_a_step_stays_on_the_device_and_is_so_many_operators_and_no_more(name):
    module, arguments = built(name)
    optimizer = torch.optim.SGD(
        [p for p in module.parameters() if p.requires_grad], lr=1e-3, foreach=False
    )
    meter = Meter(Place(0, 1, META), 4, B)
    with MetaCuda() as mode:
        given = arguments()
        mode.counts.clear()
        loss = module(*given)
        loss.backward()
        operators = mode.operators
        meter.add(loss.detach())
        meter.end_step(1, torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0))
        optimizer.step()
        getattr(module, "after_step", lambda: None)()
    assert 0.8 * OPERATORS[name] < operators <= OPERATORS[name]


NODES = {
    "mae": 820,
    "carb": 50,
    "cl": 60,
    "lead": 92,
}  # of the graph that torch.compile would compile, likewise


@pytest.mark.parametrize("name", NODES)
def test_what_is_compiled_is_one_graph_of_so_many_nodes(name):
    module, arguments = built(name)
    graphs = graph_nodes(module, *arguments())
    assert len(graphs) == 1 and graphs[0] <= NODES[name], graphs


@pytest.mark.parametrize("name", OPERATORS)
def test_what_has_no_bound_on_its_graph_is_not_compiled_unasked(name):
    assert getattr(built(name)[0], "worth_compiling", True) == (name in NODES)


SELECTIONS = [
    {},
    {"density": "knn"},
    {"remaining": "all"},
    {"aggregate": True},
    {"remaining": "all", "aggregate": True},
]


@pytest.mark.parametrize("options", SELECTIONS, ids=str)
@pytest.mark.parametrize("layer,heads", [("after", "mean"), ("inside", "joint")])
def test_carb_selects_on_the_device(options, layer, heads):
    frozen = encoder(384, 12, 6)
    with MetaCuda():
        chosen = carb.select(
            frozen,
            carb.third(frozen, images(B, 3, 96, 96), layer, heads),
            eta=0.25,
            clusters=4,
            **options,
        )
        carb.substitute(chosen.tokens, chosen.slot)


@pytest.mark.parametrize("stride", [8, 4, 2, 1])
@pytest.mark.parametrize("kind", ["vit", "resnet", "hourglass"])
def test_features_of_frames_stay_on_the_device(kind, stride):
    trunk = {
        "vit": lambda: features.vit_trunk(encoder(192, 4, 3)),
        "resnet": lambda: features.resnet_trunk(resnet("resnet18")),
        "hourglass": lambda: features.descriptor_trunk(built("dve")[0].trunk),
    }[kind]()
    with MetaCuda():
        found = trunk.join(trunk.maps(images(2, 3, 136, 136), stride), trunk.side(stride))
    assert kind == "hourglass" or found.shape[-1] == 96 // stride


def test_matching_stays_on_the_device():
    with MetaCuda():
        matching.match(images(B, 64, 48, 48), images(B, 64, 48, 48), images(B, 5, 2))
        matching.patches(images(2, 3, 136, 136))


@pytest.mark.parametrize("kernel", [1, 3])
def test_regressors_train_on_the_device(kernel):
    few = few_shot_views.FewShotConfig(
        counts=(1, 5), seeds=(0,), images_per_epoch=10, epochs=2, batch=5, views=2, kernel=kernel
    )
    cells = [few_shot_views.FewShotCell(count, 0) for count in few.counts]
    seen = few_shot_views.Views(
        images(12, 12, 12, 64, dtype=torch.float16), images(12, 5, 2), {0: np.arange(0, 12, 2)}
    )
    with MetaCuda():
        few_shot._train(cells, seen, few, lambda task, count: None)
        regression.train_regressor(
            torch.zeros(12, 64, 12, 12, dtype=torch.float16),
            torch.zeros(12, 5, 2),
            regression.RegressionConfig(epochs=2, batch=5, kernel=kernel),
            device=META,
        )


def test_warped_views_of_few_shots_stay_on_the_device():
    frame = images(4, 3, 136, 136, dtype=torch.uint8)
    with MetaCuda():
        grid = few_shot_views.warp_grid(
            few_shot_views.make_warps(
                np.zeros((4, few_shot_views.NORMALS)), few_shot_views.SCALES["few-shot"]
            ).to(META)
        )
        few_shot_views.warp_images(frame, grid)
        few_shot_views.warp_landmarks(images(4, 5, 2), grid)


def test_resident_frames_are_gathered_on_the_device():
    resident = HostFrames(np.zeros(row_bytes(96) * 20, np.uint8), 20, 96)
    with MetaCuda() as mode:
        source = DeviceFrames(resident, META)
        mode.counts.clear()
        source.gather(np.arange(B))
    assert mode.operators <= 2  # places to the device, one gather


@pytest.mark.parametrize("is_kept", [True, False])
def test_stored_tokens_are_gathered_on_the_device(tmp_path, is_kept):
    fields = [("tokens", "<u2", (26, 384)), ("ids", "|u1", 26), ("slot", "|u1", 144), *ORIGIN]
    records = RecordFile(tmp_path, "selected", {}, fields, 40)
    records.folder.mkdir()
    records.path.write_bytes(bytes(40 * records.type.itemsize))
    store = TokenStore(records, np.arange(40), 20, 2, META)
    with MetaCuda() as mode:
        if is_kept:
            store.keep_on_device()
        mode.counts.clear()
        store.batch(np.arange(B), np.ones(B, np.int64))
    assert mode.operators <= 6


BROKEN = {
    "a number that is read": lambda x: x.sum().item(),
    "a number that decides": lambda x: 1 if x.sum() > 0 else 2,
    "a check of all numbers": lambda x: x.isfinite().all() and x,
    "a copy to the host": lambda x: x.cpu(),
    "a copy into the host's memory": lambda x: torch.empty(3).copy_(x),
    "a list of numbers": lambda x: x.tolist(),
    "a sum of both devices": lambda x: x + torch.ones(3),
    "a matrix product of both devices": lambda x: torch.ones(2, 3) @ x,
    "places that lie on the host": lambda x: x[torch.tensor([0, 1])],
    "as many as a mask has": lambda x: x[x > 0],
    "places of what is not 0": lambda x: x.nonzero(),
    "weights that stayed on the host": lambda x: torch.nn.Linear(3, 1)(x),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_a_gpu_would_refuse_or_wait_for_is_caught(what):
    with pytest.raises(DeviceError), MetaCuda():
        BROKEN[what](images(3))


def test_what_a_gpu_takes_is_allowed():
    with MetaCuda() as mode:
        x = images(3) * torch.tensor(2.0) + torch.ones(3).to(META)
        x.view(3, 1)[0] += 1
        torch.ones(3).sum().item()  # the host may read its own
    assert mode.counts["aten.add.Tensor"] == 1 and not any("view" in name for name in mode.counts)
