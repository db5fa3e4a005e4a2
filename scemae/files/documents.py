"""JSON, YAML and MessagePack, read into types: `documents.read_json(path, Manifest, ...)`.

Sizes are checked before memory is allocated, nothing in a file is executed, and YAML aliases are
refused, since they can make a small file huge. What does not fit the type is refused in a sentence
that names the file and the field.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import yaml

from scemae.errors import DataError, FileError, ScemaeError
from scemae.files import disk

T = TypeVar("T")
MOST_JSON, MOST_YAML = 64 * disk.MIB, disk.MIB
MOST_ROW = 16 * disk.MIB  # of a file of rows
DEEPEST = 40  # levels of a YAML file
# Bytes, samples, steps. A plain int may be of any size.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
# Images, pixels, epochs: numbers by which memory is allocated.
Small = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
# Pixels: float32 can hold the squares.
Finite = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
Seconds = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]  # unix time, or how long something took
HostPort = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:\[\]-]{1,255}:[0-9]{1,5}$")]
# A scheduler's number of a job, or nothing.
Job = Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,15}(_[0-9]{1,9})?)?$")]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]  # SHA-256
OptionalDigest = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")]
# The key of a sample: the names of its members fit the header of a tar.
KEY = r"[A-Za-z0-9_.-]{1,95}"
Key = Annotated[str, msgspec.Meta(pattern=f"^{KEY}$")]
QUOTED_KEY = r"[A-Za-z0-9_.~%-]{1,3000}"  # of a foreign tar: all but these characters are %XX
QuotedKey = Annotated[str, msgspec.Meta(pattern=f"^{QUOTED_KEY}$")]
SUFFIX = r"[A-Za-z0-9]{1,8}"  # of a file, without its dot
Suffix = Annotated[str, msgspec.Meta(pattern=f"^{SUFFIX}$")]
Hash64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$")]  # XXH3-64
# Offset in a file, and length, in bytes.
Extent = Annotated[list[Count], msgspec.Meta(min_length=2, max_length=2)]
Point = Annotated[list[Finite], msgspec.Meta(min_length=2, max_length=2)]  # x, y
# Of the samples of a shard; empty where it was written without.
Content = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{32})?$")]
# An entry of a folder, not a path.
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]
Step = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,15}$")]  # a count as the key of an object


def parse_json(
    text: bytes | str,
    kind: type[T],
    name: object,
    *,
    error: type[ScemaeError] = DataError,
    remedy: str = "restore it",
    finite: bool = True,
) -> T:
    """JSON text as a `kind` (a dataclass, TypedDict, dict[str, int], ...), with all of it checked.

    Raises `error`. name: how the message calls the text, a path say; remedy: the advice that ends
    it. finite: False also accepts NaN and Infinity, which Python writes into the rows of a run that
    failed. Names of files that are not UTF-8 come back as Python has them.
    """
    try:
        try:
            found = msgspec.json.decode(text, type=kind)
            _refuse_nul(text)  # last: a pattern that fails names the field
            return found
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError as problem:
            if finite and "surrogate" not in str(problem):
                raise
        _refuse_nul(text)
        return msgspec.convert(_as_python_wrote(text, finite), kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise error(_sentence(name, problem, remedy, " as JSON")) from problem


def msgpack_bytes(value: Any) -> bytes:
    """A dataclass as MessagePack."""
    return msgspec.msgpack.encode(value)


def parse_msgpack(
    data: bytes,
    kind: type[T],
    name: object,
    *,
    error: type[ScemaeError] = DataError,
    remedy: str = "restore it",
) -> T:
    """MessagePack as a `kind`, checked as by parse_json. Raises `error`."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise error(_sentence(name, problem, remedy)) from problem


def read_json(
    path: Path,
    kind: type[T],
    *,
    error: type[ScemaeError] = DataError,
    remedy: str = "restore it",
    most: int = MOST_JSON,
    finite: bool = True,
) -> T:
    """A JSON file as a `kind` (see parse_json).

    Raises `error`, and OSError where it cannot be read, such as FileNotFoundError.
    """
    text = read_bytes(path, most=most, error=error, remedy=remedy)
    return parse_json(text, kind, path, error=error, remedy=remedy, finite=finite)


def is_whole(text: bytes) -> bool:
    """True where `text` is JSON of any kind.

    False for a file whose process was killed while it wrote.
    """
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def convert(
    value: Any,
    kind: type[T],
    name: object,
    *,
    error: type[ScemaeError] = DataError,
    remedy: str = "restore it",
) -> T:
    """Plain values (dicts, lists, numbers) as a `kind`, checked as by parse_json.

    Raises `error`, also for a whole number of more than 64 bits.
    """
    try:
        _refuse_huge(value)
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise error(_sentence(name, problem, remedy)) from problem


def read_yaml(
    path: Path,
    kind: type[T],
    *,
    error: type[ScemaeError] = DataError,
    remedy: str = "restore it",
    most: int = MOST_YAML,
) -> T:
    """A YAML file as a `kind`. Raises `error`, and OSError where it cannot be read.

    Numbers are read as by Hydra: 1e-4 is one.
    """
    text = read_bytes(path, most=most, error=error, remedy=remedy)
    return parse_yaml(text, kind, path, error=error, remedy=remedy)


def parse_yaml(
    text: bytes | str,
    kind: type[T],
    name: object,
    *,
    error: type[ScemaeError] = DataError,
    remedy: str = "restore it",
) -> T:
    """YAML text as a `kind`, without aliases or tags. Raises `error`."""
    try:
        return msgspec.convert(yaml.load(text, _Loader), kind)
    except (yaml.YAMLError, msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise error(_sentence(name, problem, remedy, " as YAML")) from problem


def read_rows(
    path: Path, kind: type[T], *, error: type[ScemaeError] = DataError, remedy: str = "restore it"
) -> Iterator[T]:
    """The rows of a file of JSON lines, each as a `kind`; NaN is accepted.

    A line that was cut, by a full disk say, is left out. Raises `error` for a row that is no
    `kind`, and OSError where the file cannot be read.
    """
    decoder = msgspec.json.Decoder(kind)
    try:
        with disk.open_regular(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(MOST_ROW), b""), 1):
                try:
                    yield decoder.decode(line)
                except (msgspec.ValidationError, RecursionError) as problem:
                    raise error(_sentence(f"{path}, line {number}", problem, remedy)) from problem
                except (msgspec.DecodeError, ValueError):
                    try:
                        row = json.loads(line)
                    except (ValueError, RecursionError):
                        continue
                    yield convert(row, kind, f"{path}, line {number}", error=error, remedy=remedy)
    except FileError as problem:
        raise error(f"{problem}; {remedy}") from problem


def read_bytes(
    path: Path,
    *,
    most: int = MOST_JSON,
    error: type[ScemaeError] = DataError,
    remedy: str = "restore it",
) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises `error`, and OSError where it cannot be read.
    """
    try:
        return disk.read_bytes(path, most)
    except FileError as problem:
        raise error(f"{problem}; {remedy}") from problem


def _refuse_nul(text: bytes | str) -> None:
    """Raise ValueError for the character NUL in a text: no path and no name may hold it."""
    data = text.encode("utf8", "surrogatepass") if isinstance(text, str) else text
    if b"\\u0000" in data and re.search(rb"(?<!\\)(?:\\\\)*\\u0000", data):
        raise ValueError("a text with the character NUL")


def _refuse_huge(value: Any) -> None:
    """Raise ValueError for a whole number of more than 64 bits anywhere in `value`.

    A conversion to float would fail later.
    """
    if isinstance(value, int) and abs(value) >= 2**64:
        raise ValueError("a whole number of more than 64 bits")
    parts = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        for part in parts:
            _refuse_huge(part)


def _as_python_wrote(text: bytes | str, finite: bool) -> Any:
    """JSON with two additions of Python's: half a surrogate pair, and unless `finite`, NaN.

    Raises ValueError.
    """

    def number(digits: str) -> float:
        if finite and not math.isfinite(float(digits)):
            raise ValueError(f"{digits[:20]} is no finite number")
        return float(digits)

    return json.loads(text, parse_float=number, parse_constant=number)


def _sentence(name: object, problem: Exception, remedy: str, form: str = "") -> str:
    what = " ".join(str(problem).split())[:300] or "nested too deeply"
    return f"{name}: cannot be read{form}, found what does not belong there ({what}); {remedy}"


def _refusal(why: str, where: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, why, where.start_mark)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2.

    It refuses aliases, repeated keys, more than DEEPEST levels, the character NUL, and whole
    numbers of more than 64 bits.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _refusal("found an alias, which is not allowed", self.peek_event())
        self.depth += 1
        if self.depth > DEEPEST:
            raise _refusal("nested too deeply", self.peek_event())
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_scalar(self, node: Any) -> Any:
        found = super().construct_scalar(node)
        if isinstance(found, str) and "\0" in found:
            raise _refusal("a text with the character NUL", node)
        return found

    def construct_yaml_int(self, node: Any) -> int:
        found = super().construct_yaml_int(node)
        if abs(found) >= 2**64:
            raise _refusal("a whole number of more than 64 bits", node)
        return found

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, (str, int, float, bool, type(None))) or name in seen:
                raise _refusal(f"found the key {name!r} twice, or no plain key", key)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
