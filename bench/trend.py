"""python -m bench trend: how the errors of a run of stage 1 fall with the images it has seen.

  python -m bench trend RUN SHARDS OUT             every kept checkpoint of RUN (loop.keep_every)
  python -m bench trend RUN SHARDS OUT --stage2 carb.cluster_norm=true ...

SHARDS is what `scemae shards build celeba` wrote: train, mafl-train and mafl-test are used. On each
checkpoint stage 2 is trained and both stages are measured, by --experiment's settings. Rows are
kept in OUT, one folder per checkpoint: the same command goes on, also when RUN has gone on.

Writes OUT/trend.json, OUT/trend.md and OUT/trend.png: errors with 95 % intervals against images
seen, the paired difference of both stages, and the straight line through log error against log
images, with what it says of ten times as many images. That line is an extrapolation of a run whose
learning rate falls on the way: it says where things go, not where they end.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from scemae.evaluation import scores
from scemae.files import disk
from scemae.runs.checkpoints import checkpoint

MAE, CARB, FLOOR = "MAE", "MAE + CARB", "no motion"
MEASURES = {
    "same": "same face (px)",
    "different": "different face (px)",
    "content": "different face, content only (px)",
    "detection": "detection (% IOD)",
}


def main(argv: list[str]) -> int:
    """Measure what is not measured yet and write the trend."""
    given = _parse(argv)
    rows = []
    for folder in sorted(checkpoint.committed(given.run), key=lambda path: path.name):
        state = checkpoint.read_state(folder)
        if not state.global_step:
            continue
        out = given.out / f"step-{state.global_step:08d}"
        measure(folder, given.shards, out, given.experiment, given.stage2, given.evaluate)
        seen = state.global_step * state.settings["optim"]["global_batch_size"]
        rows.append({"step": state.global_step, "images": seen, **read_row(out / "eval")})
    if not rows:
        print(f"{given.run}: found no finished checkpoint after step 0", file=sys.stderr)
        return 1
    disk.write_json(given.out / "trend.json", {"command": ["bench", "trend", *argv], "rows": rows})
    disk.write_text(given.out / "trend.md", as_markdown(rows))
    draw(rows).savefig(given.out / "trend.png", dpi=110)
    print(as_markdown(rows))
    return 0


def measure(
    folder: Path, shards: Path, out: Path, experiment: str, stage2: list[str], evaluate: list[str]
) -> None:
    """Stage 2 on the checkpoint `folder`, and an evaluation of both; each resumes."""
    train = f"data.shards={shards / 'train'}"
    _scemae(
        "correspond",
        f"experiment={experiment}_correspond",
        f"run_dir={out / 'carb'}",
        f"backbone={folder}",
        train,
        f"store.dir={out / 'tokens'}",
        *stage2,
    )
    _scemae(
        "evaluate",
        f"experiment={experiment}_evaluate",
        f"run_dir={out / 'eval'}",
        f"backbone={folder}",
        f"projector={out / 'carb'}",
        f"matching.shards={shards / 'mafl-test'}",
        f"detection.train={shards / 'mafl-train'}",
        f"detection.test={shards / 'mafl-test'}",
        *evaluate,
    )


def read_row(folder: Path) -> dict:
    """Of an evaluation: by method and measure [mean, low, high], and + CARB minus MAE, paired."""
    results = json.loads((folder / "results.json").read_text())
    matched, detected = results["matching"]["methods"], results["detection"]["methods"]
    by_content = results.get("content", {"methods": {}})["methods"]
    errors = _errors(folder)
    found: dict = {"methods": {}, "difference": {}}
    for name in (FLOOR, MAE, CARB):
        parts = {
            "same": matched.get(name, {}).get("same"),
            "different": matched.get(name, {}).get("different"),
            "content": by_content.get(name, {}).get("content"),
            "detection": detected.get(name, {}).get("error"),
        }
        found["methods"][name] = {
            key: [one["mean"], one["low"], one["high"]] for key, one in parts.items() if one
        } | {"position_share": by_content.get(name, {}).get("position_share")}
    for key, pair in errors.items():
        gap = scores.compare(pair[CARB], pair[MAE]).difference
        found["difference"][key] = [gap.mean, gap.low, gap.high]
    return found


def _errors(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """The errors of each couple by measure and method; detection's are compared by their means."""
    matches, found = np.load(folder / "matches.npz"), {}
    for key in ("same", "different"):
        found[key] = {name: matches[f"{name}/{key}"].mean(axis=1) for name in (MAE, CARB)}
    if (folder / "contents.npz").exists():
        contents = np.load(folder / "contents.npz")
        names = {name: contents[f"{name}/content/different"].mean(axis=1) for name in (MAE, CARB)}
        found["content"] = names
    return found


def fit_line(rows: list[dict], method: str, measure: str) -> tuple[float, float] | None:
    """Slope and offset of log error against log images; None for fewer than three rows."""
    if len(rows) < 3:
        return None
    images = np.log([row["images"] for row in rows])
    errors = np.log([row["methods"][method][measure][0] for row in rows])
    slope, offset = np.polyfit(images, errors, 1)
    return float(slope), float(offset)


def as_markdown(rows: list[dict]) -> str:
    """The trend as two tables: the errors, and the lines through them."""
    heads = ["images seen", "features", *MEASURES.values(), "position share"]
    lines = [heads, ["---:", "---", *["---"] * len(MEASURES), "---:"]]
    for row in rows:
        for name in (MAE, CARB):
            cells = row["methods"][name]
            share = cells["position_share"]
            lines.append(
                [
                    f"{row['images']:,}",
                    name,
                    *(_interval(cells.get(key)) for key in MEASURES),
                    "" if share is None else f"{100 * share:.0f} %",
                ]
            )
        gaps = (_interval(row["difference"].get(key), "+.2f") for key in MEASURES)
        lines.append(["", f"{CARB} minus {MAE}, paired", *gaps, ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n" + _lines(rows)


def _lines(rows: list[dict]) -> str:
    found = []
    for name in (MAE, CARB):
        for key, title in MEASURES.items():
            line = fit_line(rows, name, key) if key in rows[-1]["methods"][name] else None
            if line is not None:
                later = np.exp(line[0] * np.log(10 * rows[-1]["images"]) + line[1])
                factor = 10 ** line[0]
                found.append(
                    f"- {name}, {title}: error times {factor:.2f} for ten times the images; "
                    f"{later:.2f} at {10 * rows[-1]['images']:,} if it goes on so"
                )
    return "\n" + "\n".join(found) + "\n" if found else ""


def _interval(values: list[float] | None, form: str = ".2f") -> str:
    if values is None:
        return ""
    mean, low, high = (format(value, form) for value in values)
    return f"{mean} [{low}, {high}]"


def draw(rows: list[dict]) -> Figure:
    """A panel per measure: error against images seen, both axes logarithmic."""
    figure = Figure(figsize=(3.2 * len(MEASURES), 3.2), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
        for name, colour in ((MAE, "#0072b2"), (CARB, "#d55e00")):
            known = [row for row in rows if key in row["methods"][name]]
            if known:
                images = [row["images"] for row in known]
                mean, low, high = np.array([row["methods"][name][key] for row in known]).T
                axes.errorbar(
                    images, mean, [mean - low, high - mean], color=colour, marker="o", label=name
                )
        floor = rows[0]["methods"][FLOOR].get(key)
        if floor:
            axes.axhline(floor[0], color="#5b6575", linestyle=":", label=FLOOR)
        axes.set(xscale="log", yscale="log", title=title, xlabel="images seen")
        if axes.containers or axes.lines:
            axes.legend(frameon=False, fontsize=8)
    return figure


def _scemae(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "scemae", *words], check=True)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench trend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder of `scemae pretrain`")
    parser.add_argument("shards", metavar="SHARDS", type=Path, help="train, mafl-train, mafl-test")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the results")
    parser.add_argument("--experiment", default="faces_cpu", help="NAME of NAME_correspond.yaml")
    parser.add_argument("--stage2", nargs="*", default=[], help="settings of `scemae correspond`")
    parser.add_argument("--evaluate", nargs="*", default=[], help="settings of `scemae evaluate`")
    return parser.parse_args(argv)
