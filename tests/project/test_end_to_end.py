"""From a folder of real faces to a report, at the smallest size; test_docs.py draws its own."""

import json

import pytest

from tests.support import FACES, TINY, needs_faces, scemae

SMALL = [
    "optim.global_batch_size=8",
    "optim.epochs=0.1",  # 7 steps
    "loop.log_every=1",
    "loop.save_every=2",
]


def from_shards_to_report(shards, runs, frames):
    """Three stages and a report on shards that have every split; the results."""
    scemae(
        "pretrain",
        *TINY,
        *SMALL,
        f"run_dir={runs / 'mae'}",
        f"data.shards={shards / 'val'}",
        "loop.probe_every=2",
        f"probe_shards={shards / 'mafl-train'}",
        "loop.probe_pairs=2",
        "optim.warmup_epochs=0",
    )
    scemae(
        "correspond",
        *SMALL,
        f"run_dir={runs / 'carb'}",
        f"backbone={runs / 'mae'}",
        f"data.shards={shards / 'val'}",
        "carb.dim=16",
    )
    scemae(
        "evaluate",
        f"run_dir={runs / 'eval'}",
        f"backbone={runs / 'mae'}",
        f"projector={runs / 'carb'}",
        "stride=8",
        f"matching.shards={shards / 'mafl-test'}",
        "matching.couples=4",
        f"detection.train={shards / 'mafl-train'}",
        f"detection.test={shards / frames}",
        "detection.epochs=1",
        "detection.stride=8",
        "detection.limit=8",
    )
    scemae("report", runs / "eval", "--no-pictures")
    return json.loads((runs / "eval" / "results.json").read_text())


@pytest.mark.slow
@needs_faces
def test_real_faces_take_the_same_path(tmp_path):
    scemae("shards", "build", "celeba", FACES, tmp_path / "shards", "--workers", "1")
    results = from_shards_to_report(tmp_path / "shards", tmp_path / "runs", "mafl-test")
    assert results["matching"]["couples"] == 4 and results["detection"]["test_images"] == 1000
