"""The settings of each command as dataclasses: what there is, its type, and the paper's or PROTOCOL.md's word for it.

Sections by consequence: model, decoder, carb, data, optim and loop change results; runtime (device, precision, ZeRO
stage, workers) should not. Defaults live in configs/*.yaml alone; [U] marks what the paper leaves open (PROTOCOL 1.6).
"""

from dataclasses import dataclass
from typing import Any


@dataclass
class Model:
    """The encoder. DeiT: T 192/3, S 384/6, B 768/12 wide/heads, 12 deep (PROTOCOL 1.3, 2.3)."""

    name: str
    width: int
    depth: int
    heads: int
    patch_size: int
    image_size: int


@dataclass
class Decoder:
    """The MAE decoder (PROTOCOL 1.6, 2.3): 512 wide, 8 deep, 16 heads unless a light one is asked for."""

    name: str
    width: int
    depth: int
    heads: int


@dataclass
class Data:
    """Shards to train on, and the image augmentation."""

    shards: str
    cache_dir: str | None  # where shards named by a URL are copied
    frame: int  # side of the square frame that crops are taken from, in pixels
    scale: list[float]  # RandomResizedCrop's share of the area
    jpeg_noise: bool
    decoder: str  # cpu, or nvjpeg: streams through the GPU's decoder, whose pixels differ by some grey levels
    max_bad_fraction: float  # of an epoch's images that may be replaced for being no whole JPEG


@dataclass
class Optim:
    """The optimizer's settings; lr is absolute (PROTOCOL 2.1)."""

    name: str  # adamw, adam (with L2), or sgd, whose momentum is betas[0]
    lr: float
    betas: list[float]
    weight_decay: float
    warmup_epochs: float
    min_lr: float
    clip_grad: float  # 0: none
    epochs: float
    global_batch_size: int


@dataclass
class Loop:
    """How often things happen, in global steps."""

    log_every: int
    save_every: int
    keep: int  # newest checkpoints that stay
    keep_every: int  # steps whose multiples stay as well; 0: none
    probe_every: int  # 0: never
    probe_pairs: int
    spike_factor: (
        float  # a loss above so many times the median of the last 100 steps is left out; 0: never
    )
    max_skips: int  # steps that may be left out for a bad loss
    ledger_keys: bool  # the keys of every sample in the ledger too


@dataclass
class Runtime:
    """Where and how it runs; results should not depend on it beyond rounding."""

    device: str  # auto, cpu or cuda
    precision: str  # auto (bf16 on cuda, fp32 on cpu), fp32, bf16, or tf32: fp32, but for products and convolutions on cuda
    zero_stage: str | int  # 0 to 3; auto: 1, or 0 where there is one rank
    offload: bool  # optimizer state in host memory
    compile: (
        str | bool
    )  # true, false, or auto: torch.compile on cuda, but for methods whose graph is too large
    micro_batch_size: int  # images per rank and micro-step, at most
    workers: (
        str | int
    )  # threads per rank that decode, and on a CPU cut views; auto: its share of the cores, 16 at most
    tier: str  # frames resident on the "gpu" or the "host", or "streaming" from the shards; auto: the first that fits
    hang_seconds: float  # a rank that makes no progress for so long ends, and the job starts again


@dataclass
class Method:
    """Whose method a stage follows: a file of scemae/methods, or "mae" and "carb", which the paper's own stages are."""

    name: str
    settings: dict[str, Any]  # of that file's `Settings`


@dataclass
class PretrainConfig:
    """Stage 1: `scemae pretrain`."""

    run_dir: str
    seed: int
    init_from: str | None
    mask_ratio: float
    norm_pix: bool
    probe_shards: str | None  # shards with landmarks and identities other than the training set's
    method: Method
    model: Model  # of MAE, as mask_ratio, norm_pix and decoder
    decoder: Decoder
    data: Data
    optim: Optim
    loop: Loop
    runtime: Runtime


@dataclass
class Carb:
    """CARB and the LCR loss (paper 3.2 and 3.3); [U] in PROTOCOL 1.6: a choice of ours."""

    eta: float  # share of attentive tokens; 0.25 for B (paper 4)
    clusters: int  # K_c (paper 4)
    r_att_att: float  # Eq. 6 (paper 4)
    r_att_inatt: float
    r_inatt_inatt: float
    tau: float  # Eq. 4 [U]; 1/8 for 64 dimensions
    dim: int  # of the projected features
    projector: str  # [U] linear, spatial_softmax, conv3, mlp
    place_unit: str  # f_loc in "grid" cells or "pixels" [U]
    reduction: str  # over i in Eq. 7: "mean" [U] or "sum" (as printed)
    heads: str  # Eq. 1 per head, then "mean" [U], or "joint" (as printed)
    layer: str  # Eq. 1 from the block "after" the third or "inside" it [U]
    density: str  # Eq. 2 over all tokens ("mean") or the nearest 5 ("knn") [U]
    remaining: str  # CLS and T ("selected") or "all" tokens through blocks 4-12 [U]
    aggregate: bool  # a centre stands for its members by itself, or as their mean [U]


@dataclass
class Store:
    """Where the frozen backbone's tokens are kept (training/token_store.py)."""

    dir: str | None  # none: tokens/ in the backbone's run folder
    third_dir: (
        str | None
    )  # of the third block's tokens, where they are to lie elsewhere than in `dir`
    keep_third: bool  # the tokens after the third block too: eta and K_c can change without a look at the images


@dataclass
class CorrespondConfig:
    """Stage 2: `scemae correspond`."""

    run_dir: str
    backbone: str  # run folder or checkpoint of stage 1
    seed: int
    views: int  # of each image; epoch e sees view e % views, so as many as epochs give a fresh one every time
    probe_shards: str | None
    method: Method
    carb: Carb  # of the method "carb", as views and store
    store: Store
    data: Data
    optim: Optim
    loop: Loop
    runtime: Runtime


@dataclass
class Matching:
    """The matching test (PROTOCOL 3.4)."""

    shards: str | None
    couples: int  # each gives a same and a different pair
    seed: int


@dataclass
class Detection:
    """Landmark regression on all annotations (PROTOCOL 3.5, 3.6, 4.4)."""

    train: str | None
    test: str | None
    benchmark: str
    epochs: int
    batch_size: int
    lr: float
    kernel: int  # of the conv block [U]
    init_std: float  # of its weights: 1 is DVE's (PROTOCOL 3.5); small ones train better on short schedules
    limit: int | None  # training images, for a declared, reduced schedule
    stride: int


@dataclass
class EvaluateRuntime:
    """Where the evaluation runs: on one device."""

    device: str
    precision: str  # fp32 unless asked otherwise: an error should not depend on the device
    batch_size: (
        int  # images that go through the encoder together, times the shifts of cover-and-stride
    )


@dataclass
class EvaluateConfig:
    """`scemae evaluate`: matching and detection for the ladder of features."""

    run_dir: str
    backbone: str | None  # run folder or checkpoint of stage 1
    projector: str | None  # run folder or checkpoint of stage 2
    seed: int
    stride: int  # of cover-and-stride, in pixels
    cache_dir: str | None
    matching: Matching
    detection: Detection
    runtime: EvaluateRuntime


@dataclass
class Regression:
    """Table 2's regressor (PROTOCOL 3.5, 3.6, 4.4), and what stands in for data that are not at hand."""

    benchmarks: list[str] | None  # none: every one whose shards are there
    epochs: int
    batch_size: int
    lr: float
    kernel: int  # of the conv block [U]
    init_std: float  # of its weights: 1 is DVE's (PROTOCOL 3.5)
    limit: int | None  # training images, for a declared, reduced schedule
    stride: int  # of detection, few shots and t-SNE
    train_on: dict[str, str]  # a data set without training shards learns from another one's
    hold_out: dict[
        str, int
    ]  # of a data set with one split alone every n-th image is tested on, the others are trained on


@dataclass
class FewShot:
    """Table 3 (PROTOCOL 3.7, 4.4)."""

    benchmark: str
    counts: list[int]  # annotated images
    seeds: list[int]
    images_per_epoch: int
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    init_std: float
    views: int  # warps of each image; as many as it is used: a fresh one every time, the live augmentation


@dataclass
class Embedding:
    """Figure 5: t-SNE of the landmarks' features (paper 4.3)."""

    images: int
    repeats: int
    perplexity: float


@dataclass
class TableMatching:
    """The matching test (PROTOCOL 3.4) on MAFL's test images."""

    couples: int
    seed: int
    chunk: int  # couples that are measured, and kept, at a time


@dataclass
class TableRuntime:
    """Where the tables are measured: ranks share the work."""

    device: str
    precision: str
    batch_size: int  # images that go through a trunk together, times the shifts of cover-and-stride
    hang_seconds: float  # how long ranks wait for each other at the start


@dataclass
class TablesConfig:
    """`scemae tables`: the paper's tables and figures for trained runs."""

    run_dir: str
    runs: list[str]  # run folders of stage 1 and 2, of any method
    timm: list[str]  # NAME:FILE of ViTs of timm with local weights
    floors: bool  # raw pixels, a random encoder, no motion, the mean face
    pictures: bool  # false: no face is shown, for photographs that must not be published
    shards: list[str]  # folders of splits, as `scemae shards build` makes them
    cache_dir: str | None
    seed: int
    stride: int  # of cover-and-stride, in pixels, for matching
    matching: TableMatching
    detection: Regression
    few_shot: FewShot
    embedding: Embedding
    runtime: TableRuntime


@dataclass
class Cluster:
    """What `scemae submit` asks for each job."""

    kind: str  # batch: jobs of the cluster's scheduler; local: one after the other on this machine
    account: str | None
    partition: str | None
    qos: str | None
    nodes: int  # of a training stage; shards and evaluate take one node and one rank
    ranks_per_node: int
    gpus_per_node: int  # 0: none is asked for
    cpus_per_task: int
    mem: str | None  # per node, as the scheduler writes it: 64G
    time: int  # minutes until a job is stopped and queues again
    signal: int  # seconds before that at which the ranks are told: they must save in this time
    max_restarts: int
    container: str | None  # put before the program: "apptainer exec --nv image.sif"
    setup: list[str]  # shell lines before the ranks start: module loads
    options: list[str]  # any other option of the scheduler, without its dashes


@dataclass
class SubmitConfig:
    """The chain of `scemae submit`; pretrain, correspond and evaluate are lists of key=value for that command."""

    run_dir: str  # of the chain; each stage has a folder of its own in it
    stages: list[str]
    shards: list[str]  # arguments of `scemae shards build`
    pretrain: list[str]
    correspond: list[str]
    evaluate: list[str]
    cluster: Cluster


@dataclass
class Space:
    """What a sweep searches: a file of configs/space, or one of your own (sweep/space.py reads it)."""

    stage: str  # whose settings: pretrain or correspond
    parameters: dict[
        str, Any
    ]  # nested as those are; at the leaves {low, high}, with step or log: true, or {values: [...]}
    constraints: list[str]  # "carb.r_att_att > carb.r_inatt_inatt"


@dataclass
class Halving:
    """Early stopping by asynchronous successive halving (ASHA) on the first objective."""

    enabled: bool
    grace: float  # share of a trial's training before it may be stopped
    reduction: int  # one of so many goes on at each rung


@dataclass
class TrialShare:
    """What each trial of a sweep gets."""

    ranks: int  # processes, all on one node
    cpus: int  # per rank
    gpus: float  # per trial; a part of one may be shared where there is one rank: 0.25


@dataclass
class SweepConfig:
    """`scemae sweep`; pretrain and correspond are lists of key=value that every trial of that stage gets."""

    run_dir: str
    seed: int
    search: str  # random, grid or tpe
    trials: int  # the paper's setting included
    objectives: list[
        str
    ]  # of different, same, cycle (evaluation/landmarks/probe.py); with two the search is for the Pareto front
    halving: Halving
    trial: TrialShare
    concurrency: int | str  # trials at once; auto: as many as fit on the nodes that are there
    retries: int  # of a trial whose processes were killed, or whose node is gone
    share_tokens: bool  # one store of the third block's tokens for all trials; false: each makes its own, for comparison
    keep: int  # best trials whose checkpoints stay; 0: those of all
    jobs: int  # elements of --array
    space: Space
    pretrain: list[str]
    correspond: list[str]
    cluster: Cluster  # of the jobs of --array
