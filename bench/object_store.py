"""An object store on this machine: answers S3's GET and HEAD of files in a folder, and counts.

    with object_store.started(folder, wait=0.02) as store:    # folder/BUCKET/NAME
        store.url, store.sent()

It answers plain HTTP as well, in whole or by one range, each connection in a thread, and looks at
no credentials. A connection is closed after one answer: workers that inherit one over a fork, as
those of mosaicml-streaming do, would else read each other's answers. What it sends comes from the
page cache by sendfile, so that it takes little of the processor from the loader that is measured.
A GET waits before its first byte, as in a data centre.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COUNTS = "/.sent"  # a path whose answer is what was sent until now
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Sent:
    """Bytes of files, and answers to GET and HEAD."""

    bytes: int = 0
    requests: int = 0

    def __sub__(self, other: "Sent") -> "Sent":
        return Sent(self.bytes - other.bytes, self.requests - other.requests)


@dataclass(frozen=True)
class Store:
    """A running store."""

    url: str

    def sent(self) -> Sent:
        """What it has sent until now."""
        with urllib.request.urlopen(self.url + COUNTS) as answer:
            return Sent(**json.load(answer))


@contextmanager
def started(folder: Path, wait: float = 0.0) -> Iterator[Store]:
    """A store of `folder` in a process of its own, whose GETs take `wait` seconds more."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "bench.object_store", str(folder), str(port), str(wait)]
    process = subprocess.Popen(words)
    try:
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Store(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


class Files(ThreadingHTTPServer):
    """The server; `total` is what it has sent."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, folder: Path, port: int, wait: float) -> None:
        super().__init__(("127.0.0.1", port), Answer)
        self.folder, self.wait = str(folder.resolve()), wait
        self.total, self.lock = Sent(), threading.Lock()

    def add(self, count: int) -> None:
        """One more answer with `count` bytes of a file."""
        with self.lock:
            self.total = Sent(self.total.bytes + count, self.total.requests + 1)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that ended in the middle of an answer is no error."""


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    server: Files
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def parse_request(self) -> bool:
        """One answer for each connection."""
        good = super().parse_request()
        self.close_connection = True
        return good

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == COUNTS:
            self._text(200, json.dumps(vars(self.server.total)))
            return
        try:
            file = open(os.path.join(self.server.folder, path.lstrip("/")), "rb", buffering=0)
        except (FileNotFoundError, IsADirectoryError):
            self._text(404, "<Error><Code>NoSuchKey</Code></Error>" if body else "")
            return
        with file:
            found = os.fstat(file.fileno())
            start, stop = self._range(found.st_size)
            if body:
                time.sleep(self.server.wait)
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Connection", "close")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{found.st_size:x}-{found.st_mtime_ns:x}"')
            self.send_header("Last-Modified", formatdate(found.st_mtime, usegmt=True))
            if "Range" in self.headers:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{found.st_size}")
            self.end_headers()
            self.server.add(stop - start if body else 0)
            at = start
            while body and at < stop:
                at += os.sendfile(self.connection.fileno(), file.fileno(), at, stop - at)

    def _range(self, size: int) -> tuple[int, int]:
        asked = RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None:
            return 0, size
        return int(asked[1]), min(int(asked[2] or size - 1) + 1, size)

    def _text(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words: object) -> None:
        """Nothing is printed."""


if __name__ == "__main__":
    Files(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])).serve_forever()
