"""The benchmarks run and say what they claim to; nothing here is timed."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bench import __main__ as bench
from bench import growth, profile, runs, soak
from tests.support import REPO, write_shards

HELP = """
import contextlib, io, json, runpy, sys
from bench.__main__ import COMMANDS
found = {}
for command in COMMANDS:
    sys.argv = ["bench", command, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module("bench", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            found[command] = [end.code, out.getvalue()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def helps():
    """Exit status and output of `python -m bench COMMAND --help` by command, from one process."""
    done = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, cwd=REPO, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", sorted(bench.COMMANDS))
def test_every_command_teaches(command, helps):
    status, text = helps[command]
    assert status == 0 and "usage" in text.lower() and "python -m bench" in text


@pytest.mark.parametrize(
    "kernel,kind",
    [
        ("triton_red_fused_native_layer_norm_addmm_gelu_0", "fused by the compiler"),
        ("triton_poi_fused__softmax_mul_1", "fused by the compiler"),
        ("sm90_xmma_gemm_bf16bf16", "matrix products"),
        ("flash_fwd_kernel", "attention"),
    ],
)
def test_a_fused_kernel_is_not_counted_as_what_it_fuses(kernel, kind):
    assert profile.kind_of(kernel) == kind


def test_a_line_of_growth_comes_from_a_real_run(tmp_path, monkeypatch):
    shards = write_shards(tmp_path / "shards", 40)
    monkeypatch.setattr(growth.faces, "shards", lambda count: shards)
    row = growth.line(tmp_path, "batch", 40, 8, 1, steps=2)
    assert row["images"] == 40 and row["images/s"] > 0 and row["memory of a rank, GiB"] > 0


def test_the_soak_sees_a_leak_and_sees_none():
    seconds = np.arange(300.0)
    beats = [{"step": 10 * i, "time": i, "images_per_second": 100.0} for i in range(1, 60)]
    flat, leak = (
        soak.fit(np.stack([seconds, 500 + rise * seconds], 1), beats, 64) for rise in (0, 1)
    )
    assert flat["MiB per 100 epochs"] == pytest.approx(0, abs=1e-6)
    assert leak["MiB per 100 epochs"] == pytest.approx(100 * 299 / (590 * 64 / 64))


def test_the_error_of_a_failed_run_shows_its_last_output(tmp_path):
    with pytest.raises(RuntimeError, match="no-such-shards"):
        runs.finished(tmp_path / "run", tmp_path / "no-such-shards")
