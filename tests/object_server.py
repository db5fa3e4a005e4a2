"""A small object store on this machine for tests.

It answers GET with ranges and ETags, counts the requests, and fails when a test asks for it.

It answers path-style addresses, so it is an http:// server of a folder and, to a client of S3, the
endpoint of buckets that are folders.
"""

import hashlib
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from tests.s3_signature import Credentials, refusal

# Called with the path of a GET and how many came before it: a status to answer, "cut" to send half
# of the bytes, "long" to send a million more, the body of a 400, seconds to wait, or None.
Fault = Callable[[str, int], int | str | bytes | float | None]


@dataclass
class ObjectServer:
    """What a running server has seen."""

    url: str
    folder: Path
    fault: Fault = lambda path, before: None
    gets: Counter = field(default_factory=Counter)  # by path
    bytes_sent: int = 0
    valid: Credentials | None = None  # where given, all other requests are refused, as S3 does
    refused: int = 0


@contextmanager
def serve(folder: Path, address: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[ObjectServer]:
    """Serve a folder until the block ends; address: host and port, 0 for any that is free."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            answer(self, state, lock)

    state, lock = ObjectServer("", folder), threading.Lock()
    server = ThreadingHTTPServer(address, Handler)
    server.daemon_threads = True
    state.url = f"http://{address[0]}:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def answer(request: BaseHTTPRequestHandler, state: ObjectServer, lock: threading.Lock) -> None:
    """Answer one GET."""
    path = unquote(request.path.partition("?")[0])  # Google's client quotes all of it
    with lock:
        before = state.gets[path]
        state.gets[path] += 1
    if state.valid and (found_wrong := refusal(request, state.valid)):
        with lock:
            state.refused += 1
        return reply(request, *found_wrong)
    fault = state.fault(path, before)
    if isinstance(fault, float):
        time.sleep(fault)
    elif isinstance(fault, bytes):
        return reply(request, 400, fault)
    elif isinstance(fault, int):
        return reply(request, fault, b"")
    file = state.folder / path.lstrip("/")
    if not file.is_file():
        return reply(request, 404, b"<Error><Code>NoSuchKey</Code></Error>")
    found = file.stat()
    tag = hashlib.md5(f"{found.st_size} {found.st_mtime_ns}".encode()).hexdigest()
    if request.headers.get("If-Match") not in (None, f'"{tag}"'):
        return reply(request, 412, b"")
    if request.headers.get("If-None-Match") == f'"{tag}"':
        return reply(request, 304, b"")
    headers = {"ETag": f'"{tag}"', "Last-Modified": "Sun, 29 Nov 2026 00:00:00 GMT"}
    with open(file, "rb") as opened:
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", "")):
            start, stop = int(wanted[1]), min(int(wanted[2]) + 1, found.st_size)
            opened.seek(start)
            data = opened.read(stop - start)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.st_size}"
            status = 206
        else:
            data, status = opened.read(), 200
    if fault == "long":
        data += bytes(1_000_000)
    with lock:
        state.bytes_sent += len(data) // 2 if fault == "cut" else len(data)
    reply(request, status, data, headers, cut=fault == "cut")


def reply(
    request: BaseHTTPRequestHandler,
    status: int,
    data: bytes,
    headers: dict[str, str] | None = None,
    cut: bool = False,
) -> None:
    """Send an answer; cut: only half of what it announces."""
    request.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(data[: len(data) // 2] if cut else data)
    if cut:
        request.close_connection = True


if (
    __name__ == "__main__"
):  # FOLDER HOST PORT: serve until killed; of nine answers one fails, one is cut, one is late
    with serve(Path(sys.argv[1]), (sys.argv[2], int(sys.argv[3]))) as served:
        served.fault = lambda path, before: {3: 503, 5: "cut", 7: 0.05}.get(before % 9)
        threading.Event().wait()
