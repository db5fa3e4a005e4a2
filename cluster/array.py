"""`scemae sweep ... --array`: a random or grid search as an array of jobs, without Ray.

Element k of N runs trials k, k + N, ... one by one (sweep/array_worker.py), each like a sweep with
Ray and in the same folders, so that either kind can resume the other. The array is one start of the
sweep: a later start of either kind takes over from it. A last job writes the table and the page.
"""

import argparse
import math
import shlex
from dataclasses import replace

from scemae.cluster import chain, status, submit
from scemae.cluster.chain import Stage
from scemae.config import checks
from scemae.config.schema.jobs import SubmitConfig
from scemae.errors import ConfigError
from scemae.runs.run_folder import own
from scemae.sweep import spec as sweeps
from scemae.sweep.spec import Sweep
from scemae.sweep.sweep_folder import claim


def main(options: argparse.Namespace) -> None:
    """Submit the array of a sweep, or with --dry-run print it. Raises ConfigError, LaunchError."""
    for name in ("join", "page", "alone", "cfg", "out"):
        if getattr(options, name):
            raise ConfigError(f"found --{name}, which does not go with --array; --dry-run does")
    sweep = sweeps.load(options.settings)
    refuse_dependent_trials(sweep)
    from scemae.sweep.sweep_checks import check  # here: the checks alone need torch

    check(sweep)
    config, stages = plan(sweep)
    elements = min(sweep.config.jobs, sweep.size)
    checks.check(config)
    submit.check_place(sweep.folder)
    if options.dry_run:
        print(*(submit.script(config, stages, i) for i in range(len(stages))), sep="\n")
        print(
            f"# as an array of {elements}: element k runs trials k, k + {elements}, ... below "
            f"{sweep.size}"
        )
        return
    submit.require_batch(config)
    status.refuse_if_alive(sweep.folder)
    claim(sweep)
    # From here on no earlier start, with Ray or without, writes anything.
    with own(sweep.folder, "sweep") as start:
        chain.copy_code(sweep.folder)
        commands = []
        for k in range(elements):
            part = [f"part={k}", f"of={elements}", f"start={start.number}"]
            element = replace(stages[0], arguments=[*stages[0].arguments, *part])
            commands.append(submit.command(config, element))
        if config.cluster.kind == "local":
            submit.run_here(config, stages, {"sweep": commands})
            return
        at_once = sweep.config.concurrency
        limit = elements if at_once == "auto" else int(at_once)
        submit.queue(config, stages, {"sweep": commands}, limit)
    print(
        f"`scemae submit --status {shlex.quote(str(sweep.folder))}` shows its state; results: "
        f"{sweep.folder / 'sweep.html'}"
    )


def plan(sweep: Sweep) -> tuple[SubmitConfig, list[Stage]]:
    """The jobs of the array: the elements' and the last one's, which writes the page."""
    share, folder = sweep.config.trial, str(sweep.folder)
    gpus = math.ceil(share.gpus)
    cluster = replace(
        sweep.config.cluster,
        nodes=1,
        ranks_per_node=1,
        cpus_per_task=share.ranks * share.cpus,
        gpus_per_node=gpus,
    )
    config = SubmitConfig(folder, [], [], 1, [], [], [], cluster)
    element = Stage("sweep", ["sweep", "--alone", folder], folder, 1, 1, gpus, saves=True)
    page = ["sweep", "--page", folder]
    last = Stage("page", page, folder, 1, 1, 0, saves=False, after="afterany")
    return config, [element, last]


def refuse_dependent_trials(sweep: Sweep) -> None:
    """Raise ConfigError for a sweep whose trials depend on each other."""
    if sweep.config.search == "tpe":
        raise ConfigError(
            "--array: found search=tpe, whose trials follow from those before; give search=random "
            "or grid, or leave --array out"
        )
    if sweep.config.halving.enabled:
        raise ConfigError(
            "--array: found halving.enabled=true, and jobs of an array do not see each other's "
            "trials; give halving.enabled=false"
        )
