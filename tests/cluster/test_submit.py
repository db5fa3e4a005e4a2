"""`scemae submit` without a cluster: dry runs, the snapshot, the local chain, errors."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scemae.cli import run_command
from scemae.cluster import chain, submit
from scemae.config.load import load_config
from scemae.errors import ConfigError
from tests.support import REPO, TINY, picture, scemae


def planned(run_dir, *words):
    """The stages of a chain, planned as the command does."""
    return chain.plan(load_config("submit", submit.gather([f"run_dir={run_dir}", *words])))


def test_settings_of_a_stage_are_gathered():
    words = submit.gather(
        [
            "run_dir=x",
            "pretrain.model=deit_tiny",
            "cluster.nodes=2",
            "pretrain.data.scale=[0.2,1.0]",
        ]
    )
    assert words == [
        "run_dir=x",
        "cluster.nodes=2",
        'pretrain=["model=deit_tiny","data.scale=[0.2,1.0]"]',
    ]
    loaded = load_config("submit", words)
    assert (
        loaded.pretrain == ["model=deit_tiny", "data.scale=[0.2,1.0]"] and loaded.cluster.nodes == 2
    )


def test_each_stage_reads_the_run_folder_of_the_one_before_it(tmp_path):
    shards, pretrain, correspond, evaluate = planned(
        tmp_path,
        "stages=[evaluate,correspond,pretrain,shards]",
        "shards=[celeba,/data/CelebA,data/celeba]",
        "cluster.nodes=2",
        "cluster.ranks_per_node=8",
    )
    assert shards.arguments == ["shards", "build", "celeba", "/data/CelebA", "data/celeba"]
    assert (pretrain.nodes, pretrain.ranks, evaluate.nodes, evaluate.ranks) == (2, 8, 1, 1)
    assert correspond.arguments == [
        "correspond",
        f"run_dir={tmp_path}/correspond",
        f"backbone={tmp_path}/pretrain",
    ]
    assert evaluate.arguments[2:] == [
        f"backbone={tmp_path}/pretrain",
        f"projector={tmp_path}/correspond",
    ]


def test_a_dry_run_prints_the_jobs_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch and no srun here
    text = scemae(
        "submit",
        f"run_dir={tmp_path / 'run'}",
        "cluster.nodes=2",
        "cluster.ranks_per_node=8",
        "cluster.gpus_per_node=8",
        "cluster.account=faces",
        "cluster.setup=['module load cuda']",
        'cluster.options=["exclusive","constraint=a100"]',
        "pretrain.optim.epochs=20",
        "--dry-run",
    ).stdout
    jobs = text.split("#!/bin/bash")[1:]
    assert len(jobs) == 3 and not (tmp_path / "run").exists()
    for line in (
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--account=faces",
        "--signal=TERM@120",
        "--requeue",
        "--exclusive",
        "--constraint=a100",
    ):
        assert f"#SBATCH {line}\n" in jobs[0]
    assert "module load cuda\n" in jobs[0] and "srun" not in jobs[0]
    assert (
        "--dependency=afterok:JOB_OF_PRETRAIN\n" in jobs[1]
        and "--kill-on-invalid-dep=yes\n" in jobs[1]
    )
    assert "--dependency=afterok:JOB_OF_CORRESPOND\n" in jobs[2] and "TERM@" not in jobs[2]
    assert re.search(
        r"^# pretrain runs: bash .*/code/scemae/cluster/ranks.sh pretrain .*optim.epochs=20$",
        text,
        re.M,
    )


def test_parts_are_an_array_and_the_manifest_and_training_come_after_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch here
    words = ["stages=[shards,pretrain]", "shards=[folder,/data/own,s3://bucket/own]", "parts=3"]
    text = scemae("submit", f"run_dir={tmp_path / 'run'}", *words, "--dry-run").stdout
    array, manifest, training = text.split("#!/bin/bash")[1:]
    assert re.search(r"^# shards runs: .*ranks.sh shards build folder /data/own s3://", text, re.M)
    assert "# as an array of 3: element k adds --part k/3\n" in array
    assert "--dependency" not in array and "array of" not in manifest
    assert "--dependency=afterok:JOB_OF_SHARDS\n" in manifest
    assert "--dependency=afterok:JOB_OF_MANIFEST\n" in training
    assert not (tmp_path / "run").exists()
    config = load_config("submit", [f"run_dir={tmp_path}", *words])
    (elements,) = chain.parts_of(config, chain.plan(config)).values()
    assert [one.arguments[2:] for one in elements] == [
        ["folder", "/data/own", "s3://bucket/own", "--part", f"{k}/3"] for k in (1, 2, 3)
    ]


def test_parts_and_the_manifest_run_here_one_after_the_other(tmp_path):
    photographs, run = tmp_path / "photographs", tmp_path / "run"
    photographs.mkdir()
    for i in range(6):
        picture(i).save(photographs / f"{i}.jpg")
    words = f"{photographs},{tmp_path / 'out'},--samples-per-shard,1,--workers,1"
    command = ["submit", f"run_dir={run}", "cluster=local", "stages=[shards]", "parts=2"]
    scemae(*command, f"shards=[folder,{words}]")
    logs = [path.read_text() for path in (run / "jobs").glob("*_log.out")]
    assert sorted(re.findall(r"part \d/\d is written \(0", "".join(logs))) == [
        "part 1/2 is written (0",
        "part 2/2 is written (0",
    ]
    assert "(6 finished earlier and kept, 0 written now)" in "".join(logs)
    printed = scemae("submit", "--status", run).stdout
    assert re.search(r"^manifest +\d+ +COMPLETED +train in ", printed, re.M), printed


def test_jobs_run_from_a_snapshot(tmp_path):
    loaded = load_config("submit", [f"run_dir={tmp_path}", "stages=[pretrain]"])
    chain.snapshot(loaded, chain.plan(loaded))
    code = tmp_path / "code"
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import scemae, scemae.shards.write as s, scemae.cluster.submit as c\n"
            "import scemae.config.load as f\n"
            "print(scemae.__file__, s.__file__, c.__file__, f.configs_dir(), sep='\\n')",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(code)},
    ).stdout
    assert all(line.startswith(f"{code}/scemae/") for line in found.splitlines()), found
    assert (
        "epochs: 400" in (tmp_path / "pretrain.yaml").read_text()
        and (code / "COMMIT").read_text().strip()
    )


@pytest.mark.slow
def test_the_local_chain_runs_one_stage_after_the_other(tmp_path):
    """Shards of photographs, then two ranks that train on them; a failed stage ends the chain."""
    photographs, shards = tmp_path / "photographs", tmp_path / "shards"
    photographs.mkdir()
    for i in range(8):
        picture(i).save(photographs / f"{i}.jpg")
    words = [
        *TINY,
        f"data.shards={shards / 'train'}",
        "optim.global_batch_size=4",
        "optim.epochs=1",
        "loop.log_every=1",
        "loop.save_every=2",
        "runtime.device=cpu",
    ]
    command = [
        "submit",
        f"run_dir={tmp_path / 'run'}",
        "cluster=local",
        "cluster.ranks_per_node=2",
        "stages=[shards,pretrain]",
        f"shards=[folder,{photographs},{shards}]",
        *(f"pretrain.{word}" for word in words),
    ]
    scemae(*command)
    printed = scemae("submit", "--status", tmp_path / "run").stdout
    assert re.search(r"^shards +\d+ +COMPLETED +train in ", printed, re.M), printed
    assert re.search(r"^pretrain +\d+ +COMPLETED +saved at step 2 of 2$", printed, re.M), printed
    command[1] = f"run_dir={tmp_path / 'broken'}"
    command[5] = f"shards=[folder,{tmp_path / 'none'},{tmp_path / 'other'}]"
    broken = scemae(*command, check=False)
    assert broken.returncode == 1
    assert "shards: failed" in broken.stderr and "Traceback" not in broken.stderr
    assert not (tmp_path / "broken" / "pretrain").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["stages=[pretrian]"], "stages: found 'pretrian', there are shards, pretrain"),
        (["stages=[]"], "stages: found none"),
        (["stages=[shards]"], "shards: found []; give the arguments of `scemae shards build`"),
        (["stages=[correspond]"], "found no value for backbone"),
        (["parts=0"], "parts: found 0"),
        (["parts=2"], "parts: found 2, which is for stages=[shards,...]"),
        (
            ["stages=[shards]", "parts=2", "shards=[folder,a,b,--part,1/2]"],
            "parts: found 2, which is for stages=[shards,...]",
        ),
        (["pretrain.optim.epoch=3"], "found no setting 'optim.epoch', did you mean 'optim.epochs'"),
        (["cluster.nodes=0"], "cluster.nodes: found 0"),
        (["cluster.time=2"], "cluster: found time 2 minutes and signal 120 seconds"),
        (["cluster=local", "cluster.nodes=2"], "cluster.nodes: found 2 with cluster=local"),
        (["--fast"], "found --fast, which is no option"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_submitted(tmp_path, words, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        run_command(["submit", f"run_dir={tmp_path / 'run'}", *words])
    assert not (tmp_path / "run").exists()


def test_without_a_cluster_submitting_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = scemae("submit", f"run_dir={tmp_path / 'run'}", check=False)
    assert (
        refused.returncode == 1
        and "found no sbatch on PATH" in refused.stderr
        and not (tmp_path / "run").exists()
    )


def test_the_status_of_a_chain_that_was_never_submitted(tmp_path):
    refused = scemae("submit", "--status", tmp_path, check=False)
    assert refused.returncode == 1 and "found no chain.json" in refused.stderr


def test_the_job_scripts_are_sound_shell():
    for script in sorted((REPO / "cluster").glob("*.sh")):
        subprocess.run(["bash", "-n", script], check=True)
        assert Path(script).read_text().startswith("#!/bin/bash\n# ")
