"""onnxruntime-web, which runs the networks in the page: fetched once from npm, by digest, and kept
in the user's cache.
"""

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from scemae.errors import ConfigError
from scemae.files import disk

VERSION = "1.30.0"
TARBALL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
# As npm states it: SHA-512 of the tarball.
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
MOST = 128 * disk.MIB  # bytes of the tarball, and of each file
SECONDS = 300  # for npm, and for each answer of the registry


@dataclass
class Runtime:
    """The two files of onnxruntime-web that a page needs."""

    script: bytes
    binary: bytes
    version: str


def load(folder: Path | None) -> Runtime:
    """onnxruntime-web from a folder, or from the cache, or from npm, which fills the cache.

    Raises ConfigError.
    """
    if folder is not None:
        places = (folder, folder / "dist", folder / "package" / "dist")
        place = next((one for one in places if _has_files(one)), None)
        if place is None:
            raise ConfigError(
                f"--runtime: found no {SCRIPT} and {BINARY} in {folder}; give the folder `dist` of "
                f"npm's package onnxruntime-web, such as version {VERSION}"
            )
        return _read(place, f"of {folder}")
    place = cache_folder()
    if not _has_files(place):
        _unpack(_fetch(), place)
    return _read(place, VERSION)


def as_classic(script: bytes) -> bytes:
    """The module `script` as a classic one that sets `ort`: a page from the disk may start no
    worker from a module. Raises ConfigError where it is no bundle that we know.
    """
    text = script.decode("utf8")
    exports = re.search(r"export\{([^{}]*)\};", text)
    if exports is None or "export" in text[exports.end() :]:
        raise ConfigError(
            f"onnxruntime-web: found no export at the end of {SCRIPT}; give --runtime FOLDER of "
            f"version {VERSION}"
        )
    names = [part.split(" as ") for part in exports[1].split(",")]
    members = ", ".join(f"{names_of[-1]}: {names_of[0]}" for names_of in names)
    body = text[: exports.start()].replace("import.meta.url", '"https://localhost/ort.mjs"')
    return f'const ort = (() => {{"use strict"; {body} return {{{members}}};}})();\n'.encode()


def cache_folder() -> Path:
    """Where the files are kept: below $XDG_CACHE_HOME, or ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "scemae" / f"onnxruntime-web-{VERSION}"


def _has_files(folder: Path) -> bool:
    return (folder / SCRIPT).is_file() and (folder / BINARY).is_file()


def _read(folder: Path, version: str) -> Runtime:
    script, binary = (disk.read_bytes(folder / name, MOST) for name in (SCRIPT, BINARY))
    return Runtime(script, binary, version)


def _fetch() -> bytes:
    """The tarball by npm, or else from its registry, checked. Raises ConfigError."""
    try:
        data = _by_npm() if shutil.which("npm") else _by_https()
    except (OSError, subprocess.SubprocessError, urllib.error.URLError, StopIteration) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"onnxruntime-web {VERSION}: found it neither in {cache_folder()} nor at npm "
            f"({reason}); connect once, or give --runtime FOLDER with a copy of the package"
        ) from error
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != INTEGRITY:
        raise ConfigError(
            f"onnxruntime-web {VERSION}: found SHA-512 {found[:16]}..., {INTEGRITY[:16]}... was "
            "needed; the download is damaged or was changed: try again, or give --runtime FOLDER"
        )
    return data


def _by_npm() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        words = ["npm", "pack", f"onnxruntime-web@{VERSION}", "--silent", "--ignore-scripts"]
        subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=SECONDS)
        return disk.read_bytes(next(Path(folder).glob("*.tgz")), MOST)


def _by_https() -> bytes:
    with urllib.request.urlopen(TARBALL, timeout=SECONDS) as answer:
        return answer.read(MOST)


def _unpack(data: bytes, folder: Path) -> None:
    """Write the two files of the tarball to `folder`, all or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar, disk.building(folder) as aside:
        for name in (SCRIPT, BINARY):
            member = tar.extractfile(f"package/dist/{name}")
            if member is None:
                raise ConfigError(f"onnxruntime-web {VERSION}: found no {name} in it; report this")
            disk.write_bytes(aside / name, member.read(MOST))
