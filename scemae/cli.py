"""The `scemae` command: run one command of the table, and turn its errors into exit statuses."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

import scemae
from scemae.commands.parse import parse
from scemae.commands.table import COMMANDS, find_command, overview
from scemae.config.inputs import refuse_missing, refuse_missing_arguments
from scemae.config.locations import without_secrets
from scemae.distributed.launchers import Launch
from scemae.errors import ScemaeError
from scemae.process import collector, library_caches, streams
from scemae.process.import_path import leave_out_current_folder
from scemae.runs import faults

# With one of these arguments, what any command prints is its result.
RESULT_WORDS = {"-h", "--help", "--cfg", "--explain", "--dry-run", "--status", "verify", "info"}


def main(argv: list[str] | None = None) -> None:
    """Run one command; exit with 0 if done, 1 if failed, 75 if preempted."""
    collector.stop()  # until the command and torch are imported
    if argv is None:
        leave_out_current_folder()
        argv = sys.argv[1:]
    # deepspeed's launcher puts --local_rank first
    argv = [word for word in argv if not word.startswith("--local_rank")]
    streams.guard()
    library_caches.settle()
    argv = _as_command(argv)
    status = _status_of(argv) or _status_of_output(argv)
    if argv[0] in COMMANDS and COMMANDS[argv[0]].has_ranks:
        # Exit at once: threads that a process group leaves behind can abort or hang a normal exit,
        # and the job script reads the status.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)


def _as_command(argv: list[str]) -> list[str]:
    """The words with `scemae help X` as `scemae X --help`, and no words as `scemae --help`."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        return [*argv[1:], "--help"] if argv and argv[0] == "help" and argv[1:] else ["--help"]
    return ["--version"] if argv[0] in ("-V", "version") else argv


def run_command(words: list[str]) -> None:
    """Run one command. Raises what the command raises, and SystemExit after --help."""
    name = words[0]
    if name == "--help":
        print(overview())
        return
    if name == "--version":
        print(f"scemae {scemae.__version__}")
        return
    command = find_command(name)
    faults.at("command")
    options = parse(name, words[1:])
    if getattr(options, "explain", None) is not None:
        explain = import_module("scemae.commands.explain").explain  # reads YAML: 50 ms
        print(explain(options.schema, options.explain))
    elif not command.takes_settings:
        reads = getattr(import_module(command.arguments), "READS", ())
        refuse_missing_arguments(options, reads)
        _refuse_untrained(name, options)
        if name == "replay":
            # Read when deepspeed is imported: replay runs on one process without a GPU.
            os.environ["DS_ACCELERATOR"] = "cpu"
        _main_of(command.module)(options)
    elif name == "sweep" and options.array:
        _main_of("scemae.cluster.array")(options)  # sweep/ cannot import cluster/
    elif name in ("submit", "sweep"):
        _main_of(command.module)(options)
    elif (config := _load(name, options)) is not None:
        arguments = (config, options) if name == "doctor" else (config,)
        _main_of(command.module)(*arguments)


def _main_of(module: str) -> Callable[..., None]:
    """The function that runs a command, with all that it imports."""
    found = import_module(module).main
    collector.go_on()
    return found


def _load(name: str, options: argparse.Namespace) -> Any:
    """The checked configuration of a command; None after --cfg, which prints it."""
    from scemae.config.load import compose_yaml, load_config

    if options.cfg:
        print(compose_yaml(options.schema, options.settings))
        return None
    config = load_config(options.schema, options.settings, typed=True)
    if COMMANDS[options.schema].has_ranks:
        Launch.read()  # refuse an incomplete environment before torch is imported
        if name != "doctor":  # which names all that it refuses, each on a line
            refuse_missing(config)
            _refuse_untrained(name, config)
    from scemae.distributed.process_group import choose_device

    # Read when deepspeed is imported; without it, deepspeed takes any GPU that it finds.
    os.environ["DS_ACCELERATOR"] = choose_device(config.runtime.device).type
    return config


def _refuse_untrained(name: str, found: Any) -> None:
    if name in ("match", "detect", "fit", "export", "report", "correspond", "evaluate", "tables"):
        trained_models = import_module("scemae.commands.trained_models")  # numpy: 0.5 s
        trained_models.refuse_untrained(name, found)


def _status_of(words: list[str]) -> int:
    """Run one command, print its error in one sentence, return its exit status."""
    try:
        run_command(words)
        return 0
    except SystemExit as end:  # of argparse, for example
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except ScemaeError as error:
        sentence, status = without_secrets(str(error)), error.exit_status
    except KeyboardInterrupt:
        sentence, status = "stopped by Ctrl-C; the same command resumes, or starts again", 130
    except Exception as error:
        sentence, status = _sentence_of(error), 1
        if not sentence:
            if not (words[0] in COMMANDS and COMMANDS[words[0]].has_ranks):
                raise
            traceback.print_exc()  # main ends the process of a rank without Python's own report
            return status
    print(f"scemae {words[0]}: {sentence}", file=sys.stderr)
    return status


def _sentence_of(error: Exception) -> str:
    """What a user can do about an error of the disk or of a name; empty for any other error."""
    if isinstance(error, UnicodeEncodeError):
        return (
            f"found {error.object[:200]!r}, which cannot be written as {error.encoding}; rename it "
            "to a name in UTF-8"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return (
            f"{error.filename or 'the disk'}: {error.strerror}; nothing finished was lost, free "
            "space or repair it and run the same command again"
        )
    return ""


def _status_of_output(words: list[str]) -> int:
    """1 where the result of a command is what it prints, and stdout could not take all of it."""
    command = COMMANDS.get(words[0])
    is_result = (command is not None and command.is_answer) or not RESULT_WORDS.isdisjoint(words)
    if is_result and (why := streams.incomplete(sys.stdout)):
        print(
            f"scemae {words[0]}: stdout: {why}; the output is incomplete, free space and run it "
            "again",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    main()
