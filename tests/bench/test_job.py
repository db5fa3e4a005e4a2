"""Long work on a borrowed machine: started, polled, continued, kept after each case."""

import json
import os
import subprocess
import sys
import tarfile
import time

import pytest

from bench import gpu, job, machine, needs
from scemae.config.load import load_config
from tests.support import REPO

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def wait_until(true, seconds=30):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_job_runs_in_the_background_and_is_polled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    flag, code = (
        tmp_path / "flag",
        "import sys, pathlib, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.02)",
    )
    command = [sys.executable, "-c", code, str(flag)]
    assert job.main(["start", str(tmp_path), *command]) == 0
    assert job.main(["poll", str(tmp_path)]) == job.RUNS == 75
    assert job.main(["start", str(tmp_path), *command]) == 0
    assert "runs already" in capsys.readouterr().out
    flag.touch()
    assert job.main(["poll", str(tmp_path), "--wait", "30"]) == 0
    assert "ended with 0" in capsys.readouterr().out


def test_a_job_is_stopped_with_all_its_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    job.main(
        [
            "start",
            str(tmp_path),
            sys.executable,
            "-m",
            "bench",
            "job",
            "case",
            str(tmp_path),
            "long",
            *SLEEP,
        ]
    )
    wait_until(lambda: "long" in [found["name"] for found in job.cases(tmp_path)])
    job.main(["stop", str(tmp_path)])
    assert job.main(["poll", str(tmp_path), "--wait", "30"]) == 1
    assert job.cases(tmp_path)[0]["status"] == -15 and "failed with -15" in capsys.readouterr().out


def test_a_case_that_is_done_is_not_done_again(tmp_path, capsys):
    command = ["sh", "-c", f"echo once >> {tmp_path}/said.txt"]
    assert [job.case(tmp_path, "say", command) for _ in range(3)] == [0, 0, 0]
    assert job.case(tmp_path, "fail", ["false"]) == job.case(tmp_path, "fail", ["false"]) == 1
    assert (tmp_path / "said.txt").read_text() == "once\n"
    assert (
        job.case(tmp_path, "say", [*command, "other"]) == 0
        and len((tmp_path / "said.txt").read_text().split()) == 2
    )


def test_a_program_that_is_missing_is_a_case_that_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    assert job.case(tmp_path, "one", ["true"]) == 0
    assert job.case(tmp_path, "one", ["no-such-program"]) == 127
    assert job.case(tmp_path, "two", ["true"], after=["one"]) == 0
    assert [job.state_of(found, False) for found in job.cases(tmp_path)] == [
        "failed with 127", "left out: needs one, which is not done"]  # fmt: skip
    assert job.main(["start", str(tmp_path / "job"), "no-such-program"]) == job.FAILED
    assert "could not be started" in capsys.readouterr().out


def test_a_case_that_lacks_something_is_left_out_and_says_why(tmp_path, capsys):
    assert job.main(["case", "--needs", "no_such_package", str(tmp_path), "moco", "false"]) == 0
    assert job.main(["case", "--after", "moco", str(tmp_path), "cl", "false"]) == 0
    reasons = {found["name"]: found["left_out"] for found in job.cases(tmp_path)}
    assert reasons == {
        "moco": "needs the package no_such_package",
        "cl": "needs moco, which is not done",
    }


def test_results_so_far_are_one_small_file(tmp_path, monkeypatch, capsys):
    for name, size in (
        ("metrics.jsonl", 10),
        ("ledger.jsonl", 5000),
        ("weights.safetensors", 10),
        ("face.png", 10),
    ):
        (tmp_path / name).write_bytes(b"x" * size)
    monkeypatch.setattr(job, "MOST", 4000)
    job.case(tmp_path, "one", ["true"])
    with tarfile.open(tmp_path / "results.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["cases/one.json", "metrics.jsonl"]
    assert "left out for their size: ledger.jsonl" in capsys.readouterr().out


def facts(commit="a"):
    return {"cpu": "c", "gpu": "g", "commit": commit, "date": str(time.time())}


def test_a_row_is_written_when_it_is_measured_and_replaces_its_own(tmp_path):
    for tier, speed in (("host", 1), ("streaming", 2), ("host", 3)):
        machine.add("recipe", tmp_path, {"tier": tier}, {"images/s": speed}, facts())
    rows = json.loads((tmp_path / "recipe.json").read_text())["rows"]
    assert rows == [{"tier": "streaming", "images/s": 2}, {"tier": "host", "images/s": 3}]
    machine.add("recipe", tmp_path, {"tier": "gpu"}, {"images/s": 4}, facts("another commit"))
    assert len(json.loads((tmp_path / "recipe.json").read_text())["rows"]) == 1


def test_a_measurement_that_fails_stops_none_of_the_others(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        job,
        "case",
        lambda out, name, command: asked.append(name) or int(name == "recipe-deit_tiny-auto-cpu"),
    )
    assert (
        gpu.main(
            [
                str(tmp_path / "shards"),
                "--part",
                "recipe",
                "--part",
                "loader",
                "--out",
                str(tmp_path),
            ]
        )
        == 1
    )
    assert len(asked) == 7 and asked[-1] == "loader"


@pytest.mark.parametrize("rehearse", [[], ["--rehearse"]], ids=["full", "rehearsal"])
def test_every_part_has_a_case(tmp_path, rehearse):
    options = gpu.parse([str(tmp_path), *rehearse])
    assert {name.partition("-")[0] for name in gpu.cases(options)} == set(gpu.PARTS)


RECORD = """#!%s -IS
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
"""


@pytest.mark.parametrize("mode", ["full", "rehearse"])
@pytest.mark.parametrize("script,stages", [("faces", 4), ("rivals", 16)])
def test_every_command_of_a_gpu_script_composes(tmp_path, monkeypatch, script, stages, mode):
    """The first of them to be misspelt would end an hour on a borrowed machine."""
    (tmp_path / "python3").write_text(RECORD % sys.executable)
    (tmp_path / "python3").chmod(0o755)
    for name, value in {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RECORD": str(tmp_path / "said"),
        "MODE": mode,
    }.items():
        monkeypatch.setenv(name, value)
    words = ["shards", str(tmp_path / "out"), *([mode] if script == "faces" else [])]
    subprocess.run(
        ["bash", REPO / f"docs/results/{script}-gpu.sh", *words], check=True, cwd=tmp_path
    )
    asked = [json.loads(line) for line in (tmp_path / "said").read_text().splitlines()]
    assert asked.pop(0) == ["-m", "bench", "needs"] and all(
        words[:4] == ["-m", "bench", "job", "case"] for words in asked
    )
    commands = [words[words.index("scemae") + 1 :] for words in asked]
    for name, *overrides in commands:
        if name != "report":
            load_config(name, overrides)
    assert len([name for name, *_ in commands if name != "report"]) == stages


def test_packages_that_a_checkout_lacks_are_named_before_the_work(monkeypatch, capsys):
    assert needs.main([]) == 0
    assert needs.lacking(["no-such-package>=1", "torch>=99", 'other>1; python_version < "3"']) == {
        "no-such-package": "absent; scemae needs no-such-package>=1",
        "torch": f"found {machine.version_of('torch')}; scemae needs torch>=99",
    }
    monkeypatch.setattr(
        needs, "lacking", lambda wanted: {"hydra-core": "absent; scemae needs hydra-core>=1.3.2"}
    )
    assert (
        needs.main([]) == 1
        and "found no hydra-core, which every command needs" in capsys.readouterr().out
    )
