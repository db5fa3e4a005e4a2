"""`scemae explore RUN`: trained features in the browser, as one page that needs no server.

scemae explore runs/carb                  writes explore.html
scemae explore runs/eval --out page.html  all features that an evaluation measured
"""

import argparse
import base64
import gzip
from pathlib import Path

from scemae import __version__
from scemae.data.augment import MEAN, STD
from scemae.errors import ConfigError
from scemae.evaluation.explore import runtime
from scemae.evaluation.explore.examples import examples
from scemae.evaluation.explore.held import Held, hold
from scemae.evaluation.explore.runtime import Runtime
from scemae.evaluation.page import html_page
from scemae.files import disk
from scemae.interop.export import check_packages


def main(given: argparse.Namespace) -> None:
    """Write the page, or serve. Raises ConfigError, DataError, CheckpointError, RunFolderError."""
    if given.serve:
        _serve(given)
        return
    if given.pictures is not None:
        raise ConfigError("--pictures: found no --serve, which it belongs to; add --serve")
    out = given.out or Path("explore.html")
    if out.is_dir():
        raise ConfigError(f"--out: {out} is a folder; give a file, such as explore.html")
    page = make_page(given.runs, given.runtime)
    out.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(out, page)
    print(f"{out}: {len(page) / 1e6:.1f} MB; open it in a browser")


def _serve(given: argparse.Namespace) -> None:
    check_packages("--serve", ("starlette", "uvicorn"), "serve")
    from scemae.evaluation.explore.serve.serve import serve  # needs these packages

    if given.pictures is None:
        raise ConfigError("--serve: found no --pictures; give the folder of pictures to annotate")
    given.out = given.out or Path("annotated")
    serve(given, lambda: make_page(given.runs, given.runtime))


def make_page(runs: list[Path], folder: Path | None) -> str:
    """The page of runs; folder: of onnxruntime-web, or None.

    Raises ConfigError, CheckpointError, RunFolderError.
    """
    check_packages("explore")
    found = runtime.load(folder)
    return render(hold(runs), found)


def render(held: Held, found: Runtime) -> str:
    """The page."""
    model = {"mean": list(MEAN), "std": list(STD), "features": held.features, "choice": held.choice}
    heads = [None if head is None else packed(head) for head in held.heads]
    faces = [(name, base64.b64encode(data).decode()) for name, data in examples()]
    return html_page.render(
        Path(__file__).with_name("explore.html"),
        title=held.title,
        model=model,
        patches=held.patches,
        facts=held.facts,
        encoder=packed(held.encoder),
        heads=heads,
        runtime_script=packed(runtime.as_classic(found.script)),
        runtime_binary=packed(found.binary),
        runtime_version=found.version,
        faces=faces,
        version=__version__,
    )


def packed(data: bytes) -> str:
    """Bytes as text for the page: gzip (without a time, so that pages are equal), then base64."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()
