"""Settings of the two training stages, `scemae pretrain` and `scemae correspond`."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Model:
    """The encoder. DeiT-T, S, B: 192/3, 384/6, 768/12 wide/heads, 12 deep (PROTOCOL 1.3, 2.3)."""

    name: str  # a label, such as deit_small
    width: int  # of a token
    depth: int  # transformer blocks
    heads: int  # attention heads of each block
    patch_size: int  # side of a square patch in pixels: 8 (PROTOCOL 1.3)
    image_size: int  # side of the square input in pixels: 96 (PROTOCOL 1.3)


@dataclass
class DecoderShape:
    """The MAE decoder (PROTOCOL 1.6, 2.3): 512 wide, 8 deep, 16 heads unless set smaller."""

    name: str  # a label, such as mae or light
    width: int  # of a token
    depth: int  # transformer blocks
    heads: int  # attention heads of each block


@dataclass
class Data:
    """Shards to train on, and the image augmentation."""

    shards: str  # a folder of shards, its URL, or pipe:COMMAND typed on the command line
    cache_dir: str | None  # where shards at a URL, or compressed, are copied
    frame: int  # side of the square frame that crops are taken from, in pixels
    scale: list[float]  # RandomResizedCrop's share of the frame's area, low and high
    jpeg_noise: bool  # resize and compress each image at random (PROTOCOL 3.1)
    # cpu, or nvjpeg: streamed through the GPU's decoder, whose pixels differ by a few grey levels
    decoder: str
    # share of an epoch's images that may be replaced because they are not whole JPEGs; above it
    # the run stops
    max_bad_fraction: float
    # sets that `shards` has grown by; of a run that has begun, a new one joins at the next epoch
    append: list[str] = field(default_factory=list)
    # instead of `shards`, several sets in exact shares of every batch: [LOCATION:0.75,OTHER:0.25]
    mix: list[str] = field(default_factory=list)
    # a file of keys or patterns, one a line: only these samples are trained on; null: all
    subset: str | None = None
    # GB of each node's cache_dir that shards there may take: they are streamed through it block
    # by block; null: they are copied there whole before the first step
    cache_gb: float | None = None
    # the order of an epoch (data/order.py): whole, a permutation of all images, which needs every
    # shard all the time; lanes, which reads block after block (ours, data/lanes.py); auto: whole up
    # to two million images. It belongs to the run, like the next three, which only lanes reads
    order: str = "auto"
    # lanes whose blocks are mixed, at most: lowered to a divisor or a multiple of the batch
    lanes: int = 1024
    block: int = 256  # images that are read together, neighbours in the shards
    window: int = 64  # blocks of a lane that are shuffled together


@dataclass
class Optim:
    """The optimizer and its schedule (PROTOCOL 2.1)."""

    name: str  # adamw, adam (weight decay as an L2 term) or sgd
    lr: float  # learning rate after the warm-up, absolute: not scaled by the batch size
    betas: list[float]  # of Adam; SGD takes the first as its momentum and ignores the second
    weight_decay: float  # not of biases and other one-dimensional parameters
    warmup_epochs: float  # epochs in which the learning rate rises linearly from 0
    min_lr: float  # where the cosine schedule ends
    clip_grad: float  # largest norm of the gradient; 0: not clipped
    epochs: float  # passes over the training set; may be a fraction
    global_batch_size: int  # images per optimizer step, over all ranks


@dataclass
class Loop:
    """How often things happen, in optimizer steps."""

    log_every: int  # steps between two lines of metrics.jsonl, each with a check of the loss
    save_every: int  # steps between two checkpoints; a multiple of log_every
    keep: int  # newest checkpoints that stay
    keep_every: int  # checkpoints at multiples of this step stay as well; 0: none
    probe_every: int  # steps between two small matching tests on probe_shards; 0: none
    probe_pairs: int  # couples of different people in each of these tests
    # a step whose loss exceeds this many times the median of the last 100 steps is skipped; 0: none
    spike_factor: float
    max_skips: int  # steps that may be skipped for a bad loss before the run stops
    ledger_keys: bool  # the ledger also holds the key of every sample


@dataclass
class Runtime:
    """Where and how it runs; results should not depend on it beyond rounding."""

    device: str  # auto, cpu or cuda
    # auto (bf16 on cuda, fp32 on cpu), fp32, bf16, or tf32 (fp32 with TF32 products on cuda)
    precision: str
    zero_stage: str | int  # ZeRO stage, 0 to 3; auto: 1, or 0 where there is one rank
    offload: bool  # the optimizer's state lies in host memory
    # torch.compile: true, false, or auto (on cuda, except for methods whose graph is too large)
    compile: str | bool
    micro_batch_size: int  # images per rank and micro-step, at most
    # threads per rank that decode, and on a CPU augment; auto: the rank's share of the cores, at
    # most 16. In a run of 50,000 images or more a process decodes for each thread
    workers: str | int
    # frames lie in memory on the "gpu" or the "host", or are read again from the shards each epoch
    # ("streaming"); auto: the first of these that fits
    tier: str
    hang_seconds: float  # a rank without progress for this long ends, and the job restarts
    # none, wandb, mlflow or trackio: metrics go there as well (runs/trackers.py)
    tracker: str = "none"


@dataclass
class Method:
    """The training method: a file of scemae/methods."""

    name: str  # of its files in scemae/methods and configs/method: mae, carb, ...
    settings: dict[str, Any]  # fields of that file's `Settings`, checked when the run starts


@dataclass
class PretrainConfig:
    """Stage 1: `scemae pretrain`."""

    run_dir: str  # folder of the run: checkpoints, metrics, the resolved settings
    seed: int  # of initial weights, order, augmentation and masks
    init_from: str | None  # a run folder or checkpoint whose weights are the initial ones
    mask_ratio: float  # share of the patches that is hidden (paper 3.1: 0.75)
    norm_pix: bool  # targets are normalised per patch; the paper's are raw pixels
    probe_shards: str | None  # shards with landmarks, of other identities than the training set's
    method: Method
    model: Model  # read by the method mae, as mask_ratio, norm_pix and decoder
    decoder: DecoderShape
    data: Data
    optim: Optim
    loop: Loop
    runtime: Runtime


@dataclass
class Carb:
    """CARB and the LCR loss (paper 3.2 and 3.3); [U] marks our choice (PROTOCOL 1.6)."""

    eta: float  # share of attentive tokens; 0.25 for DeiT-B (paper 4)
    clusters: int  # K_c, centres that stand for the inattentive tokens (paper 4)
    r_att_att: float  # Eq. 6, between two attentive tokens (paper 4)
    r_att_inatt: float  # Eq. 6, between an attentive token and a centre (paper 4)
    r_inatt_inatt: float  # Eq. 6, between two centres (paper 4)
    tau: float  # temperature of Eq. 4 [U]; 1/8 for 64 dimensions
    dim: int  # of the projected features
    projector: str  # linear, spatial_softmax, conv3 or mlp [U]
    place_unit: str  # unit of the distances in f_loc (Eq. 5): "grid" cells or "pixels" [U]
    reduction: str  # over i in Eq. 7: "mean" [U] or "sum" (as printed)
    heads: str  # Eq. 1 per head, then "mean" [U]; or over all heads, "joint" (as printed)
    layer: str  # Eq. 1 is taken from the block "after" the third or "inside" it [U]
    density: str  # Eq. 2 over all tokens ("mean") or the nearest 5 ("knn") [U]
    remaining: str  # blocks 4-12 see CLS and T ("selected") or "all" tokens [U]
    # false: the centre's own token stands for its cluster; true: the mean of its members [U]
    aggregate: bool
    # cluster the third block's tokens after a LayerNorm (ours): without it distances are so large
    # that the density of Eq. 2 alone decides, and the delta of Eq. 3 hardly counts (PROTOCOL 6)
    cluster_norm: bool = False
    # the projector's initial weights: "random", or "lda", computed from 500 training faces
    # (ours; models/lda.py); lda needs projector=linear and dim up to the backbone's width;
    # optim.epochs=0 keeps it as it is
    init: str = "random"


@dataclass
class Store:
    """Where the frozen backbone's tokens are kept (training/token_store.py)."""

    dir: str | None  # null: tokens/ in the backbone's run folder
    third_dir: str | None  # another folder for the third block's tokens; null: the same as `dir`
    # keep the third block's tokens too, so that eta and K_c can change without encoding the images
    keep_third: bool


@dataclass
class CorrespondConfig:
    """Stage 2: `scemae correspond`."""

    run_dir: str  # folder of the run: checkpoints, metrics, the resolved settings
    backbone: str  # run folder or checkpoint of stage 1
    seed: int  # of initial weights, order and augmentation
    # augmented views of each image: epoch e trains on view e % views, so that as many views as
    # epochs give a fresh one every time
    views: int
    probe_shards: str | None  # shards with landmarks, of other identities than the training set's
    method: Method
    carb: Carb  # read by the method carb, as views and store
    store: Store
    data: Data
    optim: Optim
    loop: Loop
    runtime: Runtime
