"""What a number was measured on, and where it is written."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from scemae.distributed import tf32
from scemae.files import disk

OUT = Path("bench/results")
PACKAGES = ("torch", "deepspeed", "timm", "torchvision", "lightly", "numpy")


def facts() -> dict[str, Any]:
    """CPU, cores, memory in GiB, GPU, versions, commit and date (UTC)."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "tf32": tf32.state(),
        **{name: version_of(name) for name in PACKAGES},
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    }


def write(
    name: str, out_dir: Path | str, rows: list[dict[str, Any]], facts: dict[str, Any]
) -> Path:
    """Write OUT/<name>.json with everything and OUT/<name>.md with a table; print and return it.

    Keys of the first row are the columns; a list in a row (the repeats) stays in the JSON.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    disk.write_text(
        folder / f"{name}.json",
        json.dumps({"name": name, "facts": facts, "rows": rows}, indent=1) + "\n",
    )
    text = markdown(name, rows, facts)
    path = folder / f"{name}.md"
    disk.write_text(path, text)
    print(text)
    return path


def add(
    name: str,
    out_dir: Path | str,
    key: dict[str, Any],
    values: dict[str, Any],
    facts: dict[str, Any],
) -> Path:
    """Put one row into the table OUT/<name>, in place of the one with the same `key`; as `write`.

    Rows that another machine or commit has measured before are dropped: one table is of one.
    """
    path, rows = Path(out_dir) / f"{name}.json", []
    if path.exists():
        found = json.loads(path.read_text(encoding="utf8"))
        same = all(found["facts"].get(fact) == facts[fact] for fact in ("cpu", "gpu", "commit"))
        rows = [row for row in found["rows"] if same and key.items() - row.items()]
    return write(name, out_dir, [*rows, {**key, **values}], facts)


def markdown(name: str, rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """A heading, the table, and the facts in one line."""
    columns = [key for key, value in rows[0].items() if not isinstance(value, list)]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in columns) + " |" for row in rows]
    listed = "; ".join(
        f"{key.replace('_', ' ')} {_cell(value)}"
        for key, value in facts.items()
        if value is not None
    )
    return f"# {name}\n\n" + "\n".join(lines) + f"\n\n{listed}.\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


def _cpu() -> str:
    """The model's name, and whether it multiplies bf16 matrices in hardware (AMX)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    found = {key.strip(): value.strip() for key, value in found.items()}
    amx = ", AMX" if "amx_bf16" in found.get("flags", "") else ""
    return found.get("model name", platform.machine()) + amx


def version_of(package: str) -> str | None:
    """Of an installed package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Short hash of the checkout, with a plus sign where tracked files differ from it."""
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True
        ).stdout.strip()
    except OSError:
        return None
    return commit + ("+" if changed else "") if commit else None
