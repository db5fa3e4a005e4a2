"""The manifest at a URL."""

from pathlib import Path

from scemae.data.storage.manifest import MANIFEST, Manifest, parse_manifest, several_splits
from scemae.data.storage.remote_folder import RemoteFolder
from scemae.errors import ShardError
from scemae.files import disk, documents

MOST_SPLITS = 50  # folders of a bucket in which a manifest is looked for, for a message


def remote_manifest(remote: RemoteFolder, place: Path) -> Manifest:
    """The manifest at a URL. The processes of a node download it once: the copy in `place` is used
    while the file at the URL has the ETag that it had.
    """
    path = place / f".{MANIFEST}.kept"
    with disk.locked(place / f".{MANIFEST}.lock"):
        text, tag = _kept_manifest(path)
        if found := newer_manifest(remote, tag):
            text, tag = found
            head = f"{disk.digest(text)} {tag or ''}\n"
            disk.write_bytes(path, head.encode() + text)
    return parse_manifest(text, remote.url(MANIFEST))


def newer_manifest(remote: RemoteFolder, tag: str | None = None) -> tuple[bytes, str | None] | None:
    """The manifest at a URL and its ETag; None where that is `tag` still.

    Raises ShardError, which names the splits that are in a bucket where one was needed.
    """
    try:
        return remote.newer(MANIFEST, tag, documents.MOST_JSON)
    except ShardError as error:
        inside = _splits(remote) if isinstance(error.__cause__, FileNotFoundError) else []
        if not inside:
            raise
        raise ShardError(several_splits(str(remote), inside)) from error


def _splits(remote: RemoteFolder) -> list[str]:
    """The folders of a bucket in which a manifest is; none where that cannot be listed."""
    try:
        names = remote.folders()[:MOST_SPLITS] if remote.is_listed else []
        return [name for name in names if MANIFEST in remote.sizes(name)]
    except ShardError:
        return []


def _kept_manifest(path: Path) -> tuple[bytes, str | None]:
    """The copy of a manifest and its ETag; None as ETag where there is no copy, or a damaged one.

    Its first line is the SHA-256 of the rest and the ETag.
    """
    head, _, text = path.read_bytes().partition(b"\n") if path.exists() else (b"", b"", b"")
    digest, _, tag = head.decode(errors="replace").partition(" ")
    return text, (tag or None) if digest == disk.digest(text) else None
