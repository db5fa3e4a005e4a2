"""`scemae sweep ... --array`: the trials of a random or grid search as an array of jobs, through submitit and without Ray.

Element k of N runs trials k, k + N, ... one after the other (sweep/array_worker.py), each as the sweep with Ray runs it, in the same
folders: either can go on where the other stopped. The array is one start of the sweep, so a later start of either kind takes
over from it. A last job writes the table and the page.
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


def main(options: argparse.Namespace) -> None:
    """Submit the array of a sweep, or with --dry-run print it. Raises ConfigError, LaunchError."""
    for name in ("join", "page", "alone", "cfg", "out"):
        if getattr(options, name):
            raise ConfigError(f"found --{name}, which does not go with --array; --dry-run does")
    sweep = sweeps.load(options.settings)
    check(sweep)
    sweep.check()
    share, cluster = sweep.config.trial, sweep.config.cluster
    config = SubmitConfig(
        str(sweep.folder),
        [],
        [],
        [],
        [],
        [],
        replace(
            cluster,
            nodes=1,
            ranks_per_node=1,
            cpus_per_task=share.ranks * share.cpus,
            gpus_per_node=math.ceil(share.gpus),
        ),
    )
    elements = min(sweep.config.jobs, sweep.size)
    stages = [
        Stage(
            "sweep",
            ["sweep", "--alone", str(sweep.folder)],
            str(sweep.folder),
            1,
            1,
            math.ceil(share.gpus),
            saves=True,
        ),
        Stage(
            "page",
            ["sweep", "--page", str(sweep.folder)],
            str(sweep.folder),
            1,
            1,
            0,
            saves=False,
            after="afterany",
        ),
    ]
    checks.check(config)
    submit.check_place(sweep.folder)
    if options.dry_run:
        print(*(submit.script(config, stages, i) for i in range(len(stages))), sep="\n")
        print(
            f"# as an array of {elements}: element k runs trials k, k + {elements}, ... below {sweep.size}"
        )
        return
    submit.require_batch(config)
    status.refuse_if_alive(sweep.folder)
    sweep.claim()
    with own(
        sweep.folder, "sweep"
    ) as start:  # from here on no earlier start, with Ray or without, writes anything
        chain.copy_code(sweep.folder)
        commands = [
            submit.command(
                config,
                replace(
                    stages[0],
                    arguments=[
                        *stages[0].arguments,
                        f"part={k}",
                        f"of={elements}",
                        f"start={start.number}",
                    ],
                ),
            )
            for k in range(elements)
        ]
        if cluster.kind == "local":
            submit.run_here(config, stages, {"sweep": commands})
            return
        at_once = sweep.config.concurrency
        submit.queue(
            config, stages, {"sweep": commands}, elements if at_once == "auto" else int(at_once)
        )
    print(
        f"`scemae submit --status {shlex.quote(str(sweep.folder))}` tells how it goes; results: {sweep.folder / 'sweep.html'}"
    )


def check(sweep: Sweep) -> None:
    """Raise ConfigError for a sweep whose trials would have to know of each other."""
    if sweep.config.search == "tpe":
        raise ConfigError(
            "--array: found search=tpe, whose trials follow from those before; give search=random or grid, or leave "
            "--array out"
        )
    if sweep.config.halving.enabled:
        raise ConfigError(
            "--array: found halving.enabled=true, and jobs of an array do not see each other's trials; give "
            "halving.enabled=false"
        )
