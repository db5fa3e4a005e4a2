"""The stages of a run as a chain of jobs: their commands, the snapshot of the code, chain.json."""

import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import scemae
from scemae.config.load import compose_yaml, load_config, to_yaml
from scemae.config.locations import masked_all
from scemae.config.schema.jobs import SubmitConfig
from scemae.errors import ConfigError
from scemae.files import disk, documents
from scemae.files.documents import Count, Job

STAGES = ("shards", "pretrain", "correspond", "evaluate")
LAST = "manifest"  # the job after an array that builds shards: what is missing, and the manifest
CODE, CHAIN, JOBS = "code", "chain.json", "jobs"


@dataclass
class Stage:
    """One job, or an array of jobs: `scemae` with these arguments on `nodes` x `ranks`."""

    name: str
    arguments: list[str]
    folder: str  # of its results
    nodes: Count
    ranks: Count  # per node
    gpus: Count  # per node
    saves: bool  # asked to stop, it saves and ends with 75; else it starts from scratch again
    after: str = "afterok"  # how the stage before it must have ended; afterany: in any way
    job_id: Job = ""  # once it is submitted


@dataclass
class ChainRecord:
    """chain.json."""

    kind: Literal["batch", "local"]
    stages: list[Stage]


def plan(config: SubmitConfig) -> list[Stage]:
    """The stages in order; each reads what the one before it writes. Raises ConfigError."""
    if unknown := sorted(set(config.stages) - set(STAGES)):
        raise ConfigError(f"stages: found {unknown[0]!r}, there are {', '.join(STAGES)}")
    if not config.stages:
        raise ConfigError(f"stages: found none, at least one of {', '.join(STAGES)} was needed")
    stages = [_stage(config, name) for name in STAGES if name in config.stages]
    if config.parts == 1:
        return stages
    if stages[0].name != "shards" or "--part" in config.shards:
        raise ConfigError(
            f"parts: found {config.parts}, which is for stages=[shards,...], each job of which "
            "gets its own --part; leave one of them out"
        )
    return [stages[0], replace(stages[0], name=LAST), *stages[1:]]


def parts_of(config: SubmitConfig, stages: list[Stage]) -> dict[str, list[Stage]]:
    """The elements of the array that builds the shards, by the name of its stage."""
    if config.parts == 1:
        return {}
    words = stages[0].arguments
    parts = (f"{number}/{config.parts}" for number in range(1, config.parts + 1))
    found = [replace(stages[0], arguments=[*words, "--part", part]) for part in parts]
    return {stages[0].name: found}


def _stage(config: SubmitConfig, name: str) -> Stage:
    cluster = config.cluster
    if name == "shards":
        if len(config.shards) < 3:
            raise ConfigError(
                f"shards: found {config.shards}; give the arguments of `scemae shards build`, such "
                "as shards=[celeba,/data/CelebA,data/celeba], or leave the stage out"
            )
        arguments = ["shards", "build", *config.shards]
        return Stage(name, arguments, config.shards[2], 1, 1, 0, saves=True)
    folder = str(Path(config.run_dir).absolute() / name)
    settings = [*_run_folders(config, name), *getattr(config, name)]
    load_config(name, settings, typed=True)  # finds a wrong setting now, not when the job starts
    if name == "evaluate":
        gpus = min(cluster.gpus_per_node, 1)
        return Stage(name, [name, *settings], folder, 1, 1, gpus, saves=False)
    place = cluster.nodes, cluster.ranks_per_node, cluster.gpus_per_node
    return Stage(name, [name, *settings], folder, *place, saves=True)


def _run_folders(config: SubmitConfig, name: str) -> list[str]:
    """The settings with the run folder of a stage and of those it reads.

    Never a checkpoint: a restarted job has to find the newest itself.
    """
    run_dir = Path(config.run_dir).absolute()
    found = [f"run_dir={run_dir / name}"]
    if name in ("correspond", "evaluate") and "pretrain" in config.stages:
        found.append(f"backbone={run_dir / 'pretrain'}")
    if name == "evaluate" and "correspond" in config.stages:
        found.append(f"projector={run_dir / 'correspond'}")
    return found


def copy_code(run_dir: Path) -> None:
    """Copy code and configs to run_dir/code: later edits do not reach the jobs."""
    from scemae.runs.run_folder import commit

    code = run_dir / CODE
    if os.path.lexists(code) and not is_copy(code):
        raise ConfigError(
            f"{code}: found something that `scemae submit` did not make; move it, or choose "
            "another run_dir"
        )
    with disk.building(code) as aside:
        # Follows the links to shards, cluster and configs: the copy is like an installed package.
        source, bytecode = Path(scemae.__file__).parent, shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, aside / "scemae", ignore=bytecode)
        disk.write_text(aside / "COMMIT", commit() + "\n")
        disk.remove_tree(code, run_dir)


def is_copy(code: Path) -> bool:
    """True where a folder is what `copy_code` makes, so that it may be removed."""
    is_folder = not code.is_symlink() and code.is_dir()
    return is_folder and {path.name for path in code.iterdir()} == {"scemae", "COMMIT"}


def make_jobs(run_dir: Path) -> Path:
    """The folder of jobs and logs, in which submitit writes.

    Raises FileError where it, or something in it, is a link.
    """
    folder = disk.make_folders(run_dir / JOBS, run_dir)
    for path in folder.iterdir():
        disk.refuse_link(path)
    return folder


def snapshot(config: SubmitConfig, stages: list[Stage]) -> None:
    """Copy the code and write the complete settings of each stage."""
    run_dir = Path(config.run_dir).absolute()
    copy_code(run_dir)
    disk.write_text(run_dir / "submit.yaml", to_yaml(config))
    for stage in stages:
        if stage.name not in ("shards", LAST):
            text = compose_yaml(stage.name, stage.arguments[1:])
            disk.write_text(run_dir / f"{stage.name}.yaml", text)


def write(run_dir: Path, kind: str, stages: list[Stage]) -> None:
    """Record the chain in run_dir/chain.json."""
    listed = masked_all([asdict(stage) for stage in stages])
    disk.write_json(run_dir / CHAIN, {"kind": kind, "stages": listed})


def read(run_dir: Path) -> tuple[str, list[Stage]]:
    """The kind ("batch" or "local") and stages of the chain in run_dir. Raises ConfigError."""
    path, remedy = run_dir / CHAIN, "give the run_dir of an earlier `scemae submit`"
    if not path.is_file():
        raise ConfigError(f"{run_dir}: found no {CHAIN}; {remedy}")
    record = documents.read_json(path, ChainRecord, error=ConfigError, remedy=remedy)
    return record.kind, record.stages
