"""Written tables: the paper's numbers, groups, ranks, notes in every format, JSON read back."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scemae.errors import RunFolderError
from scemae.evaluation.landmarks.benchmarks import MATCHING_TARGETS, find_benchmark
from scemae.evaluation.tables.cells import SPECS
from scemae.evaluation.tables.grid import contrasts, facts_in_words, headline, lay_out
from scemae.evaluation.tables.paper import find_paper, paper_notes, paper_rows, paper_silhouettes
from scemae.evaluation.tables.typeset import escape
from scemae.evaluation.tables.write import (
    Cell,
    Difference,
    Row,
    Tables,
    csv_text,
    from_json,
    html,
    label,
    latex,
    markdown,
    to_json,
    write,
)
from tests import axe

SIZES = {"T": "DeiT-T", "S": "DeiT-S", "B": "DeiT-B"}
FORMATS = {"markdown": markdown, "latex": latex, "csv": csv_text, "html": html}


def matched(method, model, dim, same, different, *, role="rival", **more):
    if not isinstance(different, Cell):
        different = Cell(different, different - 0.1, different + 0.1, n=500)
    cells = {"same": Cell(same, same - 0.1, same + 0.1, sd=0.7, n=500), "different": different}
    return Row(1, method, model, role, 23_770_000, dim, cells, **more)


@pytest.fixture
def tables():
    """Made-up rows: rivals, ours, floors, missing numbers, a subset and a reduced run."""
    ours = matched("SCE-MAE", "DeiT-T", 64, 0.5, 2.0, role="ours", images_seen=1000, run="runs/a|b")
    rows = [
        matched("DVE", "hourglass", 64, 1.0, 2.5),
        matched("CL", "ResNet-50", 64, 0.75, Cell(missing="50% of CL_64 is lost")),
        ours,
        matched("no motion", "", None, 0.2, 6.7, role="floor"),
        matched("CL", "ResNet-50", 128, 0.9, 2.2),
        Row(
            2,
            "CL",
            "ResNet-50",
            "rival",
            23_800_000,
            3840,
            {"mafl": Cell(3.0, 2.9, 3.1, n=50)},
            hypercolumn=True,
        ),
        Row(
            3,
            "LEAD",
            "ResNet-50",
            "rival",
            None,
            64,
            {"1": Cell(22.0, sd=2.5, n=5), "200": Cell(9.0, sd=0.1, n=5)},
        ),
        Row(
            4,
            "SCE-MAE",
            "DeiT-B",
            "ours",
            None,
            768,
            {"same": Cell(0.6), "different": Cell(3.6)},
            cluster=False,
            lcr=False,
        ),
    ]
    found = [
        Difference(
            1, "different", label(ours), "DVE hourglass, 64-d", -0.5, -0.6, -0.4, 500, 0.7, True
        ),
        Difference(1, "same", label(ours), "DVE hourglass, 64-d", -0.5, -1.1, 0.1, 500, 0.6, False),
    ]
    benchmarks = {
        "mafl": {"title": "MAFL", "subset": "subset: 50 of 1,000 test images", "missing": None},
        "aflw_rc": {"title": "AFLW_RC", "subset": None, "missing": "its labels are not public"},
    }
    facts = {
        "seed": 0,
        "pairs_hash": "0f" * 32,
        "command": "scemae <all> & more",
        "hardware": {"gpus": []},
    }
    return Tables(
        rows,
        found,
        ["32 of 500 couples"],
        benchmarks,
        facts,
        {"figure5": "data:image/png;base64,AAAA"},
        {"figure5": {"repeats": 3}},
        {"figure1": "no rival was given"},
    )


def test_the_papers_numbers_are_those_printed():
    assert [len(paper_rows(number)) for number in SPECS] == [10, 6, 10, 5, 0]
    assert paper_rows(1)[0].parameters == 12_400_000 and paper_rows(2)[0].parameters == 12_600_000
    assert [cell.mean for cell in paper_rows(2)[2].cells.values()] == [
        2.44,
        6.05,
        5.71,
        5.11,
        4.87,
    ]  # LEAD
    assert paper_rows(3)[0].cells["1"] == Cell(14.23, sd=1.45) and any(
        "1.54" in note for note in paper_notes(3)
    )
    assert paper_rows(3)[4].cells["5"] == Cell(18.66, sd=4.59) and paper_rows(3)[9].cells[
        "100"
    ] == Cell(7.58, sd=0.09)
    assert [(row.cells["same"].mean, row.cells["different"].mean) for row in paper_rows(4)] == [
        (0.69, 5.37),
        (2.35, 6.22),
        (0.55, 3.51),
        (0.30, 4.04),
        (0.27, 1.61),
    ]
    assert paper_silhouettes()["SCE-MAE"] == [0.679, 0.013]


def test_every_row_of_the_paper_has_every_column_of_its_table():
    for number, spec in SPECS.items():
        assert all(list(row.cells) == list(spec.columns) for row in paper_rows(number))


def test_the_papers_table_1_agrees_with_the_targets_of_the_benchmarks():
    ours = {(row.model, row.dim): row.cells for row in paper_rows(1) if row.role == "ours"}
    assert len(ours) == len(MATCHING_TARGETS)
    for name, expected in MATCHING_TARGETS.items():
        size, dim = name.split("-")
        cells = ours[SIZES[size], int(dim)]
        assert (cells["same"].mean, cells["different"].mean) == expected


@pytest.mark.parametrize("name", ["mafl", "aflw_m", "aflw_r", "300w"])
def test_the_papers_table_2_agrees_with_the_targets_of_the_benchmarks(name):
    ours = {row.model: row.cells[name].mean for row in paper_rows(2) if row.role == "ours"}
    assert {SIZES[size]: value for size, value in find_benchmark(name).targets.items()} == ours


def test_the_papers_row_is_that_of_the_same_method_model_and_width(tables):
    assert find_paper(tables.rows[2]).cells["different"].mean == 1.99
    assert (
        find_paper(replace(tables.rows[2], dim=32)) is None
        and find_paper(replace(tables.rows[2], model="tiny")) is None
    )
    assert find_paper(replace(tables.rows[2], role="floor")) is None
    assert find_paper(tables.rows[7]).cells["different"].mean == 3.51  # the Baseline
    assert (
        find_paper(replace(tables.rows[7], dim=256, cluster=True, lcr=True)).cells["same"].mean
        == 0.27
    )
    assert (
        find_paper(Row(3, "SCE-MAE", "DeiT-B", "ours", None, 128, {})).cells["1"].mean == 20.14
    )  # backbone not said


def test_rows_are_grouped_by_width_and_floors_stand_last_without_a_rank(tables):
    grid = lay_out(tables, 1)
    assert [
        (title.split()[0], [line.row.method for line in lines]) for title, lines in grid.groups
    ] == [("64", ["DVE", "CL", "SCE-MAE"]), ("128", ["CL"]), ("floors,", ["no motion"])]
    ranks = [[entry.rank for entry in line.entries] for _, lines in grid.groups for line in lines]
    assert ranks == [
        [0, 2],
        [2, 0],
        [1, 1],
        [0, 0],
        [0, 0],
    ]  # one alone is not the best of its group


def test_best_and_second_best_are_those_of_a_sort_and_ties_as_printed_share_a_rank():
    errors = [1.004, 0.999, 3.0, 1.2]
    rows = [matched(f"m{i}", "", 64, error, 2.0) for i, error in enumerate(errors)]
    lines = lay_out(Tables(rows), 1).groups[0][1]
    shown = sorted({f"{error:.2f}" for error in errors})
    expected = [{shown[0]: 1, shown[1]: 2}.get(f"{error:.2f}", 0) for error in errors]
    assert [line.entries[0].rank for line in lines] == expected == [1, 1, 0, 2]
    assert {line.entries[1].rank for line in lines} == {1}


def test_columns_beyond_the_papers_are_shown_too(tables):
    assert [column.name for column in lay_out(tables, 3).columns] == [
        "1",
        "5",
        "10",
        "20",
        "50",
        "100",
        "200",
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_what_is_reduced_what_is_a_subset_and_why_a_number_is_missing(
    tables, form
):
    text = FORMATS[form](tables).replace("\\", "")
    assert text.count("32 of 500 couples") >= 4 and "50 of 1,000 test images" in text
    assert "50% of CL_64 is lost" in text and "its labels are not public" in text
    if form != "csv":
        assert text.count("educed schedule") >= 4


@pytest.mark.parametrize("form", ["markdown", "latex", "html"])
def test_a_table_without_rows_says_why(form):
    text = FORMATS[form](Tables(facts={"missing_tables": {"3": "no shards of AFLW_M were given"}}))
    assert "no shards of AFLW" in text and text.count("scemae tables") == 4
    assert "educed schedule" not in text


def test_markdown_marks_ranks_and_shows_the_papers_numbers(tables):
    text = markdown(tables)
    assert "| SCE-MAE DeiT-T | 23.8 | 64 | **0.50** [0.40, 0.60] | **2.00** [1.90, 2.10] |" in text
    assert (
        "<ins>0.75</ins>" in text
        and "*1.99*" in text
        and "| LEAD ResNet-50 | 64 | 22.00 ± 2.50 | – [a] |" in text
    )
    assert "-0.50 [-1.10, +0.10] (not decided)" in text
    assert "Seed: 0 · pairs hash: 0f0f0f0f0f0f0f0f…\n" in text


def test_every_markdown_row_has_the_columns_of_its_head_whatever_a_name_holds(tables):
    tables.rows[0].method = "D|V\nE"
    blocks = [
        block.splitlines() for block in markdown(tables).split("\n\n") if block.startswith("|")
    ]
    assert len(blocks) == 5
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1


def test_latex_is_balanced_and_every_row_has_its_columns(tables):
    text = latex(tables, is_standalone=True)
    bare = re.sub(r"\\[\\{}&%$#_]", lambda found: "\n" if found[0] == "\\\\" else "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0 and text.isascii()
    opened = []
    for verb, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        assert opened.append(name) is None if verb == "begin" else opened.pop() == name
    assert not opened
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{([lrc]+)\}(.*?)\\end\{tabular\}", bare, re.DOTALL
    ):
        for row in filter(lambda line: "&" in line, body.splitlines()):
            spanned = sum(int(n) - 1 for n in re.findall(r"multicolumn\{(\d+)\}", row))
            assert row.count("&") + spanned == len(columns) - 1
    assert (
        r"$\mathbf{0.50}_{0.40}^{0.60}$" in text
        and r"\underline{0.75}" in text
        and r"$22.00 \pm 2.50$" in text
    )


def test_latex_without_the_document_is_what_stands_in_it(tables):
    whole, part = latex(tables, is_standalone=True), latex(tables)
    assert (
        part in whole and "documentclass" not in part and r"\usepackage{amssymb,booktabs}" in whole
    )


def test_latex_escapes_what_it_would_take_for_a_command():
    assert escape("a_b & 50% $1 #2 {x} ~ ^ \\ [1]") == (
        r"a\_b \& 50\% \$1 \#2 \{x\} \textasciitilde{} \textasciicircum{} "
        r"\textbackslash{} {[}1{]}"
    )
    assert escape("é ± 😀") == "é $\\pm$ "


def test_csv_has_a_line_for_each_row_and_column(tables):
    found = list(csv.DictReader(io.StringIO(csv_text(tables))))
    assert len(found) == sum(len(lay_out(tables, row.table).columns) for row in tables.rows)
    first = next(
        one for one in found if one["method"] == "SCE-MAE" and one["column"] == "different"
    )
    assert (float(first["mean"]), int(first["n"]), first["paper_mean"], first["run"]) == (
        2.0,
        500,
        "1.99",
        "runs/a|b",
    )


def test_json_comes_back_as_it_was(tables):
    assert from_json(to_json(tables)) == tables


def test_numbers_of_numpy_are_numbers_in_json_and_paths_are_text():
    row = matched("CL", "ResNet-50", 64, np.float32(0.5), np.float64(2.0))
    row.cells["same"].n = np.int64(500)
    back = from_json(to_json(Tables([row], facts={"folder": Path("runs/a")})))
    low, high = (getattr(row.cells["same"], name).item() for name in ("low", "high"))
    assert back.rows[0].cells["same"] == Cell(0.5, low, high, sd=0.7, n=500)
    assert back.facts == {"folder": "runs/a"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 1, "rows": [{}]}',
        '{"format": 1, "rows": [], "differences": [], "x": 1}',
    ],
)
def test_json_of_another_kind_is_refused(text):
    with pytest.raises(RunFolderError, match="no tables of this version"):
        from_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"table": 5},
        {"role": "hero"},
        {"cells": {"same": Cell(float("nan"))}},
        {"cells": {"same": Cell(np.float32("inf"))}},
        {"cells": {"same": Cell(1.0, low=0.5)}},
        {"cells": {"mafl": Cell(1.0)}},
    ],
)
def test_a_row_that_no_table_can_show_is_refused_before_anything_is_written(
    tables, tmp_path, change
):
    tables.rows[0] = replace(tables.rows[0], **change)
    with pytest.raises(RunFolderError, match="DVE hourglass, 64-d"):
        write(tables, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_files_are_written_whole_and_without_pictures_no_face_is_in_them(tables, tmp_path):
    paths = write(tables, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in paths
    )
    assert {path.suffix for path in paths} == {".md", ".tex", ".csv", ".json", ".html"}
    assert "base64" in (tmp_path / "out/tables.html").read_text() and json.loads(
        (tmp_path / "out/tables.json").read_text()
    )
    tables.figures["figure4"] = "data:image/png;base64,FACE"
    assert "FACE" in write(tables, tmp_path / "out")[-1].read_text()
    for path in write(tables, tmp_path / "out", with_pictures=False):
        assert "FACE" not in path.read_text()
    assert (
        tables.figures["figure5"] in (tmp_path / "out/tables.html").read_text()
    )  # it shows points, no face


def test_the_page_fetches_nothing_and_escapes_what_it_is_given(tables):
    page = html(tables)
    assert not re.search(r"""(?:src|href|data|action)\s*=\s*["'](?!data:|#)""", page)
    assert not re.search(r"<(?:script|link|iframe|object)|@import|url\((?!#)", page)
    assert "scemae &lt;all&gt; &amp; more" in page


def test_the_page_shows_badges_paper_numbers_and_figures(tables):
    page = html(tables)
    assert page.count('<span class="badge">') >= 5 and 'badge">' not in html(
        replace(tables, reduced=[])
    )
    assert '<span class="said">paper 1.99</span>' in page and page.count('class="paper"') == 4
    assert (
        '<img src="data:image/png;base64,AAAA"' in page and "Not shown: no rival was given." in page
    )
    assert page.count('class="num better"') == 1 and page.count('class="num open"') == 1


def test_pairs_with_ours_come_first(tables):
    tables.differences.insert(0, replace(tables.differences[0], first="CL ResNet-50, 64-d"))
    assert [first for first, _, _ in contrasts(lay_out(tables, 1))] == [
        "SCE-MAE DeiT-T, 64-d",
        "CL ResNet-50, 64-d",
    ]


def test_the_headline_is_our_best_row_against_the_best_rival(tables):
    found = headline(lay_out(tables, 1))
    assert (
        found["names"] == {"ours": "SCE-MAE DeiT-T, 64-d", "rival": "CL ResNet-50, 128-d"}
        and found["difference"] is None
    )
    del tables.rows[4]
    assert headline(lay_out(tables, 1))["difference"].mean == -0.5
    assert headline(lay_out(tables, 2)) is None


def test_labels_tell_the_rows_of_the_ablation_apart(tables):
    raw = tables.rows[7]
    assert label(raw) == "SCE-MAE DeiT-B, 768-d"
    assert label(replace(raw, dim=256, cluster=True)) == "SCE-MAE DeiT-B, 256-d + clustering"
    assert len({label(row) for row in paper_rows(4)}) == 5


def test_nested_facts_become_text():
    assert facts_in_words({"a": {"b": [0.5, None], "c": True}, "d": 146501}) == [
        ("a.b", "0.5, –"),
        ("a.c", "yes"),
        ("d", "146501"),
    ]


def test_axe_finds_nothing_serious_on_the_tables(tables, tmp_path):
    write(tables, tmp_path, False)
    axe.check_file(tmp_path / "tables.html")
