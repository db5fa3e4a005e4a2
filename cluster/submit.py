"""`scemae submit`: the stages as one chain of dependent jobs, through submitit, from a snapshot in the run folder."""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from scemae.cluster import chain, status
from scemae.cluster.chain import CODE, JOBS, STAGES, Stage
from scemae.config.load import compose_yaml, load_config
from scemae.config.locations import masked
from scemae.config.schema.jobs import SubmitConfig
from scemae.config.values import as_list
from scemae.errors import ConfigError, LaunchError, Preempted


def main(options: argparse.Namespace) -> None:
    """Submit a chain, or show its state. Raises ConfigError, LaunchError, Preempted."""
    settings = gather(options.settings)
    if options.status:
        if settings:
            raise ConfigError(f"--status: found {settings[0]} too; give the run folder alone")
        print(status.describe(options.status))
    elif options.cfg:
        print(compose_yaml("submit", settings))
    else:
        config = load_config("submit", settings, typed=True)
        submit(config, chain.plan(config), dry_run=options.dry_run)


def gather(words: list[str]) -> list[str]:
    """Turn `pretrain.optim.epochs=9` and the like into one list per stage, as configs/submit.yaml has them."""
    found: dict[str, list[str]] = {}
    rest = []
    for word in words:
        stage, dot, setting = word.partition(".")
        if stage in STAGES[1:] and dot and "=" not in stage:
            found.setdefault(stage, []).append(setting)
        else:
            rest.append(word)
    return rest + [f"{stage}={as_list(listed)}" for stage, listed in found.items()]


def submit(config: SubmitConfig, stages: list[Stage], *, dry_run: bool) -> None:
    """Submit the chain and record it, or only print it."""
    run_dir, local = Path(config.run_dir).absolute(), config.cluster.kind == "local"
    check_place(run_dir)
    if dry_run:
        print(*(script(config, stages, i) for i in range(len(stages))), sep="\n")
        return
    require_batch(config)
    status.refuse_if_alive(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / JOBS).mkdir(
        mode=0o700, exist_ok=True
    )  # what each job runs lies there, with the URLs that were typed
    chain.snapshot(config, stages)
    (run_here if local else queue)(config, stages, {})


def check_place(run_dir: Path) -> None:
    """Raise ConfigError for a folder whose name would mean something else in a job script or on PYTHONPATH."""
    strange = [
        one for one in str(run_dir) if not one.isprintable()
    ]  # new lines, and bytes that are no UTF-8
    taken = next(
        (one for one in (*strange, ":", "%j", "%t", "%A", "%a") if one in str(run_dir)), None
    )
    if taken is not None:
        raise ConfigError(
            f"run_dir: found {taken!r} in {str(run_dir)!r}, which the job scripts cannot express; give a folder without it"
        )


def require_batch(config: SubmitConfig) -> None:
    """Raise LaunchError where jobs are to be submitted and this machine cannot."""
    if config.cluster.kind != "local" and shutil.which("sbatch") is None:
        raise LaunchError(
            "found no sbatch on PATH; submit from a login node of the cluster, or give cluster=local"
        )


def queue(
    config: SubmitConfig, stages: list[Stage], arrays: dict[str, list[list[str]]], at_once: int = 1
) -> None:
    """Submit each stage to start when the one before it has ended as it asks; all of them, or none. arrays: by name of the
    stage, the commands of those that are an array of jobs, `at_once` of them at a time."""
    run_dir = Path(config.run_dir).absolute()
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    chain.make_jobs(run_dir)
    for i, stage in enumerate(stages):
        try:
            executor = _executor(config, stages, i, is_array=stage.name in arrays)
            if stage.name in arrays:
                executor.update_parameters(array_parallelism=at_once)
                job = executor.map_array(run_stage, arrays[stage.name])[0]
            else:
                job = executor.submit(run_stage, command(config, stage))
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            for earlier in stages[:i]:
                subprocess.run(["scancel", earlier.job_id], check=False)
            raise LaunchError(
                f"{stage.name}: the cluster refused the job and nothing stays queued: "
                f"{' '.join(str(error).split())}"
            ) from error
        stage.job_id = job.job_id.partition("_")[0]  # of an array's elements too
        chain.write(run_dir, "batch", stages)
        print(
            f"{stage.name}: job {stage.job_id}"
            + (f" after {stages[i - 1].job_id}" if i else "")
            + f", log {job.paths.stdout}"
        )
    print(f"`scemae submit --status {shlex.quote(config.run_dir)}` tells how it goes")


def run_here(config: SubmitConfig, stages: list[Stage], arrays: dict[str, list[list[str]]]) -> None:
    """Run the stages, and the commands of an array, one after the other on this machine; stop at the first that fails."""
    run_dir = Path(config.run_dir).absolute()
    jobs = chain.make_jobs(run_dir)
    commands = [
        (i, stage, words)
        for i, stage in enumerate(stages)
        for words in arrays.get(stage.name) or [command(config, stage)]
    ]
    for i, stage, words in commands:
        job = _executor(config, stages, i).submit(run_stage, words)
        stage.job_id = job.job_id
        chain.write(run_dir, "local", stages)
        print(f"{stage.name}: log {job.paths.stdout}", flush=True)
        try:
            job.wait()
        except KeyboardInterrupt:
            raise Preempted(
                f"{stage.name}: asked to stop; its ranks save and end, the same command goes on"
            ) from None
        # Not job.results(), which unpickles: only whether each rank succeeded is of interest.
        if any(
            status.outcome(jobs / f"{stage.job_id}_{rank}_result.pkl") != "success"
            for rank in range(stage.ranks)
        ):
            raise LaunchError(
                f"{stage.name}: failed, the stages after it were not started; see {job.paths.stdout}, "
                "mend it and run the same command again"
            )


def _executor(config: SubmitConfig, stages: list[Stage], i: int, *, is_array: bool = False) -> Any:
    """submitit's executor with the options of stage i, which waits for the stage before it."""
    submitit = _submitit()
    cluster, stage = config.cluster, stages[i]
    folder = Path(config.run_dir).absolute() / JOBS
    if cluster.kind == "local":
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(
            timeout_min=60 * 24 * 365,
            tasks_per_node=stage.ranks,
            gpus_per_node=stage.gpus,
            stderr_to_stdout=True,
            setup=_setup(config),
        )
        return executor

    class SlurmWithoutSrun(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:  # a dry run works where there is no srun
            return 1

    executor = SlurmWithoutSrun(folder)
    more = {
        "ntasks-per-node": stage.ranks,
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        # submitit insists on a signal; what cannot save gets one that does nothing, and fails at its limit.
        "signal": f"TERM@{cluster.signal}" if stage.saves else "B:CONT@1",
        **(
            {
                "output": f"{folder}/".replace("%", "%%")
                + ("%A_%a_0_log.out" if is_array else "%j_0_log.out")
            }
            if "%" in str(folder)
            else {}
        ),
        **{
            name: value or True
            for name, _, value in (option.partition("=") for option in cluster.options)
        },
    }
    named = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "mem": cluster.mem,
        "gpus_per_node": stage.gpus or None,
        "dependency": f"{stage.after}:{stages[i - 1].job_id or 'JOB_OF_' + stages[i - 1].name.upper()}"
        if i
        else None,
    }
    executor.update_parameters(
        job_name=f"scemae-{stage.name}",
        nodes=stage.nodes,
        cpus_per_task=cluster.cpus_per_task,
        time=cluster.time,
        use_srun=False,
        stderr_to_stdout=True,
        setup=_setup(config),
        additional_parameters=more,
        **{key: value for key, value in named.items() if value is not None},
    )
    return executor


def _setup(config: SubmitConfig) -> list[str]:
    """The shell lines of each job: the user's, then what makes it run the snapshot."""
    code, cluster = Path(config.run_dir).absolute() / CODE, config.cluster
    inside = f"{cluster.container} env PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(code))} python"
    program = (
        inside if cluster.container else shlex.quote(sys.executable)
    )  # words of a shell: ranks.sh evaluates them
    # Without the second, python -m would find the code in the working folder first.
    return [
        *cluster.setup,
        f"export PYTHONPATH={shlex.quote(str(code))}",
        "export PYTHONSAFEPATH=1",
        f"export SCEMAE_COMMAND={shlex.quote(program + ' -m scemae')}",
        f"export SCEMAE_MAX_RESTARTS={cluster.max_restarts}",
    ]


def command(config: SubmitConfig, stage: Stage) -> list[str]:
    """What a job runs: on the cluster the script that people submit by hand ends with too, here the program itself."""
    if config.cluster.kind == "local":
        return [sys.executable, "-m", "scemae", *stage.arguments]
    return [
        "bash",
        str(Path(config.run_dir).absolute() / CODE / "scemae" / "cluster" / "ranks.sh"),
        *stage.arguments,
    ]


def script(config: SubmitConfig, stages: list[Stage], i: int) -> str:
    """The job of stage i as it would be submitted."""
    shown = f"# {stages[i].name} runs: {shlex.join(map(masked, command(config, stages[i])))}"
    if config.cluster.kind == "local":
        return shown
    executor = _executor(config, stages, i)
    return f"{shown}\n{executor._make_submission_file_text(executor._submitit_command_str, '')}"


def run_stage(command: list[str]) -> None:
    """Inside a job: run the command and end as it ended; ranks.sh has requeued if that was to be done.

    submitit's own signal handlers would requeue a job that has saved nothing: here signals go to the command.
    """
    environment = dict(os.environ)
    place = _submitit().JobEnvironment()
    if place.cluster == "local":
        environment.update(
            RANK=str(place.global_rank),
            WORLD_SIZE=str(place.num_tasks),
            LOCAL_RANK=str(place.local_rank),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(10000 + int(place.job_id) % 20000),
        )
    child = subprocess.Popen(command, env=environment)
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, lambda received, _: child.send_signal(received))
    found = child.wait()
    if found in (0, 1):
        if found:
            raise LaunchError(
                f"{shlex.join(map(masked, command))}: failed, see above"
            )  # submitit records it, the job fails
        return
    sys.exit(found if found > 0 else 128 - found)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise LaunchError(
            "found no submitit; install it with `pip install 'scemae[cluster]'`"
        ) from error
    return submitit
