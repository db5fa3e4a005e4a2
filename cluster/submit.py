"""`scemae submit`: the stages as a chain of dependent jobs, through submitit, from a snapshot."""

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
    """Make one list per stage of settings such as `pretrain.optim.epochs=9`."""
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
    run_dir, is_local = Path(config.run_dir).absolute(), config.cluster.kind == "local"
    check_place(run_dir)
    parts = chain.parts_of(config, stages)
    if dry_run:
        for i, stage in enumerate(stages):
            print(script(config, stages, i))
            if stage.name in parts:
                print(f"# as an array of {config.parts}: element k adds --part k/{config.parts}")
        return
    require_batch(config)
    status.refuse_if_alive(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    # Private: the commands of the jobs are in it, with the URLs that were typed.
    (run_dir / JOBS).mkdir(mode=0o700, exist_ok=True)
    chain.snapshot(config, stages)
    arrays = {name: [command(config, one) for one in found] for name, found in parts.items()}
    if is_local:
        run_here(config, stages, arrays)
    else:
        queue(config, stages, arrays, at_once=config.parts)


def check_place(run_dir: Path) -> None:
    """Raise ConfigError for a path that job scripts or PYTHONPATH would misread."""
    # Among them are line ends, and bytes that are not UTF-8.
    unprintable = [one for one in str(run_dir) if not one.isprintable()]
    special = (*unprintable, ":", "%j", "%t", "%A", "%a")
    found = next((one for one in special if one in str(run_dir)), None)
    if found is not None:
        raise ConfigError(
            f"run_dir: found {found!r} in {str(run_dir)!r}, which the job scripts cannot express; "
            "give a folder without it"
        )


def require_batch(config: SubmitConfig) -> None:
    """Raise LaunchError where jobs are to be submitted and this machine cannot."""
    if config.cluster.kind != "local" and shutil.which("sbatch") is None:
        raise LaunchError(
            "found no sbatch on PATH; submit from a login node of the cluster, or give "
            "cluster=local"
        )


def queue(
    config: SubmitConfig, stages: list[Stage], arrays: dict[str, list[list[str]]], at_once: int = 1
) -> None:
    """Submit all stages or none; each starts once the one before it has ended as `after` says.

    arrays: the commands of stages that are arrays of jobs, of which `at_once` run at a time.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    run_dir = Path(config.run_dir).absolute()
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
        stage.job_id = job.job_id.partition("_")[0]  # of an array's first element: the array's
        chain.write(run_dir, "batch", stages)
        after = f" after {stages[i - 1].job_id}" if i else ""
        print(f"{stage.name}: job {stage.job_id}{after}, log {job.paths.stdout}")
    print(f"`scemae submit --status {shlex.quote(config.run_dir)}` shows their state")


def run_here(config: SubmitConfig, stages: list[Stage], arrays: dict[str, list[list[str]]]) -> None:
    """Run the stages, and the commands of an array, one by one here; stop at the first failure."""
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
                f"{stage.name}: asked to stop; its ranks save and end, the same command resumes it"
            ) from None
        # Not job.results(), which would unpickle what the ranks returned.
        results = [jobs / f"{job.job_id}_{rank}_result.pkl" for rank in range(stage.ranks)]
        if any(status.outcome(result) != "success" for result in results):
            raise LaunchError(
                f"{stage.name}: failed, the stages after it were not started; see "
                f"{job.paths.stdout}, correct the cause and run the same command again"
            )


def _executor(config: SubmitConfig, stages: list[Stage], i: int, *, is_array: bool = False) -> Any:
    """submitit's executor with the options of stage i, which waits for the stage before it."""
    submitit = _submitit()
    stage, folder = stages[i], Path(config.run_dir).absolute() / JOBS
    if config.cluster.kind == "local":
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(
            timeout_min=60 * 24 * 365,
            tasks_per_node=stage.ranks,
            gpus_per_node=stage.gpus,
            stderr_to_stdout=True,
            setup=_setup(config),
        )
        return executor

    slurm_executor: Any = submitit.SlurmExecutor

    class SlurmWithoutSrun(slurm_executor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # so that a dry run works where Slurm is not installed

    executor = SlurmWithoutSrun(folder)
    executor.update_parameters(
        job_name=f"scemae-{stage.name}",
        nodes=stage.nodes,
        cpus_per_task=config.cluster.cpus_per_task,
        time=config.cluster.time,
        use_srun=False,
        stderr_to_stdout=True,
        setup=_setup(config),
        additional_parameters=_other_options(config, stage, folder, is_array),
        **_named_options(config, stages, i),
    )
    return executor


def _named_options(config: SubmitConfig, stages: list[Stage], i: int) -> dict[str, Any]:
    """The options of stage i that submitit knows by name and that are set."""
    cluster, stage, dependency = config.cluster, stages[i], None
    if i:
        before = stages[i - 1]
        dependency = f"{stage.after}:{before.job_id or 'JOB_OF_' + before.name.upper()}"
    named = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "mem": cluster.mem,
        "gpus_per_node": stage.gpus or None,
        "dependency": dependency,
    }
    return {key: value for key, value in named.items() if value is not None}


def _other_options(
    config: SubmitConfig, stage: Stage, folder: Path, is_array: bool
) -> dict[str, Any]:
    """The options of sbatch that submitit does not know by name."""
    found: dict[str, Any] = {
        "ntasks-per-node": stage.ranks,
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        # submitit needs a signal. A stage that cannot save gets one that does nothing.
        "signal": f"TERM@{config.cluster.signal}" if stage.saves else "B:CONT@1",
    }
    if "%" in str(folder):
        log = "%A_%a_0_log.out" if is_array else "%j_0_log.out"
        found["output"] = f"{folder}/".replace("%", "%%") + log
    for option in config.cluster.options:
        name, _, value = option.partition("=")
        found[name] = value or True
    return found


def _setup(config: SubmitConfig) -> list[str]:
    """The shell lines of each job: the user's, then those that make it run the snapshot."""
    code, cluster = Path(config.run_dir).absolute() / CODE, config.cluster
    path = f"PYTHONPATH={shlex.quote(str(code))}"
    # Quoted for the shell: ranks.sh evaluates this line.
    program = shlex.quote(sys.executable)
    if cluster.container:
        program = f"{cluster.container} env PYTHONSAFEPATH=1 {path} python"
    return [
        *cluster.setup,
        f"export {path}",
        "export PYTHONSAFEPATH=1",  # else python -m takes the code of the current folder
        f"export SCEMAE_COMMAND={shlex.quote(program + ' -m scemae')}",
        f"export SCEMAE_MAX_RESTARTS={cluster.max_restarts}",
    ]


def command(config: SubmitConfig, stage: Stage) -> list[str]:
    """What a job runs: on a cluster ranks.sh, as jobs submitted by hand do; here scemae itself."""
    if config.cluster.kind == "local":
        return [sys.executable, "-m", "scemae", *stage.arguments]
    code = Path(config.run_dir).absolute() / CODE
    return ["bash", str(code / "scemae" / "cluster" / "ranks.sh"), *stage.arguments]


def script(config: SubmitConfig, stages: list[Stage], i: int) -> str:
    """The job of stage i as it would be submitted."""
    shown = f"# {stages[i].name} runs: {shlex.join(map(masked, command(config, stages[i])))}"
    if config.cluster.kind == "local":
        return shown
    executor = _executor(config, stages, i)
    return f"{shown}\n{executor._make_submission_file_text(executor._submitit_command_str, '')}"


def run_stage(command: list[str]) -> None:
    """Inside a job: run the command and end with its status; ranks.sh requeues where needed.

    Signals are passed on to the command, since submitit's own handlers would requeue a job that has
    saved nothing.
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
    ended = child.wait()
    if ended == 1:  # submitit records the error, and the job fails
        raise LaunchError(f"{shlex.join(map(masked, command))}: failed, see above")
    if ended:
        sys.exit(ended if ended > 0 else 128 - ended)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise LaunchError(
            "found no submitit; install it with `pip install 'scemae[cluster]'`"
        ) from error
    return submitit
