"""The settings of each command as dataclasses: what there is, its type, and the paper's or PROTOCOL.md's word for it.

Sections by consequence: model, decoder, carb, data, optim and loop change results; runtime (device, precision, ZeRO
stage, workers) should not. Values live in configs/*.yaml; [U] marks what the paper leaves open (PROTOCOL 1.6).
"""

from dataclasses import dataclass, field


@dataclass
class Model:
    """The encoder. DeiT: T 192/3, S 384/6, B 768/12 wide/heads, 12 deep (PROTOCOL 1.3, 2.3)."""

    name: str = "deit_small"
    width: int = 384
    depth: int = 12
    heads: int = 6
    patch_size: int = 8
    image_size: int = 96


@dataclass
class Decoder:
    """The MAE decoder (PROTOCOL 1.6, 2.3): 512 wide, 8 deep, 16 heads unless a light one is asked for."""

    name: str = "mae"
    width: int = 512
    depth: int = 8
    heads: int = 16


@dataclass
class Data:
    """Shards to train on, and the image augmentation."""

    shards: str = "shards/train"
    cache_dir: str | None = None  # where shards named by a URL are copied
    frame: int = 178  # side of the square frame that crops are taken from, in pixels
    scale: list[float] = field(default_factory=lambda: [0.2, 1.0])  # RandomResizedCrop's share of the area
    jpeg_noise: bool = False


@dataclass
class Optim:
    """Adam's settings; lr is absolute (PROTOCOL 2.1)."""

    lr: float = 3e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.05
    decoupled: bool = True  # AdamW; False is Adam with L2
    warmup_epochs: float = 40
    min_lr: float = 0.0
    clip_grad: float = 0.0  # 0: none
    epochs: float = 400
    global_batch_size: int = 512


@dataclass
class Loop:
    """How often things happen, in global steps."""

    log_every: int = 10
    save_every: int = 500
    keep: int = 2  # newest checkpoints that stay
    probe_every: int = 0  # 0: never
    probe_pairs: int = 64


@dataclass
class Runtime:
    """Where and how it runs; results should not depend on it beyond rounding."""

    device: str = "auto"  # auto, cpu or cuda
    precision: str = "auto"  # auto (bf16 on cuda, fp32 on cpu), fp32 or bf16
    zero_stage: int = 1
    offload: bool = False  # optimizer state in host memory
    micro_batch_size: int = 512  # images per rank and micro-step, at most
    workers: int = 2  # decoding threads per rank


@dataclass
class PretrainConfig:
    """Stage 1: `scemae pretrain`."""

    run_dir: str = "???"
    seed: int = 0
    init_from: str | None = None
    mask_ratio: float = 0.75
    norm_pix: bool = False
    probe_shards: str | None = None  # shards with landmarks and identities other than the training set's
    model: Model = field(default_factory=Model)
    decoder: Decoder = field(default_factory=Decoder)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    loop: Loop = field(default_factory=Loop)
    runtime: Runtime = field(default_factory=Runtime)


@dataclass
class Carb:
    """CARB and the LCR loss (paper 3.2 and 3.3); [U] in PROTOCOL 1.6: a choice of ours."""

    eta: float = 0.1  # share of attentive tokens; 0.25 for B (paper 4)
    clusters: int = 4  # K_c (paper 4)
    r_att_att: float = 5.0  # Eq. 6 (paper 4)
    r_att_inatt: float = 5.0
    r_inatt_inatt: float = 2.0
    tau: float = 1 / 7  # Eq. 4 [U]; 1/8 for 64 dimensions
    dim: int = 128  # of the projected features
    projector: str = "linear"  # [U] linear, spatial_softmax, conv3, mlp
    place_unit: str = "grid"  # f_loc in "grid" cells or "pixels" [U]
    reduction: str = "mean"  # over i in Eq. 7: "mean" [U] or "sum" (as printed)
    heads: str = "mean"  # Eq. 1 per head, then "mean" [U], or "joint" (as printed)
    layer: str = "after"  # Eq. 1 from the block "after" the third or "inside" it [U]
    density: str = "mean"  # Eq. 2 over all tokens ("mean") or the nearest 5 ("knn") [U]
    remaining: str = "selected"  # CLS and T ("selected") or "all" tokens through blocks 4-12 [U]
    aggregate: bool = False  # a centre stands for its members by itself, or as their mean [U]


@dataclass
class CorrespondConfig:
    """Stage 2: `scemae correspond`."""

    run_dir: str = "???"
    backbone: str = "???"  # run folder or checkpoint of stage 1
    seed: int = 0
    probe_shards: str | None = None
    carb: Carb = field(default_factory=Carb)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    loop: Loop = field(default_factory=Loop)
    runtime: Runtime = field(default_factory=Runtime)


@dataclass
class Matching:
    """The matching test (PROTOCOL 3.4)."""

    shards: str | None = None
    couples: int = 500  # each gives a same and a different pair
    seed: int = 0


@dataclass
class Detection:
    """Landmark regression on all annotations (PROTOCOL 3.5, 3.6, 4.4)."""

    train: str | None = None
    test: str | None = None
    benchmark: str = "mafl"
    epochs: int = 200
    batch_size: int = 32
    lr: float = 1e-3
    limit: int | None = None  # training images, for a declared, reduced schedule
    stride: int = 2


@dataclass
class EvaluateConfig:
    """`scemae evaluate`: matching and detection for the ladder of features."""

    run_dir: str = "???"
    backbone: str | None = None  # run folder or checkpoint of stage 1
    projector: str | None = None  # run folder or checkpoint of stage 2
    seed: int = 0
    stride: int = 2  # of cover-and-stride, in pixels
    cache_dir: str | None = None
    matching: Matching = field(default_factory=Matching)
    detection: Detection = field(default_factory=Detection)
    runtime: Runtime = field(default_factory=Runtime)
