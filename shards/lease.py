"""One builder at a time of a part in a bucket: a small file there that its holder renews.

A bucket has no locks that end with their process. So a claim is a file that is created only where
there is none, and that its holder changes every RENEWED seconds. One that stays the same for STALE
seconds was left by a builder that is dead: it is taken over, if it still is the same (not so below
file:, which cannot compare; and a builder that was paused for so long, and wakes up, goes on
beside the other). Then two builders write the same part: the same names with the same bytes, each
file at once as a whole, so that only work is lost. Other bytes are possible where the images
change meanwhile; their readers find that by the digests of the manifest.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from scemae.data.storage.remote_folder import RemoteFolder
from scemae.errors import ShardError

RENEWED, STALE = 15.0, 60.0  # seconds
POLLS = 10  # looks at a claim in RENEWED seconds
WHOLE = "claim-whole.json"


class Lease:
    """A claim in a bucket: the file `name` in the folder `below`. It is held after `take`."""

    def __init__(self, remote: RemoteFolder, below: str, name: str) -> None:
        self._remote, self._below, self.name = remote, below, name
        self._token, self._beat = secrets.token_hex(8), 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> None:
        """Take the claim. If it exists, wait STALE seconds to see whether its holder renews it.

        Raises ShardError if it does.
        """
        while not self._remote.create(self._path(self.name), self._content()):
            left = self._left_by_the_dead(self.name)
            if left is not None and self._remote.replace(
                self._path(self.name), self._content(), left
            ):
                break
        self._thread.start()

    def wait_for_others(self, is_whole: bool) -> None:
        """A build of all parts must be alone. Raises ShardError while another builder is alive."""
        for name in self._remote.sizes(self._below):
            is_other = name.startswith("claim-") and name != self.name
            if is_other and (is_whole or name == WHOLE):
                if self._left_by_the_dead(name) is not None:
                    self._remote.remove(self._path(name))

    def release(self) -> None:
        """Give it back, unless another builder has taken it over."""
        self._ended.set()
        self._thread.join()
        try:
            if self._is_ours():
                self._remote.remove(self._path(self.name))
        except ShardError:
            pass  # the next builder sees that nobody renews it

    def _path(self, name: str) -> str:
        return f"{self._below}/{name}"

    def _content(self) -> bytes:
        self._beat += 1
        found = {"host": socket.gethostname(), "pid": os.getpid(), "token": self._token}
        return json.dumps(found | {"beat": self._beat}).encode()

    def _left_by_the_dead(self, name: str) -> str | None:
        """The ETag of a claim that nobody renews; None where it is gone."""
        if (first := self._remote.load(self._path(name))) is None:
            return None
        until = time.monotonic() + STALE
        while time.monotonic() < until:
            time.sleep(RENEWED / POLLS)
            if (now := self._remote.load(self._path(name))) is None:
                return None
            if now[0] != first[0]:
                raise ShardError(
                    f"{self._remote}: {_title(name)} is being written by {_holder(now[0])}; wait "
                    "for it, or give another place"
                )
        return first[1] or ""

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                if not self._is_ours():
                    return
                self._remote.write(self._path(self.name), self._content())
            except ShardError:
                continue  # try again later; if the bucket is gone, the build's own writes fail

    def _is_ours(self) -> bool:
        found = self._remote.load(self._path(self.name))
        return found is not None and self._token.encode() in found[0]


@contextmanager
def leased(remote: RemoteFolder, below: str, part: str) -> Iterator[None]:
    """Hold the claim of a part, such as 3/8, or with "" of the whole. Raises ShardError."""
    lease = Lease(remote, below, f"claim-{part.replace('/', '-of-')}.json" if part else WHOLE)
    lease.take()
    try:
        lease.wait_for_others(not part)
        yield
    finally:
        lease.release()


def _title(name: str) -> str:
    return (
        "it"
        if name == WHOLE
        else "part " + name.removeprefix("claim-").removesuffix(".json").replace("-of-", "/")
    )


def _holder(content: bytes) -> str:
    """Who holds a claim, for messages."""
    try:
        found = json.loads(content)
        return f"process {int(found['pid'])} on {str(found['host'])[:80]}"
    except (ValueError, TypeError, KeyError):
        return "another builder"
