"""What the loop reports about speed: wait for data, images per second, FLOPs utilisation."""

import time

import numpy as np
import pytest
import torch

from scemae.distributed.process_group import process_group
from scemae.runs.metrics_log import read_metrics
from scemae.training.heartbeat import Meter, RankStatus
from scemae.training.loop import train_step
from tests.support import TINY, scemae, write_shards


class Engine:
    """Stands for an engine that needs no time."""

    module = torch.nn.Identity()

    def __call__(self, loss):
        return loss

    def backward(self, loss):
        pass

    def step(self):
        pass

    def get_global_grad_norm(self):
        return torch.tensor(2.0, dtype=torch.float64)


class Dog:
    def note(self, global_step, phase):
        pass


@pytest.fixture
def place():
    with process_group("cpu") as found:
        yield found


def slow_batches(seconds):
    while True:
        time.sleep(seconds)  # whatever it is: decoding, views, a queue that is empty
        yield (torch.tensor(1.0),)


def beat(meter):
    return meter.heartbeat(
        RankStatus(False, False, False), np.zeros((len(meter.steps), 8), dtype=np.int64), 0
    )


def test_all_the_time_between_asking_for_a_batch_and_having_it_is_wait(place):
    meter = Meter(place, 4, 8)
    train_step(Engine(), slow_batches(0.05), 1, 2, meter, Dog())
    assert 0.1 <= meter.waited < 0.2
    time.sleep(0.1)
    found = beat(meter)
    assert 0.3 < found.data_wait < 0.7 and found.norms == [2.0] and meter.waited == 0
    train_step(Engine(), iter([(torch.tensor(1.0),)]), 2, 1, meter, Dog())
    assert beat(meter).data_wait < 0.5


def test_utilisation_is_the_share_of_full_speed_and_left_out_where_that_is_unknown(place):
    for full_speed in (0.0, 1000.0):
        meter = Meter(place, 4, 8, full_speed)
        train_step(Engine(), slow_batches(0.01), 1, 1, meter, Dog())
        found = beat(meter)
        assert found.speed.get("mfu") == (found.images_per_second / 1000 if full_speed else None)


def test_a_run_writes_its_utilisation(tmp_path):
    shards = write_shards(tmp_path / "shards", 12)
    scemae(
        "pretrain",
        *TINY,
        "optim.global_batch_size=6",
        "optim.epochs=1",
        "optim.warmup_epochs=0",
        "loop.log_every=1",
        "loop.save_every=2",
        "runtime.device=cpu",
        f"data.shards={shards}",
        f"run_dir={tmp_path / 'run'}",
    )
    rows = [row for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert len(rows) == 2 and all(0 < row["mfu"] < 1 and 0 <= row["data_wait"] <= 1 for row in rows)
