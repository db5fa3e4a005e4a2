"""Settings of `scemae evaluate` and `scemae tables`: both share the first sections of this file.

The sections of a command inherit the fields that both have, so that each is described once.
"""

from dataclasses import dataclass, field


@dataclass
class MatchingTest:
    """The matching test (PROTOCOL 3.4) on MAFL's test images."""

    couples: int  # of images; each gives one pair of the same face and one of different faces
    seed: int  # of the choice of couples and of their warps
    # training images whose mean feature at each place is taken, for content-only and position-only
    # errors and the position share (ours, PROTOCOL 7); 0: not measured
    place_images: int


@dataclass
class DetectionTest:
    """Landmark regression on all annotations (PROTOCOL 3.5, 3.6, 4.4)."""

    epochs: int  # of each regressor
    batch_size: int  # images per step
    lr: float  # learning rate
    kernel: int  # side of the convolution of the regressor's first block [U]
    # standard deviation of its initial weights: 1 is DVE's (PROTOCOL 3.5); small ones train better
    # on short schedules
    init_std: float
    limit: int | None  # training images, for a declared, reduced schedule; null: all
    stride: int  # of cover-and-stride, in pixels; of few shots and t-SNE too
    # weights of stage 2's channels beside stage 1's (PROTOCOL 4.7 [D]); of several weights and
    # decays those with the least error on every fifth training image are taken
    stage_2_weights: list[float] = field(default_factory=lambda: [1.0], kw_only=True)
    # CL's is 5e-4 (PROTOCOL 4.4)
    weight_decays: list[float] = field(default_factory=lambda: [5e-4], kw_only=True)


@dataclass
class EvaluationRuntime:
    """Where the tests are measured: ranks share the work, each on one device."""

    device: str  # auto, cpu or cuda
    precision: str  # fp32 unless set otherwise, since an error should not depend on the device
    batch_size: int  # images encoded together, times the shifts of cover-and-stride
    hang_seconds: float  # how long ranks wait for each other at the start


@dataclass
class EvaluateMatching(MatchingTest):
    """The matching test of one run."""

    shards: str | None  # annotated faces; null: no matching test


@dataclass
class EvaluateDetection(DetectionTest):
    """Landmark regression on one benchmark."""

    train: str | None  # shards that the regressor learns from; null: no detection test
    test: str | None  # shards that it is tested on
    benchmark: str  # mafl, aflw_m, aflw_r, aflw_rc, 300w, or a .yaml file


@dataclass
class EvaluateConfig:
    """`scemae evaluate`: matching and detection for the features of each stage."""

    run_dir: str  # folder of the results
    # what is evaluated: a run of stage 1 or 2 (its backbone is found), a checkpoint, the folder of
    # a chain or a demo, or an export
    run: str | None
    backbone: str | None  # instead: run folder or checkpoint of stage 1
    projector: str | None  # run folder or checkpoint of stage 2; alone, its backbone is found
    also: list[str]  # more of them on the same backbone, each a row of its own
    seed: int  # of the random encoder and the regressor
    stride: int  # of cover-and-stride, in pixels, for matching
    cache_dir: str | None  # where shards at a URL, or compressed, are copied
    matching: EvaluateMatching
    detection: EvaluateDetection
    runtime: EvaluationRuntime


@dataclass
class TablesMatching(MatchingTest):
    """The matching test of all runs."""

    chunk: int  # couples that are measured, and saved, at a time


@dataclass
class TablesDetection(DetectionTest):
    """Table 2's regressor, and substitutes for data that are missing."""

    benchmarks: list[str] | None  # null: every one whose shards are there
    train_on: dict[str, str]  # a data set without training shards learns from another one's
    # of a data set with a single split, every n-th image is tested on, the others are trained on
    hold_out: dict[str, int]


@dataclass
class FewShot:
    """Table 3 (PROTOCOL 3.7, 4.4)."""

    benchmark: str  # whose annotated images are used
    counts: list[int]  # annotated images of each column
    seeds: list[int]  # one choice of annotated images each
    images_per_epoch: int  # the annotated images are repeated up to this number
    epochs: int  # of each regressor
    batch_size: int  # images per step
    lr: float  # learning rate
    weight_decay: float  # of the regressor
    init_std: float  # standard deviation of its initial weights
    # warps of each image: as many as it is used give a fresh one every time (live augmentation)
    views: int


@dataclass
class Embedding:
    """Figure 5: t-SNE of the landmarks' features (paper 4.3)."""

    images: int  # whose landmarks are embedded
    repeats: int  # t-SNE runs, each with its own seed
    perplexity: float  # of t-SNE


@dataclass
class TablesConfig:
    """`scemae tables`: the paper's tables and figures for trained runs."""

    run_dir: str  # folder of the tables
    runs: list[str]  # run folders of stage 1 and 2, of any method
    timm: list[str]  # NAME:FILE of ViTs of timm with local weights
    floors: bool  # rows for raw pixels, a random encoder, no motion and the mean face
    pictures: bool  # false: no face is shown, for photographs that must not be published
    shards: list[str]  # folders of splits, as `scemae shards build` makes them
    cache_dir: str | None  # where shards at a URL, or compressed, are copied
    seed: int  # of the random encoder, the regressors and the t-SNE
    stride: int  # of cover-and-stride, in pixels, for matching
    matching: TablesMatching
    detection: TablesDetection
    few_shot: FewShot
    embedding: Embedding
    runtime: EvaluationRuntime
