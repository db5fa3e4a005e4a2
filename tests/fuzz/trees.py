"""Changes of JSON and YAML: other values, keys that are gone, new or doubled, and damaged text."""

import json
import math
from random import Random
from typing import Any

import yaml

from tests.fuzz.binary import mutate_bytes

SECRET = "../canary/kept"  # a file beside the input's folder that nobody may touch
NASTY = (
    "",
    " ",
    ".",
    "..",
    "/",
    "\0",
    "\n",
    "\x1b[31m",
    "ü",
    "日本",
    "\udcff",
    "nan",
    "-1",
    "null",
    "a" * 100_000,
    "x" * 300,
    SECRET,
    "../" + SECRET,
    "../../" + SECRET,
    "/etc/passwd",
    "/dev/zero",
    "/proc/self/environ",
    "pipe:touch ../canary/pwned",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x",
    "${oc.env:HOME}",
    "${oc.env:NONE}",
    "${run_dir}",
    "${",
    "???",
    "$HOME",
    "~",
    "%s%n",
    "{}",
    "<script>",
    "2026-01-01",
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    255,
    40_000,
    2**31,
    2**32,
    2**53 + 1,
    2**62,
    2**63,
    2**64,
    -(2**63),
    10**18,
    10**400,
    0.5,
    -0.5,
    1e-300,
    1e300,
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    None,
)
TAGS = (
    "!!python/object/apply:os.system ['touch ../canary/pwned']",
    "!!python/name:os.system",
    "!!binary aGFsbG8=",
    "!!set {a, b}",
    "!!timestamp 2026-01-01",
    "!!omap [a: 1]",
    "!custom x",
    "&a [*a]",
    "&a {b: *a}",
    "*nowhere",
    "{? [a] : b}",
    "{<<: {a: 1}}",
    "0x7fffffffffffffff",
    "1_000",
    "08",
    "190:20:30",
    "~",
    "yes",
    "'",
    "{a: 1, a: 2}",
)


class Raw(str):
    """Text that stands in the document as it is."""


def mutate_json(data: bytes, chance: Random) -> bytes:
    """A JSON document with one to three changes."""
    if chance.random() < 0.15:
        return _as_text(data, chance)
    return _dump(_changed(json.loads(data), chance, yaml_too=False)).encode("utf8", "surrogatepass")


def mutate_rows(data: bytes, chance: Random) -> bytes:
    """A file with a JSON document a line, one line changed."""
    lines = data.splitlines() or [b"{}"]
    row = chance.randrange(len(lines))
    lines[row] = mutate_json(lines[row], chance)
    return b"\n".join(lines) + b"\n"


def mutate_yaml(data: bytes, chance: Random) -> bytes:
    """A YAML document with one to three changes."""
    if chance.random() < 0.25:
        return _as_text(data, chance)
    tree = _changed(yaml.safe_load(data), chance, yaml_too=True)
    if chance.random() < 0.5:
        return _dump(tree).encode("utf8", "surrogatepass")
    return yaml.safe_dump(_plain(tree), sort_keys=False, allow_unicode=True).encode(
        "utf8", "surrogatepass"
    )


def bomb(levels: int = 9) -> bytes:
    """A YAML file of aliases whose tree has 9 ** levels leaves."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(rows).encode()


def _as_text(data: bytes, chance: Random) -> bytes:
    kind = chance.randrange(10)
    if kind > 3:
        return mutate_bytes(data, chance)
    deep = chance.choice((100, 2_000, 100_000))
    return (
        b"\xef\xbb\xbf" + data,
        data.decode("utf8", "replace").encode("utf-16"),
        chance.choice((b"[", b'{"a":', b"- ", b"{a: ")) * deep,
        chance.choice(
            (
                b"",
                b"null",
                b"[]",
                b"{}",
                b"3",
                b"\0",
                b"%YAML 9.9\n---\na",
                b"\t",
                data + b"\n---\n" + data,
                data + data,
                bomb(),
            )
        ),
    )[kind]


def _changed(tree: Any, chance: Random, *, yaml_too: bool) -> Any:
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        nodes = list(_nodes(tree))
        holder, key = chance.choice(nodes) if nodes and chance.random() < 0.98 else (None, None)
        if holder is None:
            return _value(chance, yaml_too)
        _change(holder, key, chance, yaml_too)
    return tree


def _nodes(tree: Any):
    """(container, key) of every value below the root; of long lists the first and last of them."""
    if isinstance(tree, (dict, list)):
        keys = (
            list(tree)
            if isinstance(tree, dict)
            else [*range(min(len(tree), 4)), *range(max(4, len(tree) - 2), len(tree))]
        )
        for key in keys:
            yield tree, key
            yield from _nodes(tree[key])


def _change(holder: Any, key: Any, chance: Random, yaml_too: bool) -> None:
    found = holder[key]
    match chance.randrange(8):
        case 0 | 1 | 2:
            holder[key] = _value(chance, yaml_too)
        case 3:
            del holder[key]
        case 4 if isinstance(holder, dict):
            again = f"{_dump(str(key))}: {_dump(_value(chance, yaml_too))}"
            holder[key] = Raw(f"{_dump(found)}, {again}")  # the key twice
        case 5 if isinstance(holder, dict):
            holder[chance.choice(NASTY[:12]) or "new"] = _value(chance, yaml_too)
        case 4 | 5:
            holder.insert(chance.randrange(len(holder) + 1), found)
        case _:
            holder[key] = _near(found, chance)


def _near(found: Any, chance: Random) -> Any:
    """A value that is nearly `found`."""
    if isinstance(found, bool) or found is None:
        return chance.choice((0, "", "true", [found]))
    if isinstance(found, int) and abs(found) > 2**900:  # no float can hold what is made of it
        return chance.choice((found + 1, -found, str(found), [found]))
    if isinstance(found, (int, float)):
        return chance.choice(
            (
                found + 1,
                found - 1,
                -found,
                found * 2**31,
                str(found),
                float(found),
                found + 0.5,
                [found],
            )
        )
    if isinstance(found, str):
        return chance.choice(
            (
                found[:-1],
                found + "x",
                found * 2,
                found.upper(),
                SECRET,
                "../" + found,
                "/" + found,
                "pipe:" + found,
                [found],
                {found: 1},
            )
        )
    if isinstance(found, list):
        return chance.choice(
            (
                found[::-1],
                found * 2,
                found * 50,
                found[:1],
                [found],
                [],
                {},
                dict(enumerate(map(str, found))),
            )
        )
    return chance.choice(([found], {}, [], list(found), {"x": found}))


def _value(chance: Random, yaml_too: bool) -> Any:
    kind = chance.randrange(5 if yaml_too else 4)
    if kind == 0:
        return chance.choice(NASTY)
    if kind == 1:
        return chance.choice(NUMBERS)
    if kind == 2:
        return chance.choice(
            (
                [],
                {},
                [[]],
                [None],
                {"": None},
                [0] * 1000,
                {"a": {"b": {}}},
                [[1, 2], [3, 4]],
                {"a": [0]},
            )
        )
    if kind == 3:
        deep = chance.choice((20, 60, 2_000, 50_000))
        return Raw(
            chance.choice(
                (
                    "[" * deep + "]" * deep,
                    '{"a":' * deep + "1" + "}" * deep,
                    "1" * 5_000,
                    "1e999",
                    "-0",
                    "01",
                    "1.",
                    "+1",
                    "'a'",
                    "NaN",
                )
            )
        )
    return Raw(chance.choice(TAGS))


def _dump(tree: Any) -> str:
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, dict):
        return (
            "{"
            + ", ".join(
                f"{json.dumps(str(key), ensure_ascii=False)}: {_dump(value)}"
                for key, value in tree.items()
            )
            + "}"
        )
    if isinstance(tree, list):
        return "[" + ", ".join(map(_dump, tree)) + "]"
    return json.dumps(tree, default=str, ensure_ascii=False)


def _plain(tree: Any) -> Any:
    """The tree without `Raw`, for YAML's own way of writing."""
    if isinstance(tree, dict):
        return {
            str(key) if isinstance(key, Raw) else key: _plain(value) for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    return str(tree)[:5000].encode("utf8", "replace").decode() if isinstance(tree, str) else tree
