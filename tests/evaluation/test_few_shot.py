"""Few annotated images: regressors in a stack against each alone, and their draws and warps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scemae.data import tps_warps
from scemae.errors import CheckpointError, ConfigError, DataError
from scemae.evaluation.landmarks import few_shot, few_shot_views
from scemae.evaluation.landmarks.benchmark_frames import (
    Frames,
    denormalise_landmarks,
    normalise_landmarks,
)
from scemae.evaluation.landmarks.feature_cache import Cached
from scemae.evaluation.landmarks.few_shot import FewShotErrors, RegressorStack, few_shot_errors
from scemae.evaluation.landmarks.few_shot_views import (
    FewShotCell,
    FewShotConfig,
    choose_images,
    count_views,
    order_views,
)
from scemae.evaluation.landmarks.regression import (
    LandmarkRegressor,
    RegressionConfig,
    detection_errors,
    iod_errors,
    learning_rate,
)

TINY = FewShotConfig(
    counts=(1, 3, 5),
    seeds=(0, 4),
    images_per_epoch=12,
    epochs=3,
    batch=4,
    init_std=0.05,
    intermediate=4,
    views=5,
)


def faces(n: int, seed: int = 0) -> Frames:
    """Frames with a red square at the first of two landmarks and a green one at the second."""
    random = np.random.default_rng(seed)
    landmarks = random.uniform((45, 45), (60, 90), (n, 2, 2)) + np.array([[0, 0], [30, 0]])
    images = torch.from_numpy(random.integers(0, 40, (n, 3, 136, 136), dtype=np.uint8))
    for i, points in enumerate(landmarks.round().astype(int)):
        for colour, (x, y) in enumerate(points):
            images[i, colour, y - 5 : y + 6, x - 5 : x + 6] = 255
    return Frames(
        images,
        torch.from_numpy(landmarks).float(),
        [f"{i:03d}" for i in range(n)],
        torch.full((n,), -1),
    )


def shrink(frames: torch.Tensor) -> torch.Tensor:
    """Features (b, 3, 12, 12): the colours of the crop."""
    return F.avg_pool2d(frames[..., 20:116, 20:116], 8)


def measure(
    config: FewShotConfig, extract=shrink, train: Frames | None = None, **options
) -> FewShotErrors:
    test = faces(9, seed=1)
    return errors_of(
        extract,
        train or faces(8),
        shrink(test.images.float() / 255),
        test.landmarks,
        config=config,
        **options,
    )


def errors_of(
    extract, train: Frames, test_features, test_landmarks, *, config: FewShotConfig, **options
) -> FewShotErrors:
    """The errors with one kind of features."""
    return few_shot_errors(
        lambda frames: {"": extract(frames)},
        train,
        {"": test_features},
        test_landmarks,
        eyes=(0, 1),
        config=config,
        **options,
    )[""]


def train_alone(train: Frames, count: int, seed: int, config: FewShotConfig) -> LandmarkRegressor:
    """One cell, sample by sample; the image is warped again for each use."""
    settings = RegressionConfig(
        kernel=config.kernel,
        init_std=config.init_std,
        intermediate=config.intermediate,
        epochs=config.epochs,
        batch=config.batch,
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=config.betas,
        seed=seed,
    )
    regressor = LandmarkRegressor(3, 2, settings)
    adam = torch.optim.Adam(
        regressor.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )
    chosen, repeats = (
        choose_images(len(train), config.counts, seed)[count],
        config.images_per_epoch // count,
    )
    for epoch in range(config.epochs):
        adam.param_groups[0]["lr"] = learning_rate(epoch, settings)
        order = np.random.default_rng([few_shot_views.ORDER, seed, epoch]).permutation(
            count * repeats
        )
        batch = min(config.batch, len(order))
        for step in range(len(order) // batch):
            seen = [
                warp_once(
                    train, chosen[i % count], seed, (epoch * repeats + i // count) % config.views
                )
                for i in order[step * batch : (step + 1) * batch]
            ]
            predicted = regressor(torch.cat([features for features, _ in seen]))
            truth = torch.cat([normalise_landmarks(points) for _, points in seen])
            adam.zero_grad()
            F.smooth_l1_loss(predicted * 10, truth * 10).backward()
            adam.step()
    return regressor


def warp_once(train: Frames, image: int, seed: int, view: int) -> tuple[torch.Tensor, torch.Tensor]:
    normal = np.random.default_rng([few_shot_views.WARP, seed, image]).standard_normal(
        (view + 1, tps_warps.NORMALS)
    )
    grid = tps_warps.warp_grid(tps_warps.make_warps(normal[-1:], tps_warps.SCALES["few-shot"]))
    frame = tps_warps.warp_images(train.images[image : image + 1], grid)
    return shrink(frame.float() / 255).half().float(), tps_warps.warp_landmarks(
        train.landmarks[image : image + 1], grid
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": 3, "images_per_epoch": 14},
        {"batch": 32, "init_std": 1.0},
        {"views": 1000, "seeds": (3,), "counts": (5, 1)},
    ],
)
def test_all_cells_at_once_equal_each_by_itself(settings):
    config, train, test = replace(TINY, **settings), faces(8), faces(9, seed=1)
    found = measure(config, train=train).errors
    assert found.shape == (len(config.counts), len(config.seeds), 9)
    for i, count in enumerate(config.counts):
        for j, seed in enumerate(config.seeds):
            alone = train_alone(train, count, seed, config)
            slow = detection_errors(
                alone,
                shrink(test.images.float() / 255),
                normalise_landmarks(test.landmarks),
                (0, 1),
            )
            assert np.allclose(found[i, j], slow, rtol=1e-4), (count, seed)


def test_a_stack_computes_what_its_regressors_do():
    for kernel in (1, 3):
        alone = [
            LandmarkRegressor(6, 2, RegressionConfig(intermediate=5, kernel=kernel, seed=seed))
            for seed in range(3)
        ]
        features = torch.randn(3, 4, 6, 7, 8)
        stacked = RegressorStack(alone)(features.permute(0, 1, 3, 4, 2))
        assert torch.allclose(
            stacked, torch.stack([one(part) for one, part in zip(alone, features)]), atol=1e-4
        )


def test_stacks_that_memory_splits_give_the_same(monkeypatch):
    whole, sizes, train = measure(TINY).errors, [], few_shot._train
    monkeypatch.setattr(
        few_shot, "_train", lambda cells, *rest: sizes.append(len(cells)) or train(cells, *rest)
    )
    monkeypatch.setattr(
        few_shot.host_memory,
        "available",
        lambda: 2 * 4 * 4 * 144 * (4 * 2 * 4 + 2 * 3 * 2) / 0.8 + 1,
    )
    monkeypatch.setattr(few_shot, "_seeds_at_once", lambda config, shape, device: [(0,), (4,)])
    assert np.allclose(measure(TINY).errors, whole, rtol=1e-4) and sizes == [2, 1, 2, 1]


@pytest.mark.parametrize("held, parts", [(2.1, [(0, 4)]), (1.1, [(0,), (4,)])])
def test_as_many_seeds_train_at_once_as_memory_holds(monkeypatch, held, parts):
    needed = 2 * int(count_views(TINY).sum()) * 3 * 12 * 12
    monkeypatch.setattr(few_shot.host_memory, "available", lambda: held * needed / 0.6)
    assert (
        few_shot._seeds_at_once(TINY, {"": torch.Size((3, 12, 12))}, torch.device("cpu")) == parts
    )


def test_more_annotated_images_find_landmarks_that_the_features_show():
    config = replace(
        TINY,
        counts=(1, 20),
        images_per_epoch=40,
        epochs=30,
        batch=8,
        intermediate=8,
        weight_decay=5e-4,
    )
    train, test = faces(30), faces(9, seed=1)
    result = measure(config, train=train)
    mean = iod_errors(train.landmarks.mean(0).expand(9, 2, 2), test.landmarks, (0, 1)).mean()
    assert result.mean()[1] < 0.5 * mean and result.mean()[1] < result.mean()[0]


def test_images_are_drawn_without_replacement_nested_and_by_seed():
    torch.manual_seed(5), np.random.seed(5)
    drawn = choose_images(40, (1, 5, 40), 3)
    assert {count: len(set(images.tolist())) for count, images in drawn.items()} == {
        1: 1,
        5: 5,
        40: 40,
    }
    assert (
        drawn[1].tolist() == drawn[40][:1].tolist() and drawn[5].tolist() == drawn[40][:5].tolist()
    )
    torch.manual_seed(6), np.random.seed(6)
    assert (
        choose_images(40, (5,), 3)[5].tolist()
        == drawn[5].tolist()
        != choose_images(40, (5,), 4)[5].tolist()
    )


def test_test_features_may_be_those_of_a_head_on_cached_maps():
    test = faces(9, seed=1)
    maps = Cached(
        [shrink(test.images.float() / 255)], lambda maps, side: maps[0], 12, torch.device("cpu")
    )
    found = errors_of(shrink, faces(8), maps, test.landmarks, config=TINY).errors
    assert np.array_equal(found, measure(TINY).errors)


def test_several_kinds_of_features_share_each_warped_image_and_have_the_errors_of_each_alone():
    test, batches = faces(9, seed=1), []

    def extract(frames):
        batches.append(len(frames))
        return {
            "plain": shrink(frames),
            "wide": torch.cat([shrink(frames), 1 - shrink(frames)], dim=1),
        }

    found = few_shot_errors(
        extract,
        faces(8),
        extract(test.images.float() / 255),
        test.landmarks,
        eyes=(0, 1),
        config=TINY,
    )
    assert sum(batches[1:]) == 2 * count_views(TINY).sum()
    assert np.array_equal(found["plain"].errors, measure(TINY).errors)
    assert not np.allclose(found["wide"].errors, found["plain"].errors)


def test_a_cell_does_not_depend_on_the_other_counts_and_seeds():
    both = measure(TINY)
    alone = measure(replace(TINY, counts=(3,), seeds=(4,)))
    assert np.allclose(alone.errors[0, 0], both.errors[1, 1], rtol=1e-4)
    assert (
        alone.chosen[4] == both.chosen[4][:3]
        and set(both.chosen) == {0, 4}
        and len(both.chosen[0]) == 5
    )


def test_results_are_the_same_again_whatever_the_global_random_state():
    torch.manual_seed(1)
    first = measure(TINY).errors
    torch.manual_seed(2)
    assert np.array_equal(first, measure(TINY).errors)


def test_an_epoch_sees_each_image_equally_often_and_a_fresh_view_each_time():
    config, first, seen = replace(TINY, views=100), np.array([0, 100, 200]), []
    for epoch in range(3):
        rows = order_views(FewShotCell(3, 7), epoch, first, config)
        assert len(rows) == 12 and np.bincount(rows // 100).tolist() == [4, 4, 4]
        seen += rows.tolist()
    assert sorted(seen) == [*range(12), *range(100, 112), *range(200, 212)]
    assert set(order_views(FewShotCell(3, 7), 2, first, replace(config, views=2))) == {
        0,
        1,
        100,
        101,
        200,
        201,
    }


def test_as_many_views_are_made_of_an_image_as_are_used():
    config = replace(TINY, views=10**6, seeds=(7,), counts=(5, 1, 3))
    rows = np.concatenate(
        [
            order_views(FewShotCell(n, 7), e, np.arange(5) * 100, config)
            for n in (1, 3, 5)
            for e in range(3)
        ]
    )
    used = [len(set(rows[rows // 100 == image])) for image in range(5)]
    assert count_views(config).tolist() == used == [36, 12, 12, 6, 6]
    assert count_views(replace(config, views=10)).tolist() == [10, 10, 10, 6, 6]


def test_each_view_is_a_warp_of_its_own_and_its_landmarks_are_where_the_warp_took_them():
    train, config = faces(3), replace(TINY, counts=(1,), seeds=(2,))
    views = few_shot_views.warp_seeds(
        lambda frames: {"": shrink(frames)},
        train,
        {2: np.array([1])},
        config,
        shapes={"": torch.Size((3, 12, 12))},
        device=torch.device("cpu"),
        progress=lambda task, count: None,
    )[""]
    for view in range(config.views):
        features, points = warp_once(train, 1, 2, view)
        assert torch.equal(views.features[view].permute(2, 0, 1), features[0].half())
        assert torch.equal(denormalise_landmarks(views.landmarks[view]).round(), points[0])
    assert len({tuple(row.flatten().tolist()) for row in views.landmarks}) > 1
    assert (denormalise_landmarks(views.landmarks) - train.landmarks[1]).norm(
        dim=2
    ).max() < 15  # WarperSingle is mild


def test_means_and_deviations_are_those_over_seeds():
    result = FewShotErrors(np.array([[[1.0, 3], [3, 5]], [[2, 2], [2, 2]]]), {})
    assert result.mean().tolist() == [3, 2] and result.sd() == pytest.approx([np.sqrt(2), 0])
    assert FewShotErrors(np.ones((2, 1, 3)), {}).sd().tolist() == [0, 0]


def test_every_view_and_every_epoch_of_a_cell_is_reported():
    reported = {"views": 0, "epochs": 0}
    measure(TINY, progress=lambda task, count: reported.update({task: reported[task] + count}))
    assert reported == {"views": 2 * count_views(TINY).sum(), "epochs": 3 * 2 * 3}


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(CheckpointError, match="not finite"):
        measure(TINY, extract=lambda frames: shrink(frames) + 1e6)


def test_test_features_that_are_not_finite_are_refused():
    test = faces(2)
    with pytest.raises(
        CheckpointError, match=r"FewShotCell\(count=1, seed=0\) predicts is not finite"
    ):
        errors_of(
            shrink, faces(8), torch.full((2, 3, 12, 12), torch.nan), test.landmarks, config=TINY
        )
    with pytest.raises(ConfigError, match="found 3 features and 2 landmarks"):
        errors_of(shrink, faces(8), torch.zeros(3, 3, 12, 12), test.landmarks, config=TINY)


def test_features_of_another_shape_than_the_test_images_are_refused():
    with pytest.raises(ConfigError, match=r"\(3, 6, 6\) of training views and \(3, 12, 12\)"):
        measure(TINY, extract=lambda frames: F.avg_pool2d(shrink(frames), 2))


def test_a_test_image_without_eye_distance_is_refused_before_any_work():
    test = torch.ones(2, 2, 2)
    with pytest.raises(DataError, match="both eyes"):
        errors_of(None, faces(8), torch.zeros(2, 3, 12, 12), test, config=TINY)


def test_what_memory_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr(few_shot.host_memory, "available", lambda: 10_000)
    with pytest.raises(ConfigError, match="fewer few_shot.views"):
        measure(TINY)
    monkeypatch.setattr(few_shot, "_seeds_at_once", lambda config, shape, device: [config.seeds])
    with pytest.raises(ConfigError, match="smaller few_shot.batch_size"):
        measure(TINY)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"counts": (1, 9)}, "found 9 annotated images, the training set has 8"),
        ({"counts": (1, 1)}, "name each once"),
        ({"images_per_epoch": 4}, "found 5 images, an epoch has 4"),
        ({"kernel": 2}, "odd"),
        ({"epochs": 0}, "at least 1"),
        ({"seeds": ()}, "one seed"),
        ({"seeds": (-1,)}, "at least 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        measure(replace(TINY, **settings))
