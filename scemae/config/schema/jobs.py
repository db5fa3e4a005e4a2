"""Settings of what starts other commands: `scemae submit` and `scemae sweep`."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Cluster:
    """What `scemae submit` asks for each job."""

    # batch: jobs of the cluster's scheduler; local: one stage after the other on this machine
    kind: str
    account: str | None  # null: the scheduler's default, as for partition and qos
    partition: str | None  # of the cluster
    qos: str | None  # quality of service
    nodes: int  # of a training stage; shards and evaluate take one node and one rank
    ranks_per_node: int  # processes of a training stage on each node
    gpus_per_node: int  # 0: none is asked for
    cpus_per_task: int  # cores per rank
    mem: str | None  # per node, as the scheduler writes it: 64G
    time: int  # minutes until a job is stopped and queues again
    # seconds before that at which the ranks get the signal; they must save within this time
    signal: int
    max_restarts: int  # of each job
    container: str | None  # put before the program: "apptainer exec --nv image.sif"
    setup: list[str]  # shell lines before the ranks start: module loads
    options: list[str]  # any other option of the scheduler, without its dashes


@dataclass
class SubmitConfig:
    """`scemae submit`: a chain of jobs."""

    run_dir: str  # of the chain; each stage has its own folder in it
    stages: list[str]  # in their order: shards, pretrain, correspond, evaluate
    shards: list[str]  # arguments of `scemae shards build`
    parts: int  # jobs of an array that build them side by side; one more writes the manifest
    pretrain: list[str]  # key=value settings of `scemae pretrain`
    correspond: list[str]  # key=value settings of `scemae correspond`
    evaluate: list[str]  # key=value settings of `scemae evaluate`
    cluster: Cluster


@dataclass
class SpaceConfig:
    """What a sweep searches: a file of configs/space, or your own (sweep/space.py reads it)."""

    stage: str  # whose settings: pretrain or correspond
    # nested like those; at the leaves {low, high}, with step or log: true, or {values: [...]}
    parameters: dict[str, Any]
    constraints: list[str]  # such as "carb.r_att_att > carb.r_inatt_inatt"


@dataclass
class Halving:
    """Early stopping by asynchronous successive halving (ASHA) on the first objective."""

    enabled: bool  # false: every trial trains to its end
    grace: float  # share of a trial's training before it may be stopped
    reduction: int  # one of this many trials continues at each rung


@dataclass
class TrialResources:
    """What each trial of a sweep gets."""

    ranks: int  # processes, all on one node
    cpus: int  # cores per rank
    gpus: float  # per trial; a trial of one rank may share a GPU: 0.25


@dataclass
class SweepConfig:
    """`scemae sweep`."""

    run_dir: str  # folder of the sweep
    seed: int  # of the search
    search: str  # random, grid or tpe
    trials: int  # the paper's setting included
    # of different, same, cycle (evaluation/landmarks/probe.py); two search for the Pareto front
    objectives: list[str]
    halving: Halving
    trial: TrialResources
    concurrency: int | str  # trials at once; auto: as many as fit on the nodes that are there
    retries: int  # of a trial whose processes were killed, or whose node is gone
    # one store of the third block's tokens for all trials; false: one for each, for comparison
    share_tokens: bool
    keep: int  # best trials whose checkpoints stay; 0: those of all
    jobs: int  # elements of the job array, with --array
    space: SpaceConfig
    pretrain: list[str]  # key=value settings of every trial of that stage
    correspond: list[str]  # key=value settings of every trial of that stage
    cluster: Cluster  # of the jobs of --array
