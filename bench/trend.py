"""python -m bench trend: how the errors of a run of stage 1 fall with the images it has seen.

  python -m bench trend RUN SHARDS OUT             every kept checkpoint of RUN (loop.keep_every)
  python -m bench trend RUN SHARDS OUT --stage2 carb.cluster_norm=true ...

SHARDS is what `scemae shards build celeba` wrote: train, mafl-train and --test are used. On each
checkpoint stage 2 is trained, the LDA (ours) is computed, and all are measured, by --experiment's
settings. Rows are kept in OUT, one folder per checkpoint: the same command goes on, also when RUN
has gone on. A trend is for decisions, so --test is val unless told otherwise: identities that are
in no official test.

Writes OUT/trend.json, OUT/trend.md and OUT/trend.png: errors with 95 % intervals against images
seen, the paired difference of each row to MAE, and the straight line through log error against log
images, with what it says of ten times as many images. That line is an extrapolation of a run whose
learning rate falls on the way: it says where things go, not where they end.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter

from scemae.evaluation import scores
from scemae.files import disk
from scemae.runs.checkpoints import checkpoint

MAE, CARB, LDA, FLOOR = "MAE", "MAE + CARB", "MAE + LDA", "no motion"
COLOURS = {MAE: "#0072b2", CARB: "#d55e00", LDA: "#009e73"}
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
        measure(folder, out, given)
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


def measure(folder: Path, out: Path, given: argparse.Namespace) -> None:
    """Stage 2 on the checkpoint `folder`, and an evaluation of all rows; each resumes."""
    train, backbone = f"data.shards={given.shards / 'train'}", f"backbone={folder}"
    carb, lda, test = out / "carb", out / "lda", given.shards / given.test
    store = f"store.dir={out / 'tokens'}"
    experiment = f"experiment={given.experiment}_correspond"
    _scemae("correspond", experiment, f"run_dir={carb}", backbone, train, store, *given.stage2)
    computed = [f"run_dir={lda}", backbone, train, store]
    _scemae("correspond", "experiment=lda_correspond", *computed)
    share_units(given.out, out / "eval")
    _scemae(
        "evaluate",
        f"experiment={given.experiment}_evaluate",
        f"run_dir={out / 'eval'}",
        backbone,
        f"projector={carb}",
        f"also=[{lda}]",
        f"matching.shards={test}",
        f"detection.train={given.shards / 'mafl-train'}",
        f"detection.test={test}",
        *given.evaluate,
    )


def share_units(root: Path, evaluation: Path) -> None:
    """Give an evaluation the units that others below `root` have measured.

    A unit's name is a hash of all that it depends on, so the floors are measured once.
    """
    (evaluation / "measured").mkdir(parents=True, exist_ok=True)
    for unit in root.glob("step-*/eval/measured/*.npz"):
        if not (evaluation / "measured" / unit.name).exists():
            shutil.copy(unit, evaluation / "measured")


def read_row(folder: Path) -> dict:
    """Of an evaluation: by method and measure [mean, low, high]; paired, each row minus MAE."""
    results = json.loads((folder / "results.json").read_text())
    matched, detected = results["matching"]["methods"], results["detection"]["methods"]
    by_content = results.get("content", {"methods": {}})["methods"]
    errors = _errors(folder)
    paired = {tuple(one["methods"]): one for one in results["detection"]["comparisons"]}
    found: dict = {"methods": {}, "difference": {}}
    for name in (FLOOR, *COLOURS):
        parts = {
            "same": matched.get(name, {}).get("same"),
            "different": matched.get(name, {}).get("different"),
            "content": by_content.get(name, {}).get("content"),
            "detection": detected.get(name, {}).get("error"),
        }
        found["methods"][name] = {
            key: [one["mean"], one["low"], one["high"]] for key, one in parts.items() if one
        } | {"position_share": by_content.get(name, {}).get("position_share")}
    for name in (CARB, LDA):
        gaps = {key: scores.compare(of[name], of[MAE]).difference for key, of in errors.items()}
        found["difference"][name] = {
            key: [gap.mean, gap.low, gap.high] for key, gap in gaps.items()
        }
        gap = paired[name, MAE]["difference"]
        found["difference"][name]["detection"] = [gap["mean"], gap["low"], gap["high"]]
    return found


def _errors(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """The errors of each couple, by measure and method."""
    matches, found = np.load(folder / "matches.npz"), {}
    for key in ("same", "different"):
        found[key] = {name: matches[f"{name}/{key}"].mean(axis=1) for name in COLOURS}
    if (folder / "contents.npz").exists():
        contents = np.load(folder / "contents.npz")
        found["content"] = {
            name: contents[f"{name}/content/different"].mean(axis=1) for name in COLOURS
        }
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
        for name in COLOURS:
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
        for name, found in row["difference"].items():
            gaps = (_interval(found.get(key), "+.2f") for key in MEASURES)
            lines.append(["", f"{name} minus {MAE}, paired", *gaps, ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n" + _lines(rows)


def _lines(rows: list[dict]) -> str:
    found = []
    for name in COLOURS:
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
        for name, colour in COLOURS.items():
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
        axes.set(xscale="log", yscale="log", title=title, xlabel="images seen, thousands")
        seen = [row["images"] for row in rows]
        axes.set_xticks(seen, [f"{images / 1000:.0f}" for images in seen], minor=False)
        axes.xaxis.set_minor_formatter(NullFormatter())
        for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatter(FormatStrFormatter("%g"))
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
    parser.add_argument("shards", metavar="SHARDS", type=Path, help="train, mafl-train, val")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the results")
    parser.add_argument("--experiment", default="faces_cpu", help="NAME of NAME_correspond.yaml")
    parser.add_argument("--test", default="val", help="split of SHARDS to measure on (val)")
    parser.add_argument("--stage2", nargs="*", default=[], help="settings of `scemae correspond`")
    parser.add_argument("--evaluate", nargs="*", default=[], help="settings of `scemae evaluate`")
    return parser.parse_args(argv)
