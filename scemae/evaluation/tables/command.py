"""`scemae tables`: the paper's Tables 1 to 4 and Figures 1, 4, 5 for trained runs, all by the same
code on the same pairs.

    scemae tables runs/carb runs/cl runs/dve run_dir=runs/tables shards=[data/celeba,data/aflw]

Writes tables.html, tables.md, tables.tex, tables.csv and tables.json. What is measured is kept
(measuring/units.py): the same command continues, and another data set or trunk costs only itself.
"""

from pathlib import Path

from scemae.config.schema.evaluation import TablesConfig
from scemae.distributed.process_group import Place, flush_denormals, process_group
from scemae.errors import ConfigError
from scemae.evaluation import subjects
from scemae.evaluation.floors import floors, of_timm
from scemae.evaluation.landmarks.pairs import Pairs, build_pairs, save_pairs
from scemae.evaluation.measuring.plan import MeasuringPlan
from scemae.evaluation.measuring.testsets import TestSet, find_testsets
from scemae.evaluation.measuring.units import measure_units
from scemae.evaluation.subject import Subject
from scemae.evaluation.tables import write
from scemae.evaluation.tables.measured_rows import make_tables
from scemae.models.vit import Encoder
from scemae.process.stop_signals import StopRequest
from scemae.runs import run_folder


def main(config: TablesConfig) -> None:
    """Measure what is not measured yet, and write the tables. All ranks that take part share the
    work.
    """
    StopRequest("measuring; what is measured is kept")
    flush_denormals()
    run_dir = Path(config.run_dir)
    with (
        process_group(config.runtime.device, config.runtime.hang_seconds) as place,
        run_folder.hold(run_dir, place, "tables") as generation,
    ):
        plan = plan_tables(config, place)
        if place.is_first:
            run_folder.describe(run_dir, "tables", config, **_provenance_facts(plan))
            if plan.pairs is not None:
                save_pairs(run_dir / "pairs.npz", plan.pairs)
        measure_units(plan.units, generation, place)
        if place.is_first:
            tables = make_tables(plan)
            write.write(tables, run_dir, config.pictures)
            print(write.markdown(tables))
            print(f"{(run_dir / 'tables.html').resolve()}")


def plan_tables(config: TablesConfig, place: Place) -> MeasuringPlan:
    """Everything that the runs and shards at hand allow. Raises ConfigError, CheckpointError,
    ShardError.
    """
    data, missing = find_testsets(
        config.shards,
        config.cache_dir,
        train_on=dict(config.detection.train_on),
        hold_out=dict(config.detection.hold_out),
    )
    if not data:
        raise ConfigError(
            f"shards: found no split of a benchmark in {', '.join(config.shards) or 'nothing'}; "
            "give the folders that `scemae shards build` wrote, as shards=[data/celeba,data/aflw]"
        )
    pairs = _pairs(config, data)
    return MeasuringPlan(config, place, _subjects(config), data, pairs=pairs, missing=missing)


def _subjects(config: TablesConfig) -> list[Subject]:
    """Floors first, then the runs in the order given, then backbones of timm."""
    trained = subjects.from_runs([Path(run) for run in config.runs])
    encoders = (one.trunk.network for one in trained if isinstance(one.trunk.network, Encoder))
    untrained = floors(next(encoders, None), config.seed) if config.floors else []
    found = [*untrained, *trained, *(of_timm(name, config.seed) for name in config.timm)]
    if not found:
        raise ConfigError(
            "found nothing to measure; give run folders of `scemae pretrain` or `scemae correspond`"
        )
    return found


def _pairs(config: TablesConfig, data: dict[str, TestSet]) -> Pairs | None:
    """The matching test's pairs, or None where MAFL's test images are not at hand."""
    if "mafl" not in data:
        return None
    frames, asked = data["mafl"].frames("test"), config.matching
    return build_pairs(frames, seed=asked.seed, couples=min(asked.couples, len(frames) // 2))


def _provenance_facts(plan: MeasuringPlan) -> dict:
    """What provenance.json records of the seed, the pairs and the measured subjects."""
    return {
        "seed": plan.config.seed,
        "pairs_hash": plan.pairs.hash if plan.pairs else None,
        "subjects": [
            {"title": one.title, "digest": one.digest, "runs": one.runs} for one in plan.subjects
        ],
    }
