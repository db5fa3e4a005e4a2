"""The stages of a run as a chain of jobs: what each runs, the snapshot it runs from, and chain.json, its record."""

import os
import shutil
from dataclasses import asdict, dataclass
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
CODE, CHAIN, JOBS = "code", "chain.json", "jobs"


@dataclass
class Stage:
    """One job: `scemae` with these arguments, on `nodes` x `ranks` of them; job_id once it is submitted."""

    name: str
    arguments: list[str]
    folder: str  # where its results go
    nodes: Count
    ranks: Count  # per node
    gpus: Count  # per node
    saves: bool  # asked to leave, it saves and ends with 75; otherwise it starts anew
    after: str = "afterok"  # how the stage before it must have ended; afterany: however
    job_id: Job = ""


@dataclass
class ChainRecord:
    """chain.json."""

    kind: Literal["batch", "local"]
    stages: list[Stage]


def plan(config: SubmitConfig) -> list[Stage]:
    """The stages in order, each reading what the one before it writes. Raises ConfigError where one would fail."""
    if unknown := sorted(set(config.stages) - set(STAGES)):
        raise ConfigError(f"stages: found {unknown[0]!r}, there are {', '.join(STAGES)}")
    if not config.stages:
        raise ConfigError(f"stages: found none, at least one of {', '.join(STAGES)} was needed")
    return [_stage(config, name) for name in STAGES if name in config.stages]


def _stage(config: SubmitConfig, name: str) -> Stage:
    cluster = config.cluster
    if name == "shards":
        if len(config.shards) < 3:
            raise ConfigError(
                f"shards: found {config.shards}; give the arguments of `scemae shards build`, such as "
                "shards=[celeba,/data/CelebA,data/celeba], or leave the stage out"
            )
        return Stage(
            name, ["shards", "build", *config.shards], config.shards[2], 1, 1, 0, saves=True
        )
    folder = Path(config.run_dir).absolute() / name
    overrides = [*_links(config, name), *getattr(config, name)]
    load_config(
        name, overrides, typed=True
    )  # a wrong setting is found now, not when the job starts
    if name == "evaluate":
        return Stage(
            name, [name, *overrides], str(folder), 1, 1, min(cluster.gpus_per_node, 1), saves=False
        )
    return Stage(
        name,
        [name, *overrides],
        str(folder),
        cluster.nodes,
        cluster.ranks_per_node,
        cluster.gpus_per_node,
        saves=True,
    )


def _links(config: SubmitConfig, name: str) -> list[str]:
    """The run folder of a stage and those it reads: never a checkpoint, a restarted job finds the newest itself."""
    run_dir = Path(config.run_dir).absolute()
    links = [f"run_dir={run_dir / name}"]
    if name in ("correspond", "evaluate") and "pretrain" in config.stages:
        links.append(f"backbone={run_dir / 'pretrain'}")
    if name == "evaluate" and "correspond" in config.stages:
        links.append(f"projector={run_dir / 'correspond'}")
    return links


def copy_code(run_dir: Path) -> None:
    """Copy code and configs to run_dir/code: what is edited later reaches no job."""
    from scemae.runs.run_folder import commit

    code = run_dir / CODE
    if os.path.lexists(code) and not is_copy(code):
        raise ConfigError(
            f"{code}: found what no `scemae submit` has made; move it, or choose another run_dir"
        )
    with disk.building(code) as aside:
        # links to shards, cluster and configs are followed: the copy is laid out as an installed package
        shutil.copytree(
            Path(scemae.__file__).parent,
            aside / "scemae",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        disk.write_text(aside / "COMMIT", commit() + "\n")
        disk.remove_tree(code, run_dir)


def is_copy(code: Path) -> bool:
    """True where a folder is what `copy_code` makes, and nothing of its user's: it may be removed."""
    return (
        not code.is_symlink()
        and code.is_dir()
        and {path.name for path in code.iterdir()} == {"scemae", "COMMIT"}
    )


def make_jobs(run_dir: Path) -> Path:
    """The folder of jobs and logs, in which submitit writes. Raises FileError where it, or something in it, is a link."""
    folder = disk.make_folders(run_dir / JOBS, run_dir)
    for path in folder.iterdir():
        disk.refuse_link(path)
    return folder


def snapshot(config: SubmitConfig, stages: list[Stage]) -> None:
    """Copy the code and write every resolved config."""
    run_dir = Path(config.run_dir).absolute()
    copy_code(run_dir)
    disk.write_text(run_dir / "submit.yaml", to_yaml(config))
    for stage in stages:
        if stage.name != "shards":
            resolved = compose_yaml(stage.name, stage.arguments[1:])
            disk.write_text(run_dir / f"{stage.name}.yaml", resolved)


def write(run_dir: Path, kind: str, stages: list[Stage]) -> None:
    """ChainRecord the chain in run_dir/chain.json."""
    listed = masked_all([asdict(stage) for stage in stages])
    disk.write_json(run_dir / CHAIN, {"kind": kind, "stages": listed})


def read(run_dir: Path) -> tuple[str, list[Stage]]:
    """The kind ("batch" or "local") and stages of the chain in run_dir. Raises ConfigError where there is none."""
    path = run_dir / CHAIN
    if not path.is_file():
        raise ConfigError(
            f"{run_dir}: found no {CHAIN}; give the run_dir of an earlier `scemae submit`"
        )
    record = documents.read_json(
        path,
        ChainRecord,
        error=ConfigError,
        remedy="give the run_dir of an earlier `scemae submit`",
    )
    return record.kind, record.stages
