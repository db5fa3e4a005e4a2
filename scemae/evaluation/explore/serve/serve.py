"""`scemae explore RUN --serve --pictures FOLDER`: annotate pictures in the browser, fit, build.

scemae explore runs/demo --serve --pictures photos/cats --out cats
"""

import argparse
import secrets
import socket
from collections.abc import Callable
from functools import cache

import uvicorn

from scemae.distributed.process_group import choose_device, flush_denormals
from scemae.errors import ConfigError, RunFolderError
from scemae.evaluation.explore.held import subject_of
from scemae.evaluation.explore.serve.annotation import Notebook
from scemae.evaluation.explore.serve.app import Page
from scemae.evaluation.explore.serve.pictures import Pictures
from scemae.evaluation.explore.serve.suggest import Suggester
from scemae.evaluation.explore.serve.workshop import POINTS, Workshop
from scemae.evaluation.photographs.photograph_features import of_subject
from scemae.files import disk

HOST = "127.0.0.1"
LOCK = ".serve.lock"  # in OUT


def serve(given: argparse.Namespace, explorer: Callable[[], str]) -> None:
    """Answer until Ctrl-C. explorer: makes the page that runs networks in the browser.

    Raises ConfigError, DataError, RunFolderError or CheckpointError before the address is printed.
    """
    flush_denormals()
    if given.out.exists() and not given.out.is_dir():
        raise ConfigError(f"--out: {given.out} is a file; give a folder for what is saved")
    pictures = Pictures(given.pictures)
    listening = listen(given.port)
    disk.make_folders(given.out, given.out)
    try:
        with disk.locked(given.out / LOCK, wait=False):
            page, token = make_page(given, pictures, explorer), secrets.token_urlsafe(24)
            _say(given, page, token)
            _answer(page, token, listening)
    except BlockingIOError as error:
        raise RunFolderError(
            f"{given.out}: found another `scemae explore --serve` that saves there; use its page, "
            "or give another --out"
        ) from error
    finally:
        listening.close()


def make_page(given: argparse.Namespace, pictures: Pictures, explorer: Callable[[], str]) -> Page:
    """The page over a folder of pictures. Raises ConfigError, DataError, CheckpointError."""
    notebook = Notebook(given.out / POINTS, pictures)
    trained = of_subject(subject_of(given.runs), choose_device("auto"))
    suggester = Suggester(notebook, trained)
    workshop = Workshop(notebook, trained, given.out, given)
    return Page(notebook, suggester, workshop, cache(explorer), trained.subject.title)


def listen(port: int) -> socket.socket:
    """A socket on the loopback alone. Raises ConfigError where the port is taken."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"--port: found {port} in use ({error.strerror}), perhaps by another `scemae explore "
            "--serve`; end that one, or give another --port"
        ) from error
    return listening


def _say(given: argparse.Namespace, page: Page, token: str) -> None:
    notebook = page.notebook
    print(
        f"{len(notebook.pictures.names):,} pictures, {len(notebook.done())} of them annotated; "
        f"points are saved in {given.out / POINTS} after each change"
    )
    print(f"open http://{HOST}:{given.port}/{token}/ on this machine; Ctrl-C ends", flush=True)


def _answer(page: Page, token: str, listening: socket.socket) -> None:
    settings = uvicorn.Config(
        page.app(token),
        log_level="warning",
        access_log=False,  # it would print the token
        server_header=False,
        timeout_graceful_shutdown=2,
        lifespan="off",
    )
    try:
        uvicorn.Server(settings).run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # how it ends: everything is on the disk
    page.desk.cancel()
    page.desk.wait(5)
