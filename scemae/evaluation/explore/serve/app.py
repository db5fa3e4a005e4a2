"""The addresses of the page, all below one random token; a request without it is refused.

Only programs of this machine reach the server, which listens on 127.0.0.1 alone. The token keeps
out other users of the machine, and pages of other origins in the same browser.
"""

import secrets
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from scemae import __version__
from scemae.errors import DataError, ScemaeError
from scemae.evaluation.explore.serve.annotation import Annotation, Notebook, OutdatedError
from scemae.evaluation.explore.serve.job import Desk
from scemae.evaluation.explore.serve.suggest import Suggester
from scemae.evaluation.explore.serve.workshop import POINTS, Workshop
from scemae.evaluation.page import html_page
from scemae.files import disk, documents

HERE = Path(__file__).parent
SCRIPTS = ("state.js", "canvas.js", "results.js", "keys.js", "annotate.js")
GOAL = 20  # annotated pictures: a good start
LISTED = 2000  # pictures that the page lists
MOST = 64 * disk.MIB  # bytes of a request
HOSTS = ("127.0.0.1", "localhost")
NO_TOKEN = (
    "This address lacks the token; open the one that `scemae explore --serve` printed, with all of "
    "its characters.\n"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page:
    """What the addresses answer."""

    def __init__(
        self,
        notebook: Notebook,
        suggester: Suggester,
        workshop: Workshop,
        explorer: Callable[[], str],
        title: str,
    ) -> None:
        """explorer: makes the page of `scemae explore`; title: of the model."""
        self.notebook, self.suggester, self.workshop = notebook, suggester, workshop
        self.explorer, self.title, self.desk = explorer, title, Desk()

    def app(self, token: str) -> ASGIApp:
        """All addresses below /TOKEN/."""
        parts = [
            Route("/", self.page),
            Route("/page.js", self.script),
            Route("/state", self.state),
            Route("/picture", self.picture),
            Route("/annotation", self.annotate, methods=["PUT"]),
            Route("/suggest", self.suggest),
            Route("/job", self.job),
            Route("/fit", self.fit, methods=["POST"]),
            Route("/cancel", self.cancel, methods=["POST"]),
            Route("/shards", self.build, methods=["POST"]),
            Route("/regressor", self.save, methods=["POST"]),
            Route("/explorer", self.explore),
        ]
        handlers: dict[Any, Any] = {ScemaeError: _refuse, OSError: _disk_failed}
        app = Starlette(routes=[Mount(f"/{token}", routes=parts)], exception_handlers=handlers)
        return Guard(app, token)

    def page(self, request: Request) -> Response:
        """The page itself."""
        pictures = self.notebook.pictures
        text = html_page.render(
            HERE / "annotate.html",
            folder=pictures.root.resolve().name,
            root=str(pictures.root),
            out=str(self.workshop.out),
            run=self.title,
            version=__version__,
        )
        return HTMLResponse(text, headers=HEADERS | {"Content-Security-Policy": POLICY})

    def script(self, request: Request) -> Response:
        """The page's JavaScript: its files, one after the other."""
        text = "\n".join(disk.read_bytes(HERE / name, MOST).decode() for name in SCRIPTS)
        return Response(text, media_type="text/javascript", headers=HEADERS)

    def state(self, request: Request) -> Response:
        """Points, pictures and results."""
        with self.notebook.lock:
            now, names = asdict(self.notebook.now), self.notebook.pictures.names
        kept = names[:LISTED] + [name for name in names[LISTED:] if name in now["marks"]]
        return _json(
            {
                "annotation": now,
                "pictures": kept,
                "count": len(names),
                "goal": min(GOAL, len(names)),
                **self._results(),
            }
        )

    def picture(self, request: Request) -> Response:
        """A picture as JPEG; the size of the original in headers."""
        name = request.query_params.get("name", "")
        width, height = self.notebook.pictures.size(name)
        headers = HEADERS | {"X-Width": str(width), "X-Height": str(height)}
        shown = self.notebook.pictures.shown(name)
        return Response(shown, media_type="image/jpeg", headers=headers)

    async def annotate(self, request: Request) -> Response:
        """Take the points as the page has them now."""
        body = await _body(request)
        wanted = documents.parse_json(body, Annotation, "the points", remedy="reload the page")
        version = await run_in_threadpool(self.notebook.change, wanted)
        return _json({"version": version})

    def suggest(self, request: Request) -> Response:
        """Points of annotated pictures, matched into a picture."""
        name = request.query_params.get("name", "")
        self.notebook.pictures.size(name)  # refuses a name that is not there
        return _json(self.suggester.suggest(name))

    def job(self, request: Request) -> Response:
        """The state of the last job, and the results so far."""
        return _json(self._results())

    def fit(self, request: Request) -> Response:
        """Begin a fit."""
        asked = request.query_params
        work = self.workshop.fitting(
            is_whole_curve=asked.get("curve") == "1", with_random=asked.get("random") == "1"
        )
        self.desk.start("fit", work)
        return _json(self._results())

    def cancel(self, request: Request) -> Response:
        """End the job."""
        self.desk.cancel()
        return _json(self._results())

    def build(self, request: Request) -> Response:
        """Begin to write shards."""
        if not self.notebook.done():
            raise DataError(
                f"{self.workshop.out / POINTS}: found no annotated picture, at least one was "
                "needed; set all points of one"
            )
        self.desk.start("build shards", self.workshop.build)
        return _json(self._results())

    def save(self, request: Request) -> Response:
        """Write the regressor of the last fit."""
        return _json({"said": self.workshop.save_regressor()})

    def explore(self, request: Request) -> Response:
        """The page of `scemae explore`, which runs the networks in the browser."""
        try:
            return HTMLResponse(self.explorer(), headers=HEADERS)
        except ScemaeError as error:  # a tab of its own, read by a person
            return PlainTextResponse(str(error), 400, headers=HEADERS)

    def _results(self) -> dict[str, Any]:
        return {
            "job": asdict(self.desk.state()),
            "curve": self.workshop.curve(),
            "has_regressor": self.workshop.has_regressor,
        }


class Guard:
    """Passes on requests whose address has the token, to this host; refuses all others."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI says."""
        first = scope["path"].split("/")[1:2]
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").rpartition(":")[0]
        given = "".join(first).encode()
        if secrets.compare_digest(given, self._token) and host in HOSTS:
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse(NO_TOKEN, 403, headers=HEADERS)(scope, receive, send)


async def _body(request: Request) -> bytes:
    """The body of a request. Raises DataError for a huge one."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST:
            raise DataError(f"found points of more than {MOST >> 20} MiB; annotate fewer pictures")
    return bytes(body)


def _refuse(request: Request, error: Exception) -> Response:
    status = 409 if isinstance(error, OutdatedError) else 400
    return JSONResponse({"error": str(error)}, status, headers=HEADERS)


def _disk_failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    why = f"{error.filename or 'the disk'}: {error.strerror}; nothing was saved, repair it"
    return JSONResponse({"error": why}, 500, headers=HEADERS)


def _json(value: Any) -> Response:
    return JSONResponse(value, headers=HEADERS)
