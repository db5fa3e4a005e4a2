"""`scemae.pretrain`: a backbone from a folder of pictures, by the commands that a user would type.

They run in processes of their own: training takes over signals and the process group.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from scemae.api.model import Model, load
from scemae.config import values
from scemae.config.load import load_config
from scemae.errors import ConfigError, DataError, Preempted, ScemaeError
from scemae.process.cores import cores


def pretrain(
    pictures: str | Path,
    out: str | Path,
    *,
    epochs: int = 400,
    workers: int | None = None,
    device: str = "auto",
    **settings: Any,
) -> Model:
    """Train stage 1 on a folder of pictures and return the model.

    `out` becomes the run folder; the shards are built in out/shards. settings: those of `scemae
    pretrain` (model="deit_tiny"; dotted ones as **{"optim.lr": 1e-3}). workers: processes that read
    pictures, all cores if None. The same call continues what was interrupted. Raises ConfigError,
    DataError for no folder, Preempted where the training was asked to stop and saved, ScemaeError
    with the sentence of a command that failed.
    """
    source, run_dir = Path(pictures), Path(out)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; give a folder of pictures")
    shards = run_dir / "shards"
    given = {"run_dir": run_dir, "data.shards": shards / "train", "optim.epochs": epochs}
    given["runtime.device"] = device
    if taken := sorted(set(settings) & {*given, "shards"}):
        raise ConfigError(f"{taken[0]}: is an argument of its own; give it as such")
    words = [f"{key}={_text(value)}" for key, value in {**given, **settings}.items()]
    load_config("pretrain", words)  # refuses wrong settings before the shards are built
    places = [values.as_argument(source), values.as_argument(shards)]
    _run("shards", "build", "folder", *places, f"--workers={workers or cores()}")
    _run("pretrain", *words)
    return load(run_dir, device=device)


def _text(value: Any) -> str:
    """A value as the command line writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return values.as_list([_text(one) for one in value])
    return str(value)


def _run(*words: str) -> None:
    """Run `scemae WORDS`; its messages are shown. Raises what it ended with, as one sentence."""
    command = [sys.executable, "-m", "scemae", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stderr is not None
        last = ""
        try:
            for line in process.stderr:
                sys.stderr.write(line)
                last = line.strip() or last
            status = process.wait()
        except KeyboardInterrupt:
            process.terminate()  # it saves, and ends
            process.wait()
            raise
    sentence = last.removeprefix(f"scemae {words[0]}: ")
    if status == Preempted.exit_status:
        raise Preempted(sentence)
    if status:
        raise ScemaeError(sentence or f"`scemae {words[0]}` ended with {status}; see its output")
