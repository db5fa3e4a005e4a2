"""`scemae tables`: the paper's Tables 1 to 4 and Figures 1, 4, 5 for trained runs, by the same code on the same pairs.

    scemae tables runs/carb runs/cl runs/lead runs/dve run_dir=runs/tables shards=[data/celeba,data/aflw,data/w300]

Writes tables.html, tables.md, tables.tex, tables.csv and tables.json. What is measured is kept (measure.py): the same
command goes on where it stood, and a further data set or trunk costs only itself.
"""

from pathlib import Path

from scemae.config.schema.evaluation import TablesConfig
from scemae.distributed.process_group import flush_denormals, process_group
from scemae.evaluation.landmarks.pairs import save_pairs
from scemae.evaluation.tables import write
from scemae.evaluation.tables.measure import do
from scemae.evaluation.tables.plan import Plan
from scemae.evaluation.tables.rows import gather
from scemae.process.stop_signals import StopRequest
from scemae.runs import run_folder


def main(config: TablesConfig) -> None:
    """Measure what is not measured yet, and write. Every rank that takes part shares the work."""
    StopRequest("measuring; what is measured is kept")
    flush_denormals()
    with (
        process_group(config.runtime.device, config.runtime.hang_seconds) as place,
        run_folder.hold(Path(config.run_dir), place, "tables") as generation,
    ):
        plan = Plan(config, place)
        if place.is_first:
            run_folder.describe(Path(config.run_dir), "tables", config, **plan.facts)
            if plan.pairs is not None:
                save_pairs(Path(config.run_dir) / "pairs.npz", plan.pairs)
        do(plan.units, generation, place)
        if place.is_first:
            tables = gather(plan)
            write.write(tables, Path(config.run_dir), config.pictures)
            print(write.markdown(tables))
            print(f"{(Path(config.run_dir) / 'tables.html').resolve()}")
