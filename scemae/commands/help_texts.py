"""The help texts of `scemae` and of its settings commands."""

OVERVIEW = """\
scemae: self-supervised landmark estimation with SCE-MAE (CVPR 2024)

usage: scemae COMMAND [ARGUMENTS]     (`scemae help COMMAND` explains one)

{rows}

`--key value` and `key=value` mean the same in every command. `scemae COMMAND --explain KEY` says
what a setting means. `scemae completion bash` (zsh, fish) prints a script that completes all this.

Each command reads what the one before it wrote:

  scemae faces faces && scemae shards build celeba faces data/celeba
  scemae pretrain   run_dir=runs/mae  data.shards=data/celeba/train
  scemae correspond run_dir=runs/carb backbone=runs/mae data.shards=data/celeba/train
  scemae evaluate   run_dir=runs/eval run=runs/carb \\
                    matching.shards=data/celeba/mafl-test
  scemae report runs/eval
"""

PRETRAIN = """\
Stage 1: train a masked autoencoder on faces without labels (paper 3.1).

  scemae pretrain run_dir=runs/mae data.shards=data/celeba/train
  scemae pretrain run_dir=runs/tiny model=deit_tiny decoder=light optim.epochs=20 \\
                  optim.warmup_epochs=2
  torchrun --nproc-per-node 8 -m scemae pretrain run_dir=runs/mae runtime.zero_stage=2
  deepspeed --module scemae pretrain run_dir=runs/mae       (and srun, with RANK and so on set)

The same command resumes at the newest checkpoint of the run folder. The settings to know:

  run_dir              the folder of checkpoints, metrics and the resolved settings
  data.shards          a folder of shards made by `scemae shards build`; its URL (s3:, gs:, az:,
                       http:, https:, file:, ...); or pipe:COMMAND, typed on the command line: a
                       command that prints the file whose name is appended to it after a slash
  data.cache_dir       where shards at a URL, or compressed, are copied; with data.cache_gb=200
                       they are streamed through a cache of that size there (data.order=lanes
                       reads it in blocks)
  model, decoder       deit_tiny, deit_small or deit_base; mae (the paper's) or light
  method               mae (the paper's), moco, byol or dve
  optim.epochs, optim.global_batch_size, optim.lr, mask_ratio, norm_pix
  probe_shards, loop.probe_every    a small matching test every few steps
  runtime.zero_stage, runtime.offload, runtime.precision, runtime.micro_batch_size
  experiment           a named set of values in configs/experiment, or your own FILE.yaml

Paths and names are taken as typed; null stands for none, [a,"b, c"] for a list.
"""

CORRESPOND = """\
Stage 2: train CARB's projector on a frozen backbone (paper 3.2, 3.3).

  scemae correspond run_dir=runs/carb backbone=runs/mae data.shards=data/celeba/train
  scemae correspond run_dir=runs/carb64 backbone=runs/tiny carb.dim=64 carb.tau=0.125

The same command resumes at the newest checkpoint of the run folder. The settings to know:

  backbone             a run folder of `scemae pretrain`, or one of its checkpoints
  method               carb (the paper's), cl or lead
  carb.eta             share of attentive tokens (paper: 0.1 for T and S, 0.25 for B)
  carb.clusters        K_c (4)
  carb.r_att_att, carb.r_att_inatt, carb.r_inatt_inatt    repellence of Eq. 6 (5, 5, 2)
  carb.tau, carb.dim, carb.projector    temperature of Eq. 4, projected dimension, projector
  experiment=lda_correspond    ours instead: an LDA of the backbone's tokens, computed in seconds
"""

EVALUATE = """\
Landmark matching (paper 4.1) and landmark detection (paper 4.2) of one run.

  scemae evaluate run_dir=runs/eval run=runs/carb \\
                  matching.shards=data/celeba/mafl-test
  scemae evaluate ... detection.train=data/celeba/mafl-train detection.test=data/celeba/mafl-test

Compares on the same pairs: no motion, raw pixels, a random encoder, MAE features, and + CARB
(also=[RUN,...]: more projectors on the same backbone, each a row).
Results go to run_dir/results.json, the pairs with their hash to run_dir/pairs.npz.

  run                  what is evaluated: a run of stage 2 (its backbone is found) or 1, one of its
                       checkpoints, the folder of a chain or a demo, or an export
  backbone, projector  instead: stages 1 and 2 apart; a projector alone finds its backbone
  matching.couples     couples of images; each gives one same and one different pair (500)
  stride               of cover-and-stride in pixels: 2 (48x48 features); 4 is four times faster
  detection.benchmark  mafl, aflw_m, aflw_r, aflw_rc, 300w, or a .yaml file
  detection.epochs     of the regressor (200)
"""

TABLES = """\
Every table and figure of the paper, by the same code on the same pairs.

  scemae tables runs/carb runs/cl runs/lead runs/dve run_dir=runs/tables \\
                shards=[data/celeba,data/aflw,data/aflwr,data/w300]
  torchrun --nproc-per-node 8 -m scemae tables ...     ranks share the work

RUN is a run folder of `scemae correspond` (its backbone is found from it) or of `scemae pretrain`,
of any method. Writes tables.html, .md, .tex (a page of its own), .csv and .json into run_dir; a
cell that cannot be filled says why. The same command measures only what is missing.

  shards               folders that hold splits: mafl-test, mafl-train, aflw-train, aflw-test,
                       aflwr-*, w300-*
  timm                 [NAME:FILE] a ViT of timm with local weights as a reference row
  stride               of cover-and-stride in pixels, for matching (2); 4 and 8 are 4 and 16 times
                       faster
  detection.stride     the same for detection, few shots and t-SNE (2)
  detection.train_on   {aflw_m: mafl}: learn from MAFL's faces where AFLW's training crops are
                       missing
  detection.hold_out   {300w: 3}: where only one split exists, test on every third image of it and
                       train on the others
  few_shot.*, embedding.*    Table 3 and Figure 5
  pictures             false: numbers only, no face is shown
  experiment           demo_tables, faces_cpu_tables: reduced schedules, which every table states
"""

SWEEP = """\
Search settings of a stage with Ray Tune.

  scemae sweep run_dir=runs/sweep correspond.backbone=runs/mae \\
               correspond.data.shards=data/celeba/train correspond.probe_shards=data/celeba/val
  sbatch --nodes=4 cluster/sweep.sh run_dir=runs/sweep ...    on a cluster: the first node
                                                              coordinates, the others join
  scemae sweep --join runs/sweep                              lend this node too
  scemae sweep --page runs/sweep                              write its page as far as it has come
  scemae sweep ... --array                                    as an array of jobs, without Ray

A trial is `scemae correspond` (or pretrain) with a list of settings, in its own run folder. Trial 0
is the paper's setting. What trials share (the tokens of the frozen backbone, the validation pairs)
is computed once. The same command resumes the sweep, whatever ended it: finished trials stay,
unfinished ones resume from their checkpoints. A sweep ends with sweep.html, results.csv and
best.yaml, for `scemae correspond experiment=SWEEP/best.yaml ...`

  space                carb (eta, K_c, the three repellence weights), carb_ordered, carb_more,
                       eta_clusters, mae (stage 1), or your own FILE.yaml;
                       space.parameters.carb.eta.high=0.4 changes a range
  search               tpe (Optuna), random or grid
  trials, seed         how many; of the search
  correspond.KEY=VALUE, pretrain.KEY=VALUE    a setting of every trial
  objectives           [different]: the error on pairs of different people of probe_shards, never
                       of the test set; [different,same]: two, and the Pareto front; cycle: a
                       substitute that needs no landmarks
  halving.enabled      ASHA: after halving.grace of their training, one trial of halving.reduction
                       continues
  trial.ranks, trial.cpus, trial.gpus    what each trial gets: processes, cores per process, GPUs
                       (0.25 shares one)
  concurrency          trials at once; auto: as many as fit. With 1, the same seed gives the same
                       trials; random and grid search give them with any
  jobs                 elements of --array; cluster.time, cluster.partition and so on as for
                       `scemae submit`; the last job writes the page
  retries              of a trial whose processes or node are gone
  keep                 best trials that keep their checkpoints
"""

DOCTOR = """\
Check before a job that the run would start, finish and stop in time. Start it as the run will be:

  scemae doctor pretrain run_dir=runs/mae data.shards=data/celeba/train
  torchrun --nproc-per-node 8 -m scemae doctor pretrain run_dir=runs/mae --time-limit 240 \\
           --signal-seconds 120
  (and srun with RANK and so on set, on nodes of the kind that the job will get)

Prints one line for each check, `ok`, `warning` or `refused`, with what to do: shards and a sample
of their images, the run folder and its checkpoints, free space on its disk, versions, settings,
clocks and addresses of all ranks, threads, an all-reduce. If nothing is refused, it trains a few
real steps and saves in a temporary folder beside the run's: speed, memory, time to save, when the
run ends and what it costs. The run itself is not changed. Exits with 0 if nothing is refused, else
with 1.
"""

SUBMIT = """\
Submit shards, pretrain, correspond and evaluate as a chain of jobs.

  scemae submit run_dir=runs/small cluster.nodes=2 cluster.ranks_per_node=8 \\
                cluster.gpus_per_node=8 --dry-run
  scemae submit run_dir=runs/small stages=[pretrain,correspond] pretrain.optim.epochs=200 \\
                correspond.carb.dim=64
  scemae submit run_dir=runs/all stages=[shards,pretrain,correspond,evaluate] \\
                shards=[celeba,/data/CelebA,data/celeba]
  scemae submit run_dir=runs/build stages=[shards] parts=8 \\
                shards=[folder,/data/photographs,s3://bucket/own]
  scemae submit run_dir=runs/here cluster=local         on a workstation: one after the other
  scemae submit --status runs/small                     the state of its jobs

Each job starts when the one before it has succeeded, from a copy of code and configs in RUN/code;
results go to RUN/pretrain, RUN/correspond and RUN/evaluate. A job that reaches its time limit, is
preempted or loses a node queues again under the same id and resumes at its newest checkpoint; one
that fails for good ends the chain. After that, the same command submits the chain again, and each
stage resumes.

  stages               which of shards, pretrain, correspond, evaluate
  parts                jobs that build the shards side by side, as an array; when all have
                       succeeded, one more writes the manifest, and the next stage starts
  STAGE.KEY=VALUE      a setting of that stage: pretrain.model=deit_tiny
  cluster              a named set of values in configs/cluster: default, local; or your FILE.yaml
  cluster.account, partition, qos, time (minutes), nodes, ranks_per_node, gpus_per_node,
  cpus_per_task, mem
  cluster.container    what comes before the program: "apptainer exec --nv image.sif"
  cluster.setup        shell lines for each job: ["module load cuda"]
  cluster.options      any other option of the scheduler: ["exclusive","constraint=a100"]
"""
