"""Run and sweep folders of others: settings, provenance, results, ledgers, trials, chains."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from scemae.cluster import chain, status
from scemae.config.load import _in_file, configs_dir, load_config
from scemae.data.storage.manifest import read_manifest
from scemae.evaluation.landmarks.benchmarks import find_benchmark
from scemae.evaluation.report import report
from scemae.evaluation.tables.cells import Cell, Row, Tables, from_json, to_json
from scemae.methods import mae
from scemae.runs import goodput, lineage, run_folder, verify
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.checkpoint import TrainState
from scemae.runs.checkpoints.tensor_file import write_tensors
from scemae.runs.generation_files import LEDGER, METRICS
from scemae.runs.metrics_log import read_metrics
from scemae.shards.sources import folder as any_folder
from scemae.shards.write import write_split
from scemae.sweep import spec, sweep_folder, trials
from scemae.sweep.page import results
from tests.fuzz.of_sources import make_pictures
from tests.fuzz.target import Target
from tests.fuzz.trees import mutate_json, mutate_rows, mutate_yaml
from tests.support import TINY, write_shards

STEP = "checkpoints/step-00000007.g0001"
ESTIMATE = {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 8}
RESULTS = {
    "matching": {
        "methods": {
            name: {"same": ESTIMATE, "different": ESTIMATE} for name in ("raw pixels", "MAE")
        },
        "comparisons": [{"difference": ESTIMATE, "wins": 1, "ties": 0, "is_decided": False}] * 2,
        "couples": 4,
        "couples_of_one_identity": 0,
        "shards": "../in/shards",
        "pairs_hash": "0" * 64,
        "stride": 2,
        "seed": 0,
        "data_digest": "0" * 64,
        "source_options": {},
    },
    "detection": {
        "benchmark": "mafl",
        "train_images": 8,
        "test_images": 8,
        "test_shards": "../in/shards",
        "is_subset": True,
        "stride": 2,
        "schedule": {"epochs": 1, "batch": 4, "lr": 0.1},
        "paper_targets": {"T": 4.0},
        "methods": {"MAE": {"error": ESTIMATE}},
    },
}


def make(root: Path) -> None:
    """A run of stage 1 with one checkpoint, and an evaluation of it."""
    data_digest = read_manifest(write_shards(root / "shards", 4, shards=1)).digest()
    settings = load_config(
        "pretrain",
        [
            *TINY,
            "model.width=24",
            "decoder.width=16",
            f"run_dir={root / 'mae'}",
            "data.shards=../in/shards",
            "optim.global_batch_size=4",
        ],
    )
    model = mae.build(mae.Settings(settings.model, settings.decoder, 0.75, False), seed=0)
    kept = {
        "model": asdict(settings.model),
        "decoder": asdict(settings.decoder),
        "mask_ratio": 0.75,
        "norm_pix": False,
    }
    step = root / "mae" / STEP
    step.mkdir(parents=True)
    written = write_tensors(
        step / checkpoint.WEIGHTS,
        {name: value.detach().numpy() for name, value in model.state_dict().items()},
        {"format": "pt"},
    )
    checkpoint.write_state(
        step, TrainState(7, 0, 1, 0, "pretrain", kept, data_digest, 1, files=[asdict(written)])
    )
    rows = [
        {
            "step": step,
            "loss": 2 / step,
            "lr": 1e-3,
            "images_per_second": 10.0,
            "time": 4e9 + step,
            "seconds": 1.0,
            "data_wait": 0.1,
        }
        for step in range(1, 8)
    ]
    with run_folder.own(root / "mae", "pretrain") as generation:
        generation.record_base(0)
        (generation.folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        (generation.folder / LEDGER).write_text(
            "".join(
                json.dumps({"step": row["step"], "digest": "0" * 32, "replaced": {"a": "b"}}) + "\n"
                for row in rows
            )
        )
        run_folder.describe(
            root / "mae",
            "pretrain",
            settings,
            seed=0,
            data_digest=data_digest,
            images=4,
            total_steps=7,
        )
    evaluated = load_config(
        "evaluate",
        [
            f"run_dir={root / 'eval'}",
            "backbone=../in/mae",
            "matching.shards=../in/shards",
            "runtime.device=cpu",
        ],
    )
    (root / "eval").mkdir()
    run_folder.describe(root / "eval", "evaluate", evaluated, backbone=f"../in/mae/{STEP}")
    (root / "eval" / "results.json").write_text(json.dumps(RESULTS))


def read_lineage(root: Path) -> None:
    """Read an evaluation, the runs it was made from and its results, as every command does."""
    run = lineage.read_run(root / "eval")
    runs, _ = lineage.related(run)
    lineage.data_of(runs)
    lineage.read_results(run)


def page(root: Path) -> None:
    """`scemae report --no-pictures`"""
    found, images = report.gather(root / "eval", with_pictures=False)
    report.render(found, images)


def ledger(root: Path) -> None:
    """What `scemae verify-resume` and `scemae goodput` read."""
    verify.read_rows(root / "mae")
    verify.check_plan(verify.read_plan(root / "mae", None), 7)


def spent(root: Path) -> None:
    """`scemae goodput`"""
    goodput.read(root / "mae")
    read_metrics(root / "mae")


def make_sweep(root: Path) -> None:
    """A sweep with one trial that has ended, and one that has not."""
    write_shards(root / "shards", 4, shards=1)
    opened = spec.load(
        [
            f"run_dir={root / 'sweep'}",
            "space=own",
            "space.stage=pretrain",
            "space.parameters.optim.lr.low=1e-5",
            "space.parameters.optim.lr.high=1e-3",
            "trials=2",
            *(
                f"pretrain.{word}"
                for word in (
                    *TINY,
                    f"data.shards={root / 'shards'}",
                    f"probe_shards={root / 'shards'}",
                )
            ),
        ]
    )
    opened.folder.mkdir()
    sweep_folder.claim(opened)
    trial = trials.Trial(0, {"optim.lr": 1e-4}, trials.PAPER)
    trials.write_trial(opened.folder, trial)
    trials.write_trial(opened.folder, trials.Trial(1, {"optim.lr": 2e-4}, trials.RANDOM))
    run = trial.folder(opened.folder) / "run" / "generations" / "0001"
    run.mkdir(parents=True)
    (run / "base.json").write_text('{"step": 0}')
    (run / METRICS).write_text(
        "".join(
            json.dumps({"step": step, "probe_different": 1 / step, "probe_same": 0.5}) + "\n"
            for step in (1, 2)
        )
    )
    trials.end_trial(opened.folder, trial, trials.FINISHED)
    for name in ("sweep.json", "sweep.yaml"):  # it is copied to where it is tried
        (opened.folder / name).write_text(
            (opened.folder / name).read_text().replace(str(root), "../in")
        )


def sweep_page(root: Path) -> None:
    """`scemae sweep --page`, but for its drawings."""
    opened = sweep_folder.reopen(root / "sweep")
    records = opened.records()
    results.facts(opened, records)
    results.closing_lines(opened)


def make_chain(root: Path) -> None:
    """A chain of two jobs."""
    stages = [
        chain.Stage(
            "pretrain",
            ["pretrain", "run_dir=x"],
            str(root / "pretrain"),
            1,
            1,
            0,
            saves=True,
            job_id="1",
        ),
        chain.Stage(
            "evaluate",
            ["evaluate", "run_dir=x"],
            str(root / "evaluate"),
            1,
            1,
            0,
            saves=False,
            job_id="2",
        ),
    ]
    (root / "jobs").mkdir()
    chain.write(root, "local", stages)


def chain_status(root: Path) -> None:
    """`scemae submit --status`, without asking the scheduler."""
    _, stages = chain.read(root)
    for stage in stages:
        status.progress(stage)


def make_build(root: Path) -> None:
    """Shards of a folder, finished, with the records that a later start reads."""
    (root / "pictures").mkdir()
    make_pictures(root / "pictures")
    write_split(any_folder.splits(root / "pictures")[0], root / "built", samples_per_shard=2)
    (root / "built" / "train-000001.tar").unlink()


def resume_build(root: Path) -> None:
    """Resume a build."""
    write_split(any_folder.splits(root / "pictures")[0], root / "built", samples_per_shard=2)


def make_settings(root: Path) -> None:
    """An experiment file and a benchmark file of one's own."""
    folder = configs_dir()
    (root / "mine.yaml").write_text(
        "optim:\n  epochs: 3\n  lr: 1.0e-4\nloop:\n  keep: 2\nmodel:\n  width: 48\n"
        "data:\n  scale: [0.2, 1.0]\nmask_ratio: 0.7\n"
    )
    shutil.copy(folder / "benchmark" / "mafl.yaml", root / "faces.yaml")


def experiment(root: Path) -> None:
    """`experiment=FILE.yaml`"""
    load_config("pretrain", ["run_dir=r", "data.shards=s", f"experiment={root / 'mine.yaml'}"])


def read_experiment(root: Path) -> None:
    """The same file as far as its settings."""
    _in_file("pretrain", "experiment", str(root / "mine.yaml"))


def benchmark(root: Path) -> None:
    """`detection.benchmark=FILE.yaml`"""
    find_benchmark.cache_clear()
    find_benchmark(str(root / "faces.yaml"))


def make_tables(root: Path) -> None:
    """tables.json with one row."""
    row = Row(
        1,
        "SCE-MAE",
        "DeiT-T",
        "ours",
        1,
        64,
        {"same": Cell(1.0, 0.5, 1.5, 0.1, 8), "different": Cell(missing="no shards")},
    )
    (root / "tables.json").write_text(to_json(Tables(rows=[row])))


def tables(root: Path) -> None:
    """Read tables.json and make the pages of it again."""
    from_json((root / "tables.json").read_text(encoding="utf8", errors="replace"))


RUN = {
    "eval/config.yaml": mutate_yaml,
    "mae/config.yaml": mutate_yaml,
    "eval/provenance.json": mutate_json,
    "mae/provenance.json": mutate_json,
    "eval/results.json": mutate_json,
}
ROWS = {
    f"mae/generations/0001/{name}": mutate
    for name, mutate in (
        (METRICS, mutate_rows),
        (LEDGER, mutate_rows),
        ("base.json", mutate_json),
        ("owner.json", mutate_json),
    )
}
TARGETS = (
    Target("run-folder", make, RUN, (read_lineage,), 500),
    Target("report", make, RUN, (page,), 60),
    Target("run-rows", make, {**ROWS, "mae/config.yaml": mutate_yaml}, (ledger, spent), 2_000),
    Target(
        "sweep",
        make_sweep,
        {
            "sweep/sweep.json": mutate_json,
            "sweep/trials/000000/trial.json": mutate_json,
            "sweep/trials/000000/end.json": mutate_json,
            "sweep/sweep.yaml": mutate_yaml,
            f"sweep/trials/000000/run/generations/0001/{METRICS}": mutate_rows,
        },
        (sweep_page,),
        60,
    ),
    Target("chain", make_chain, {"chain.json": mutate_json}, (chain_status,), 10_000),
    Target(
        "build-plan",
        make_build,
        {"built/.build/plan.json": mutate_json, "built/.build/train-000000.json": mutate_json},
        (resume_build,),
        500,
    ),
    Target("experiment", make_settings, {"mine.yaml": mutate_yaml}, (experiment,), 60),
    Target("settings-file", make_settings, {"mine.yaml": mutate_yaml}, (read_experiment,), 2_000),
    Target("benchmark", make_settings, {"faces.yaml": mutate_yaml}, (benchmark,), 500),
    Target("tables", make_tables, {"tables.json": mutate_json}, (tables,), 8_000),
)
