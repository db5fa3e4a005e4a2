"""The table of commands: what each does, the module that runs it, how its arguments are read."""

from dataclasses import dataclass

from scemae.commands import help_texts
from scemae.config.closest import closest
from scemae.errors import ConfigError


@dataclass(frozen=True)
class Command:
    """One command of `scemae`. Its module is imported when it runs, since most import torch.

    A settings command takes key=value settings: its help text stands here, and `main` of its module
    gets the checked configuration (`submit` and `sweep`: the parsed options). An options command
    has none here: its options are in commands/arguments, and its module has `main(options)`.
    """

    summary: str
    module: str
    help_text: str | None = None
    has_ranks: bool = False  # runs as the ranks of a process group
    is_answer: bool = False  # its output on stdout is its result, not only messages

    @property
    def arguments(self) -> str:
        """The light module with the options of an options command."""
        name = next(name for name, command in COMMANDS.items() if command is self)
        return f"scemae.commands.arguments.{name.replace('-', '_')}"

    @property
    def takes_settings(self) -> bool:
        """True for a settings command."""
        return self.help_text is not None


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "every step below on generated faces, ending in a report: minutes on two cores",
        "scemae.commands.demo",
    ),
    "faces": Command(
        "generate faces with exact landmarks, in the layout of CelebA, AFLW or 300-W",
        "scemae.faces.write",
    ),
    "shards": Command(
        "build, verify and describe WebDataset shards of a data set or a folder of images",
        "scemae.shards.build",
    ),
    "pretrain": Command(
        "stage 1: a masked autoencoder on faces without labels",
        "scemae.training.pretrain",
        help_texts.PRETRAIN,
        has_ranks=True,
    ),
    "correspond": Command(
        "stage 2: CARB's projector on the frozen encoder, trained with the LCR loss",
        "scemae.training.correspond",
        help_texts.CORRESPOND,
        has_ranks=True,
    ),
    "evaluate": Command(
        "landmark matching and landmark detection of one run",
        "scemae.evaluation.evaluate",
        help_texts.EVALUATE,
        has_ranks=True,
    ),
    "tables": Command(
        "the paper's tables and figures for any runs, with DVE, CL and LEAD",
        "scemae.evaluation.tables.command",
        help_texts.TABLES,
        has_ranks=True,
    ),
    "sweep": Command(
        "search settings such as eta, K_c and the repellence weights with Ray Tune",
        "scemae.sweep.command",
        help_texts.SWEEP,
    ),
    "fit": Command(
        "fit a landmark detector to a few annotated pictures of your own, and measure it",
        "scemae.evaluation.photographs.fit",
    ),
    "match": Command(
        "find points of one photograph in another, by trained features",
        "scemae.evaluation.photographs.match",
    ),
    "detect": Command(
        "find landmarks in photographs, by a trained regressor",
        "scemae.evaluation.photographs.detect",
    ),
    "explore": Command(
        "one page that matches points of photographs in the browser, with trained features",
        "scemae.evaluation.explore.explore",
    ),
    "export": Command(
        "write encoder and projector for timm, as safetensors and ONNX, and check them",
        "scemae.interop.export",
    ),
    "adopt": Command(
        "turn public MAE or timm weights into a backbone for stage 2", "scemae.interop.adopt"
    ),
    "report": Command(
        "one HTML page and one JSON file with all results of a run",
        "scemae.evaluation.report.report",
    ),
    "doctor": Command(
        "check before a job that the run would start, finish and stop in time",
        "scemae.training.doctor.doctor",
        help_texts.DOCTOR,
        is_answer=True,
    ),
    "submit": Command(
        "run the stages as a chain of jobs on a cluster, and show their state",
        "scemae.cluster.submit",
        help_texts.SUBMIT,
    ),
    "goodput": Command(
        "where the wall time of a training run went, over all its starts",
        "scemae.runs.goodput",
        is_answer=True,
    ),
    "verify-resume": Command(
        "prove from a run's ledger that it used every sample exactly as planned",
        "scemae.runs.verify",
        is_answer=True,
    ),
    "replay": Command(
        "run the batch of a skipped step again, on one process",
        "scemae.training.replay",
        is_answer=True,
    ),
    "completion": Command(
        "a script that completes command lines in bash, zsh or fish",
        "scemae.commands.completion",
        is_answer=True,
    ),
}


def find_command(name: str) -> Command:
    """The command of this name. Raises ConfigError, which suggests the closest one."""
    if command := COMMANDS.get(name):
        return command
    close = closest(name, COMMANDS)
    guess = f"did you mean `{close[0]}`" if close else f"there are {', '.join(COMMANDS)}"
    raise ConfigError(f"found no command `{name}`, {guess}; see `scemae --help`")


def overview() -> str:
    """The text of `scemae --help`."""
    rows = "\n".join(f"  {name:<14} {command.summary}" for name, command in COMMANDS.items())
    return help_texts.OVERVIEW.format(rows=rows)
