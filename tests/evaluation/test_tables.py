"""All tables and figures of all methods, on a few generated faces in each benchmark's layout."""

import json
import subprocess
import time

import numpy as np
import pytest

from scemae.evaluation.tables import write
from scemae.evaluation.tables.cells import SPECS, from_json
from tests.support import TINY, Started, scemae

RUN = [
    "optim.global_batch_size=8",
    "optim.epochs=0.2",
    "optim.warmup_epochs=0",
    "loop.log_every=1",
    "loop.save_every=9",
    "data.jpeg_noise=false",
    "runtime.device=cpu",
]
FIRST = {
    "mae": [*TINY, "data.frame=136"],
    "moco": ["method=moco", "method.settings.trunk=resnet10t", "method.settings.queue=16"],
    "byol": ["method=byol", "method.settings.trunk=resnet10t", "method.settings.hidden=32"],
    "dve": [
        "method=dve",
        "method.settings.width=16",
        "method.settings.depth=2",
        "method.settings.blocks=1",
    ],
}
SECOND = {
    "carb": ("mae", ["carb.dim=64"]),
    "alone": (
        "mae",
        ["carb.dim=64", "carb.r_att_att=1", "carb.r_att_inatt=1", "carb.r_inatt_inatt=1"],
    ),
    "cl": ("moco", ["method=cl", "method.settings.dim=64"]),
    "lead": ("byol", ["method=lead", "method.settings.dim=64"]),
}
REGRESSOR = ["detection.epochs=1", "detection.kernel=1", "detection.limit=8"]
FAST = [
    "stride=8",
    "detection.stride=8",
    "matching.couples=2",
    "matching.place_images=2",
    "matching.chunk=1",
    *REGRESSOR,
    "few_shot.counts=[1,5,10,20,50,100]",
    "few_shot.seeds=[0]",
    "few_shot.images_per_epoch=100",
    "few_shot.epochs=1",
    "few_shot.views=1",
    "few_shot.init_std=0.01",
    "embedding.images=8",
    "embedding.repeats=1",
    "embedding.perplexity=5",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Generated faces of every benchmark as shards, and a run of every method."""
    root = tmp_path_factory.mktemp("tables")
    for layout, source, count, options in (
        ("celeba", "celeba", 120, []),
        ("aflw_m", "aflw_m", 132, []),
        ("aflw_r", "aflw_r", 40, ["--corrected", root / "aflw_r" / "corrected.csv"]),
        ("300w", "w300", 24, []),
    ):
        scemae(
            "faces",
            root / layout,
            "--layout",
            layout,
            "--count",
            count,
            "--identities",
            20,
            "--workers",
            1,
        )
        scemae(
            "shards",
            "build",
            source,
            root / layout,
            root / "shards" / layout,
            "--workers",
            1,
            *options,
        )
    (root / "bare").mkdir()
    (root / "bare" / "aflw-test").symlink_to(root / "shards" / "aflw_m" / "aflw-test")
    data = f"data.shards={root / 'shards' / 'celeba' / 'train'}"
    for name, options in FIRST.items():
        scemae("pretrain", *options, *RUN, data, f"run_dir={root / name}")
    for name, (backbone, options) in SECOND.items():
        scemae(
            "correspond",
            *options,
            *RUN,
            data,
            f"run_dir={root / name}",
            f"backbone={root / backbone}",
        )
    return root


def measure(
    world, out, *more, runs=("carb", "alone", "cl", "lead", "dve"), ranks=1, check=True
) -> subprocess.CompletedProcess:
    shards = ",".join(str(path) for path in sorted((world / "shards").iterdir()))
    return scemae(
        "tables",
        *(world / run for run in runs),
        f"run_dir={out}",
        f"shards=[{shards}]",
        *FAST,
        *more,
        ranks=ranks,
        check=check,
    )


@pytest.fixture(scope="module")
def tables(world):
    measure(world, world / "tables")
    return from_json((world / "tables" / "tables.json").read_text())


@pytest.mark.slow
def test_every_cell_of_every_table_is_filled_for_every_method(tables):
    for number, spec in SPECS.items():
        rows = [row for row in tables.rows if row.table == number]
        assert {row.method.split(",")[0] for row in rows} >= {"SCE-MAE", "CL", "LEAD"} | (
            {"DVE"} if number < 4 else set()
        )
        for row in rows:
            assert set(row.cells) >= set(spec.columns), (number, row.method)
            for column, cell in row.cells.items():
                assert cell.missing is None and np.isfinite(cell.mean), (
                    number,
                    row.method,
                    column,
                    cell,
                )
                assert number == 3 or column == "share" or cell.low <= cell.mean <= cell.high
    marks = {(row.cluster, row.lcr) for row in tables.rows if row.table == 4 and row.role == "ours"}
    assert marks == {(False, False), (True, False), (True, True)}


@pytest.mark.slow
def test_every_figure_is_drawn_and_every_difference_has_its_rows(tables):
    assert set(tables.figures) == {"figure1", "figure4", "figure5"} and not tables.missing_figures
    assert list(tables.figure_facts["figure5"]["methods"]) == [
        "CL ResNet-10t, 64-d",
        "DVE hourglass, 64-d",
        "LEAD ResNet-10t, 960-d",
        "SCE-MAE ViT 4 x 48, 64-d",
    ]
    rows = {(row.table, write.label(row)): row.cells for row in tables.rows}
    for one in tables.differences:
        first, second = (rows[one.table, name][one.column].mean for name in (one.first, one.second))
        assert (
            one.mean == pytest.approx(first - second, abs=1e-6) and one.low <= one.mean <= one.high
        )
    compared = {(one.table, one.column) for one in tables.differences}
    assert compared >= {(1, "same"), (1, "different"), (2, "mafl"), (2, "300w"), (4, "different")}


@pytest.mark.slow
def test_subsets_and_reductions_are_stated_in_the_tables(tables, world):
    assert tables.benchmarks["aflw_rc"]["subset"].startswith("test subset: ")
    assert any(phrase == "2 of 500 couples" for phrase in tables.reduced)
    for name in ("tables.md", "tables.tex", "tables.html"):
        text = (world / "tables" / name).read_text()
        assert "2 of 500 couples" in text and "subset: 8 of 2,991" in text, name
    assert len((world / "tables" / "tables.csv").read_text().splitlines()) > 60


@pytest.mark.slow
def test_two_ranks_measure_the_same_numbers_and_a_second_run_nothing(world, tables, tmp_path):
    more = [
        "matching.place_images=0",
        "detection.benchmarks=[mafl]",
        "few_shot.counts=[1]",
        "few_shot.seeds=[0,1]",
        "pictures=false",
    ]
    measure(world, tmp_path / "two", *more, runs=("carb", "dve"), ranks=2)
    found = from_json((tmp_path / "two" / "tables.json").read_text())
    mine = {write.label(row): row for row in tables.rows if row.table in (1, 4)}
    for row in found.rows:
        if row.table in (1, 4):
            assert {key: cell.mean for key, cell in row.cells.items()} == pytest.approx(
                {key: cell.mean for key, cell in mine[write.label(row)].cells.items()}, rel=1e-4
            )
    few = [row.cells["1"] for row in found.rows if row.table == 3]
    assert few and all(cell.n == 2 and cell.sd > 0 for cell in few)  # over seeds
    assert "detection.benchmarks leaves aflw_m out" in (tmp_path / "two" / "tables.md").read_text()
    assert set(found.figures) == {"figure5"} and set(found.missing_figures) == {
        "figure1",
        "figure4",
    }  # it shows no face
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "two" / "measured").iterdir()}
    measure(world, tmp_path / "two", *more, runs=("carb", "dve"))
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "two" / "measured").iterdir()
    } == before


@pytest.mark.slow
def test_what_was_measured_survives_a_kill(world, tables, tmp_path):
    words = [
        "tables",
        world / "dve",
        f"run_dir={tmp_path / 'out'}",
        f"shards=[{world / 'shards' / 'celeba'}]",
        *FAST,
        "embedding.repeats=2",  # in two processes
        "detection.limit=null",
        "floors=false",
    ]
    process = Started(words, tmp_path / "stdout", tmp_path / "stderr")
    while process.poll() is None and not list((tmp_path / "out" / "measured").glob("*.npz")):
        time.sleep(0.02)
    process.kill()
    process.wait(30)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "measured").glob("*.npz")}
    assert kept
    scemae(*words)
    found = from_json((tmp_path / "out" / "tables.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    mine, whole = (
        [row.cells["different"].mean for row in one.rows if (row.table, row.method) == (1, "DVE")]
        for one in (found, tables)
    )
    assert mine == pytest.approx(whole) and mine
    assert [one["repeats"] for one in found.figure_facts["figure5"]["methods"].values()] == [2]


@pytest.mark.slow
def test_a_missing_data_set_leaves_cells_that_say_why_and_any_vit_of_timm_is_a_row(world, tmp_path):
    scemae(
        "tables",
        world / "carb",
        f"run_dir={tmp_path / 'out'}",
        f"shards=[{world / 'shards' / 'celeba'}]",
        *FAST,
        "floors=false",
        "timm=[vit_tiny_patch16_224]",
        "detection.kernel=3",
        "detection.limit=8",
    )
    rows = from_json((tmp_path / "out" / "tables.json").read_text()).rows
    today = next(row for row in rows if row.role == "reference" and row.table == 1)
    assert (
        today.method == "vit_tiny_patch16_224, random weights"
        and today.dim == 192
        and today.cells["different"].mean > 0
    )
    cells = next(row for row in rows if row.table == 2).cells
    assert (
        cells["aflw_rc"].missing.endswith("the corrected labels are not public")
        and cells["mafl"].mean > 0
    )
    assert cells["300w"].missing.startswith("no shards w300-test in ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "nowhere: no such folder; give run folders"),
        (
            ["{world}/shards", "shards=[{world}/shards/celeba]"],
            "found no finished checkpoint in it",
        ),
        (["{world}/mae", "shards=[{world}]"], "shards: found no split of a benchmark in"),
        (
            ["{world}/mae", "shards=[{world}/bare]", "detection.train_on.aflw_m=mafl"],
            "found no training shards of mafl",
        ),
        (
            [
                "{world}/mae",
                "shards=[{world}/bare,{world}/shards/300w]",
                "detection.train_on.aflw_m=300w",
            ],
            "300w has 68",
        ),
        (
            ["{world}/mae", "shards=[{world}/shards/celeba]", "timm=[resnet50]"],
            "timm: found no ViT 'resnet50'",
        ),
        (
            [
                "{world}/mae",
                "shards=[{world}/shards/celeba]",
                "timm=[vit_tiny_patch16_224:gone.pth]",
            ],
            "gone.pth: no such file",
        ),
        (["{world}/mae", "shards=[{world}/shards/celeba]", "stride=3"], "stride: found 3, one of"),
    ],
)
def test_bad_input_gives_one_sentence_before_any_work(world, tmp_path, words, sentence):
    words = [word.format(world=world) for word in words]
    done = scemae("tables", *words, f"run_dir={tmp_path / 'out'}", check=False)
    assert done.returncode == 1 and sentence in done.stderr and "Traceback" not in done.stderr, (
        done.stderr[-2000:]
    )
    assert not (tmp_path / "out" / "measured").exists()


@pytest.mark.slow
def test_two_ranks_evaluate_a_rivals_runs_with_the_numbers_of_the_tables(world, tables, tmp_path):
    celeba = world / "shards" / "celeba"
    scemae(
        "evaluate",
        f"run_dir={tmp_path / 'eval'}",
        f"backbone={world / 'moco'}",
        f"projector={world / 'cl'}",
        "stride=8",
        "matching.place_images=0",
        f"matching.shards={celeba / 'mafl-test'}",
        "matching.couples=2",
        f"detection.train={celeba / 'mafl-train'}",
        f"detection.test={celeba / 'mafl-test'}",
        *REGRESSOR,
        "detection.stride=8",
        ranks=2,
    )
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    rows = {(row.table, row.method): row.cells for row in tables.rows if row.method == "CL"}
    matched, detected = (results[part]["methods"] for part in ("matching", "detection"))
    for kind in ("same", "different"):  # all couples at once there, one at a time here
        assert rows[1, "CL"][kind].mean == pytest.approx(
            matched["CL ResNet-10t cl 64"][kind]["mean"], rel=1e-4
        )
        assert rows[4, "CL"][kind].mean == pytest.approx(
            matched["CL ResNet-10t hypercolumn"][kind]["mean"], rel=1e-4
        )
    assert rows[2, "CL"]["mafl"].mean == pytest.approx(
        detected["CL ResNet-10t hypercolumn"]["error"]["mean"], rel=1e-3
    )
