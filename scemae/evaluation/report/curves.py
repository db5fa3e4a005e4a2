"""The curves of a training run's metrics.jsonl, as one inline SVG."""

import io

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scemae.evaluation.drawing import BLUE, INK, PALE

DRAWN = 300  # most points of a curve; longer ones are averaged
CURVES = {
    "loss": "loss",
    "lr": "learning rate",
    "images_per_second": "images per second",
    "probe_same": "probe, same (px)",
    "probe_different": "probe, different (px)",
    "probe_content": "probe, by content (px)",
}


def read_curves(rows: list[dict]) -> dict[str, dict]:
    """The curves in rows of metrics.jsonl: steps and values of at most `DRAWN` points, and the last
    value.

    Each point is the mean of as many neighbours.
    """
    found = {}
    for key in CURVES:
        if points := {row["step"]: row[key] for row in rows if key in row}:
            steps, values = (
                np.array_split(np.array(list(part), float), min(len(points), DRAWN))
                for part in (points.keys(), points.values())
            )
            found[key] = {
                "steps": [float(part.mean()) for part in steps],
                "values": [float(part.mean()) for part in values],
                "last": list(points.values())[-1],
            }
    return found


def draw_curves(found: dict[str, dict]) -> str:
    """The curves of `read_curves` as small multiples, inline SVG; titles give the last value."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "scemae", "font.size": 8}):
        figure = Figure(figsize=(2.3 * len(found), 1.7), layout="constrained")
        for axes, (key, curve) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items()):
            steps = curve["steps"]
            axes.plot(
                steps,
                curve["values"],
                color=BLUE,
                linewidth=1.4,
                marker="o" if len(steps) < 12 else None,
                markersize=3,
            )
            axes.set_title(
                f"{CURVES[key]}: {curve['last']:.4g}", loc="left", fontsize=8.5, color=INK
            )
            axes.margins(y=0.15)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
            axes.tick_params(colors=PALE, labelsize=7, length=2)
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color("#c9ced6")
            axes.grid(axis="y", color="#eceef2", linewidth=0.8)
            axes.set_axisbelow(True)
        text = io.StringIO()
        figure.savefig(
            text,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
            transparent=True,
        )
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
