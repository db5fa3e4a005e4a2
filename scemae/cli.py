"""The `scemae` command: one dispatcher over every entry point; what a command needs is imported when it runs."""

import os
import sys
import traceback
from collections.abc import Callable

from scemae.config.locations import without_secrets
from scemae.distributed.launchers import Launch
from scemae.errors import ConfigError, ScemaeError
from scemae.process import library_caches, streams
from scemae.process.import_path import leave_out_current_folder
from scemae.runs import faults

HELP = """\
scemae: self-supervised landmark estimation with SCE-MAE (CVPR 2024), from shards to landmark errors

usage: scemae COMMAND [ARGUMENTS]     (scemae COMMAND --help teaches each)

  demo         all of the below on generated faces, to a report, in a few minutes on two cores
  faces        generate faces with exact landmarks, in the layout of CelebA, AFLW_M, AFLW_R or 300W
  shards       build, verify and describe WebDataset shards of CelebA, MAFL, AFLW, 300W or any folder of images
  pretrain     stage 1: a masked autoencoder on unlabelled faces (DeepSpeed ZeRO, resumes by default)
  correspond   stage 2: freeze it, train CARB's projector with the Locality-Constrained Repellence loss
  evaluate     landmark matching and landmark detection of one run
  tables       the paper's Tables 1 to 4 and Figures 1, 4, 5 for any runs, with DVE, CL and LEAD beside them
  sweep        a search over eta, K_c, the repellence weights or any other settings, with Ray Tune
  match        where in one photograph the points of another are, by trained features
  detect       landmarks on photographs, by a trained regressor
  export       the encoder and projector for timm, safetensors and ONNX, with a check that they give the same numbers
  adopt        public MAE or timm weights as a backbone for stage 2
  doctor       before a job: would this run start here, go through and stop in time? a dry run and a forecast
  report       one HTML page and one JSON file with everything a run has to show
  goodput      where the wall time of a training run went, over all its starts, and what share trained what counts
  submit       the stages as a chain of jobs on a cluster, from a snapshot; and how they are doing
  verify-resume  prove from a run's ledger that no sample was skipped and none came twice, however often it stopped
  replay       run the batch of a step that was left out for a bad loss again, on one process

In that order each reads what the one before it wrote:

  scemae faces faces && scemae shards build celeba faces data/celeba
  scemae pretrain   run_dir=runs/mae  data.shards=data/celeba/train
  scemae correspond run_dir=runs/carb backbone=runs/mae data.shards=data/celeba/train
  scemae evaluate   run_dir=runs/eval backbone=runs/mae projector=runs/carb matching.shards=data/celeba/mafl-test
  scemae report runs/eval
"""

PRETRAIN = """\
scemae pretrain [KEY=VALUE ...] [--cfg]: stage 1, MAE pretraining (paper 3.1)

  scemae pretrain run_dir=runs/mae data.shards=data/celeba/train
  scemae pretrain run_dir=runs/tiny model=deit_tiny decoder=light optim.epochs=20 optim.warmup_epochs=2
  torchrun --nproc-per-node 8 -m scemae pretrain run_dir=runs/mae runtime.zero_stage=2
  deepspeed --module scemae pretrain run_dir=runs/mae            (and srun, with RANK and friends set)

The same command goes on where the run folder's newest checkpoint stands. What to set most often:

  run_dir              where checkpoints, metrics and the resolved config go
  data.shards          a folder of shards made by `scemae shards build`; or its URL (http:, https:, gs:, file:, ...), or a command
                       that prints the file whose name is put behind it with a slash: pipe:COMMAND, where you type it yourself
  model                deit_tiny, deit_small or deit_base; decoder: mae (the paper's) or light
  optim.epochs, optim.global_batch_size, optim.lr, mask_ratio, norm_pix
  probe_shards, loop.probe_every   a small matching test on faces with landmarks, every so many steps
  runtime.zero_stage   auto, 0 to 3; runtime.offload, runtime.precision (fp32, tf32, bf16), runtime.micro_batch_size
  experiment           a named set of values in configs/experiment, or FILE.yaml of your own
Paths and names are taken as they are typed; null stands for none, [a,"b, c"] for a list.
"""

CORRESPOND = """\
scemae correspond [KEY=VALUE ...] [--cfg]: stage 2, CARB's projector on a frozen backbone (paper 3.2, 3.3)

  scemae correspond run_dir=runs/carb backbone=runs/mae data.shards=data/celeba/train
  scemae correspond run_dir=runs/carb64 backbone=runs/tiny carb.dim=64 carb.tau=0.125

  backbone             a run folder of `scemae pretrain`, or one of its checkpoints
  carb.eta             share of attentive tokens (paper: 0.1 for T and S, 0.25 for B); carb.clusters: K_c (4)
  carb.r_att_att, carb.r_att_inatt, carb.r_inatt_inatt   repellence of Eq. 6 (5, 5, 2)
  carb.tau, carb.dim, carb.projector   temperature of Eq. 4, projected dimension, projector (linear, ...)
"""

EVALUATE = """\
scemae evaluate [KEY=VALUE ...] [--cfg]: landmark matching (paper 4.1) and detection (paper 4.2)

  scemae evaluate run_dir=runs/eval backbone=runs/mae projector=runs/carb matching.shards=data/celeba/mafl-test
  scemae evaluate ... detection.train=data/celeba/mafl-train detection.test=data/celeba/mafl-test

Compares, on the same pairs: no motion, raw pixels, a random encoder, MAE features, and + CARB; results go to
run_dir/results.json, the pairs with their hash to run_dir/pairs.npz.

  matching.couples     couples of images; each gives one same and one different pair (500)
  stride               of cover-and-stride in pixels: 2 (48x48 features), 4 is four times faster
  detection.benchmark  mafl, aflw_m, aflw_r, aflw_rc, 300w, or a .yaml file; detection.epochs: 200
"""

TABLES = """\
scemae tables RUN... [KEY=VALUE ...] [--cfg]: every table and figure of the paper, by one code on the same pairs

  scemae tables runs/carb runs/cl runs/lead runs/dve run_dir=runs/tables shards=[data/celeba,data/aflw,data/aflwr,data/w300]
  torchrun --nproc-per-node 8 -m scemae tables ...       ranks share the work; any command goes on where it stood

RUN: a run folder of `scemae correspond` (it brings its backbone along) or of `scemae pretrain`, of any method. Writes
tables.html, .md, .tex (a page of its own), .csv and .json into run_dir; a cell that cannot be filled says why.

  shards               folders that hold splits: mafl-test, mafl-train, aflw-train, aflw-test, aflwr-*, w300-*
  timm                 [NAME:FILE] a ViT of timm with local weights as a reference row (DINOv2, DINOv3, ...)
  stride               of cover-and-stride in pixels, for matching (2); 4 and 8 are 4 and 16 times faster
  detection.stride     the same for detection, few shots and t-SNE (2)
  detection.train_on   {aflw_m: mafl}: learn from MAFL's faces where AFLW's training crops are not at hand
  detection.hold_out   {300w: 3}: where only one split is there, every third image of it is tested on, the rest trained on
  few_shot.*, embedding.*    Table 3 and Figure 5;  pictures=false: numbers alone, no face is shown
  experiment           demo_tables, faces_cpu_tables: reduced schedules, which every table then says
"""

DOCTOR = """\
scemae doctor pretrain|correspond [KEY=VALUE ...] [--time-limit MINUTES] [--signal-seconds N] [--steps N]

A check before the job: would this run start, go through, and stop in time? Give it what the run will get, started alike:

  scemae doctor pretrain run_dir=runs/mae data.shards=data/celeba/train
  torchrun --nproc-per-node 8 -m scemae doctor pretrain run_dir=runs/mae --time-limit 240 --signal-seconds 120
  (and srun with RANK and friends set, on nodes of the kind that the job will get)

  --time-limit MINUTES   of one job: how many of them the run takes
  --signal-seconds N     between the signal and the end of a job (`--signal` of the job script): is it enough to save?
  --steps N              of the dry run, after one to warm up (5)

One line for each thing looked at, `ok`, `warning` or `refused` with what to do: shards and a sample of their images, the
run folder and its checkpoints, room on its disk, versions, settings, clocks and addresses of all ranks, threads, an
all-reduce; then, where nothing is refused, a few real steps and a save in a folder beside the run's, which is removed:
speed, memory, time to save, when the run ends and what it costs. The run itself is left as it is. Ends with status 0
where nothing is refused, else 1.
"""


def main(argv: list[str] | None = None) -> None:
    """Run one command; what is the user's to mend is told in one sentence on stderr, with a non-zero status."""
    if argv is None:
        leave_out_current_folder()
        argv = sys.argv[1:]
    argv = [
        part for part in argv if not part.startswith("--local_rank")
    ]  # deepspeed's launcher puts it first
    streams.guard()
    library_caches.settle()
    argv = ["--help"] if not argv or argv[0] in ("-h", "help") else argv
    status = _status_of(argv) or _status_of_answer(argv)
    if argv[0] in RANKS:
        # At once: threads that a process group leaves behind can abort or hang an exit, and the job script reads it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)


def _status_of(argv: list[str]) -> int:
    """Run one command; its exit status."""
    command = COMMANDS.get(argv[0])
    try:
        if argv[0] == "--help":
            print(HELP)
            return 0
        if command is None:
            raise ConfigError(
                f"found no command `{argv[0]}`, there are {', '.join(COMMANDS)}; see `scemae --help`"
            )
        faults.at("command")
        command(argv[1:])
    except ScemaeError as error:
        print(f"scemae {argv[0]}: {without_secrets(str(error))}", file=sys.stderr)
        return error.exit_status
    except SystemExit as end:  # of argparse, say
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except UnicodeEncodeError as error:
        print(
            f"scemae {argv[0]}: found {error.object[:200]!r}, which cannot be written as {error.encoding}; rename it to a name "
            "in UTF-8",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(
            f"scemae {argv[0]}: stopped by Ctrl-C; the same command goes on, or starts again",
            file=sys.stderr,
        )
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            print(
                f"scemae {argv[0]}: {error.filename or 'the disk'}: {error.strerror}; nothing finished was lost, make "
                "room or mend it and run the same command again",
                file=sys.stderr,
            )
        elif argv[0] in RANKS:
            traceback.print_exc()
        else:
            raise
        return 1
    return 0


def _status_of_answer(argv: list[str]) -> int:
    """1 where what a command was asked for is what it prints, and that could not be written; messages may be lost."""
    is_answer = argv[0] in ANSWERS or not ANSWERING.isdisjoint(argv)
    if is_answer and (why := streams.incomplete(sys.stdout)):
        print(
            f"scemae {argv[0]}: stdout: {why}; what was asked for is not whole there, make room and run it again",
            file=sys.stderr,
        )
        return 1
    return 0


def _pretrain(argv: list[str]) -> None:
    if config := _config("pretrain", PRETRAIN, argv):
        from scemae.training import pretrain

        pretrain.main(config)


def _correspond(argv: list[str]) -> None:
    if config := _config("correspond", CORRESPOND, argv):
        from scemae.training import correspond

        correspond.main(config)


def _doctor(argv: list[str]) -> None:
    stage, limits, overrides = None, {}, []
    rest = iter(
        part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])
    )
    for part in rest:
        if part in ("pretrain", "correspond") and stage is None:
            stage = part
        elif name := LIMITS.get(part):
            limits[name] = _above_0(part, next(rest, ""))
        else:
            overrides.append(part)
    if stage is None and not {"-h", "--help"} & set(argv):
        raise ConfigError(
            "found no stage, pretrain or correspond was needed; see `scemae doctor --help`"
        )
    if config := _config(stage or "pretrain", DOCTOR, overrides):
        from scemae.training.doctor import doctor

        doctor.main(config, stage, doctor.Limits(**limits))


def _above_0(option: str, text: str) -> int:
    if not text.isdigit() or not int(text):
        raise ConfigError(f"{option}: found {text!r}, a whole number above 0 was needed")
    return int(text)


def _evaluate(argv: list[str]) -> None:
    if config := _config("evaluate", EVALUATE, argv):
        from scemae.evaluation import evaluate

        evaluate.main(config)


def _tables(argv: list[str]) -> None:
    if config := _config("tables", TABLES, _with_runs(argv)):
        from scemae.evaluation.tables import command

        command.main(config)


def _with_runs(argv: list[str]) -> list[str]:
    """The words that are neither options nor settings as runs=[...]. Raises ConfigError where one is no folder."""
    from scemae.config import values
    from scemae.config.dotted import setting_names
    from scemae.config.schema import SCHEMAS

    runs = [
        word
        for word in argv
        if not word.startswith("-") and not _is_setting(setting_names(SCHEMAS["tables"]), word)
    ]
    if missing := next((run for run in runs if not os.path.isdir(values.given_path(run))), None):
        raise ConfigError(
            f"{missing}: no such folder; give run folders of `scemae pretrain` or `scemae correspond`"
        )
    return [word for word in argv if word not in runs] + (
        [f"runs={values.as_list(runs)}"] if runs else []
    )


def _is_setting(known: list[str], word: str) -> bool:
    """True for key=value, unless it is a folder's name and its key no setting's."""
    key, equals, _ = word.partition("=")
    return bool(equals) and (key.lstrip("+") in known or not os.path.isdir(word))


def _sweep(argv: list[str]) -> None:
    if "--array" in argv:
        from scemae.cluster import array

        array.main(argv)
        return
    from scemae.sweep import command

    command.main(argv)


def _match(argv: list[str]) -> None:
    from scemae.evaluation.photographs import match

    match.main(argv)


def _detect(argv: list[str]) -> None:
    from scemae.evaluation.photographs import detect

    detect.main(argv)


def _export(argv: list[str]) -> None:
    from scemae.interop import export

    export.main(argv)


def _adopt(argv: list[str]) -> None:
    from scemae.interop import adopt

    adopt.main(argv)


def _faces(argv: list[str]) -> None:
    from scemae.faces import write

    write.main(argv)


def _shards(argv: list[str]) -> None:
    from scemae.shards import build

    build.main(argv)


def _report(argv: list[str]) -> None:
    from scemae.evaluation.report import report

    report.main(argv)


def _goodput(argv: list[str]) -> None:
    from scemae.runs import goodput

    goodput.main(argv)


def _submit(argv: list[str]) -> None:
    from scemae.cluster import submit

    submit.main(argv)


def _demo(argv: list[str]) -> None:
    from scemae.faces import demo

    demo.main(argv)


def _config(name: str, text: str, argv: list[str]):
    """The checked config of a command; None where --help or --cfg was all that was asked."""
    if "-h" in argv or "--help" in argv:
        print(text)
        return None

    from scemae.config.load import compose_yaml, load_config

    overrides = [part for part in argv if part != "--cfg"]
    if stray := [part for part in overrides if part.startswith("-")]:
        raise ConfigError(
            f"found {stray[0]}, which is no option; give key=value pairs, --cfg or --help (a folder of that "
            f"name is ./{stray[0]})"
        )
    if "--cfg" in argv:
        print(compose_yaml(name, overrides))
        return None
    loaded = load_config(name, overrides, typed=True)
    if name in RANKS:
        Launch.read()  # before torch is imported
    from scemae.distributed.process_group import choose_device

    # Read when deepspeed is imported; without it, deepspeed takes any GPU it finds, whatever was asked for.
    os.environ["DS_ACCELERATOR"] = choose_device(loaded.runtime.device).type
    return loaded


def _verify_resume(argv: list[str]) -> None:
    from scemae.runs import verify

    verify.main(argv)


def _replay(argv: list[str]) -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    from scemae.training import replay

    replay.main(argv)


LIMITS = {
    "--time-limit": "minutes",
    "--signal-seconds": "signal_seconds",
    "--steps": "steps",
}  # of rehearsal.Limits
ANSWERS = ("goodput", "doctor", "verify-resume", "replay")  # what they print is what they are for
ANSWERING = {
    "-h",
    "--help",
    "--cfg",
    "--dry-run",
    "--status",
    "verify",
    "describe",
}  # the same of any command
RANKS = ("pretrain", "correspond", "evaluate", "tables")  # started as ranks of a process group
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "demo": _demo,
    "faces": _faces,
    "shards": _shards,
    "pretrain": _pretrain,
    "correspond": _correspond,
    "evaluate": _evaluate,
    "tables": _tables,
    "sweep": _sweep,
    "match": _match,
    "detect": _detect,
    "export": _export,
    "adopt": _adopt,
    "report": _report,
    "doctor": _doctor,
    "submit": _submit,
    "goodput": _goodput,
    "verify-resume": _verify_resume,
    "replay": _replay,
}

if __name__ == "__main__":
    main()
