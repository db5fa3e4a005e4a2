"""Tables as text to paste: Markdown and LaTeX of laid-out grids, with all notes that must stand
under them.
"""

import unicodedata

from scemae.evaluation.tables.cells import SPECS, Cell, Difference, Row, Tables
from scemae.evaluation.tables.grid import (
    Grid,
    GridCell,
    contrasts,
    facts_in_words,
    lay_out,
    stated_facts,
)

HEADS = {"hypercolumn": "Hypercol.", "cluster": "Cluster", "lcr": "L_LCR"}
TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",  # a bracket after \\ would be a length
    "–": "--",
    "—": "---",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "→": r"$\to$",
    "η": r"$\eta$",
    "τ": r"$\tau$",
    "λ": r"$\lambda$",
    "’": "'",
    "“": "``",
    "”": "''",
    "↓": r"$\downarrow$",
    "\u00a0": "~",
    "\n": " ",
}
PREAMBLE = r"""\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{amssymb,booktabs}
\begin{document}
"""


def markdown(tables: Tables) -> str:
    """All tables as Markdown, with notes, differences and, in italics, the paper's numbers of
    each row.
    """
    parts = [_markdown_table(tables, lay_out(tables, number)) for number in SPECS]
    return "\n\n".join(["# The tables of SCE-MAE, measured", *parts, _markdown_rest(tables)]) + "\n"


def latex(tables: Tables, *, is_standalone: bool = False) -> str:
    """All tables as LaTeX `table*` environments, for a document with booktabs and amssymb.

    is_standalone: with the document around them. The cells hold means with the 95 % interval as
    sub- and superscript, or mean and standard deviation. Characters outside ASCII are translated,
    or left out where LaTeX does not know them. The differences are in the other formats only.
    """
    body = "\n".join(_latex_table(tables, lay_out(tables, number)) for number in SPECS)
    return PREAMBLE + body + "\\end{document}\n" if is_standalone else body


def _cells(row: Row, grid: Grid) -> list[str]:
    """The cells between a row's name and its numbers."""
    millions = "" if row.parameters is None else f"{row.parameters / 1e6:.1f}"
    marks = {True: "✓", False: "✗", None: "–"}
    return (
        ([millions] if grid.spec.has_parameters else [])
        + ["" if row.dim is None else str(row.dim)]
        + [marks[getattr(row, name)] if row.role != "floor" else "" for name in grid.spec.marks]
    )


def _heads(grid: Grid) -> list[str]:
    return [
        "Method",
        *(["#Params (M)"] if grid.spec.has_parameters else []),
        "Dim.",
        *(HEADS[mark] for mark in grid.spec.marks),
        *(column.head for column in grid.columns),
    ]


def _spread(cell: Cell) -> str:
    if cell.low is not None:  # the deviation over images stays in CSV and JSON
        return f"[{cell.low:.2f}, {cell.high:.2f}]"
    return f"± {cell.sd:.2f}" if cell.sd is not None else ""


def _markdown_entry(entry: GridCell) -> str:
    if entry.cell.mean is None:
        return f"– [{entry.mark}]"
    mean = f"{entry.cell.mean:.2f}"
    ranked = {0: mean, 1: f"**{mean}**", 2: f"<ins>{mean}</ins>"}[entry.rank]
    return f"{ranked} {_spread(entry.cell)}".strip()


def _markdown_table(tables: Tables, grid: Grid) -> str:
    owner = "" if grid.spec.section else " (ours, not the paper's)"
    title = f"## Table {grid.spec.number}. {grid.spec.title}{owner}{_reduced(tables)}"
    if grid.empty:
        return f"{title}\n\nNot shown: {grid.empty}."
    heads = _heads(grid)
    rows = [heads, ["---"] + ["---:" if head != "Method" else "---" for head in heads[1:]]]
    for name, lines in grid.groups:
        if name:
            rows.append([f"*{name}*"] + [""] * (len(heads) - 1))
        for line in lines:
            numbers = map(_markdown_entry, line.entries)
            rows.append([_name(line.row), *_cells(line.row, grid), *numbers])
            if any(entry.paper for entry in line.entries):
                rows.append(_markdown_paper(grid, line.entries))
    caption = _caption(grid, "**Best** and <ins>second best</ins>")
    caption += " In italics: the paper's own numbers."
    notes = "\n".join(f"- {_one_line(note)}" for note in _notes(tables, grid))
    parts = [title, caption, _markdown_rows(rows), notes, _markdown_differences(grid)]
    return "\n\n".join(parts).rstrip()


def _reduced(tables: Tables) -> str:
    return " (reduced schedule)" if tables.reduced else ""


def _markdown_rows(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(map(_one_line, row)) + " |" for row in rows)


def _markdown_paper(grid: Grid, entries: list[GridCell]) -> list[str]:
    numbers = [f"*{_number(entry.paper)}*" if entry.paper else "" for entry in entries]
    return ["*— in the paper*"] + [""] * (len(_heads(grid)) - len(entries) - 1) + numbers


def _markdown_differences(grid: Grid) -> str:
    found = contrasts(grid)
    if not found:
        return ""
    rows = [
        ["First", "minus second", *(column.head for column in grid.columns)],
        ["---"] * 2 + ["---:"] * len(grid.columns),
    ]
    for first, second, by_column in found:
        taken = [by_column.get(column.name) for column in grid.columns]
        rows.append([first, second, *("" if one is None else _difference(one) for one in taken)])
    return (
        "Differences on the same pairs or images; negative: the first errs less. Brackets: 95 % "
        f"intervals.\n\n{_markdown_rows(rows)}"
    )


def _difference(one: Difference) -> str:
    decided = "" if one.is_decided else " (not decided)"
    return f"{one.mean:+.2f} [{one.low:+.2f}, {one.high:+.2f}]{decided}"


def _markdown_rest(tables: Tables) -> str:
    """Where the figures are, and the facts behind the numbers."""
    lines = ["## Figures and provenance", ""]
    lines += [f"- {name}: in tables.html" for name in tables.figures]
    lines += [
        f"- {name}, not shown: {_one_line(why)}" for name, why in tables.missing_figures.items()
    ]
    lines += [
        f"- {name}: {_one_line(words)}"
        for name, words in facts_in_words(tables.facts)
        if not name.startswith("missing_tables")
    ]
    return "\n".join(lines)


def _latex_table(tables: Tables, grid: Grid) -> str:
    owner = "of the paper" if grid.spec.section else "(ours)"
    title = f"Table {grid.spec.number} {owner}: {grid.spec.title}{_reduced(tables)}"
    if grid.empty:
        return f"\\par\\noindent\\emph{{{escape(title)}.}} {escape(grid.empty)}.\\par\n"
    caption = escape(f"{title}. {_caption(grid, 'Best and second best, bold and underlined,')}")
    notes = "\\\\\n".join(escape(note) for note in _notes(tables, grid))
    below = f"\\par\\smallskip\n\\parbox{{\\linewidth}}{{\\footnotesize {notes}}}"
    marks, numbers = len(grid.spec.marks), len(grid.columns)
    columns = "l" + "r" * (len(_heads(grid)) - numbers - 1 - marks) + "c" * (marks + numbers)
    return "\n".join(
        [
            "\\begin{table*}[tbp]",
            "\\centering\\small\\setlength{\\tabcolsep}{4pt}",
            f"\\caption{{{caption}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            *_latex_rows(grid),
            "\\bottomrule",
            "\\end{tabular}",
            *([below] if notes else []),
            "\\end{table*}",
            "",
        ]
    )


def _latex_rows(grid: Grid) -> list[str]:
    """The lines between the rules at the top and at the bottom."""
    heads, count = _heads(grid), len(grid.columns)
    measure = escape(grid.spec.measure.split(",")[0])
    titles = ("$L_{LCR}$" if head == HEADS["lcr"] else escape(head) for head in heads)
    empty = " & " * (len(heads) - count)
    rows = [
        " & ".join(titles) + " \\\\",
        f"{empty}\\multicolumn{{{count}}}{{c}}{{{measure} $\\downarrow$}} \\\\",
    ]
    for name, lines in grid.groups:
        rows.append("\\midrule")
        if name:
            rows.append(f"\\multicolumn{{{len(heads)}}}{{l}}{{\\emph{{{escape(name)}}}}} \\\\")
        for line in lines:
            cells = [escape(_name(line.row)), *map(_latex_mark, _cells(line.row, grid))]
            rows.append(" & ".join([*cells, *map(_latex_entry, line.entries)]) + " \\\\")
    return rows


def _latex_mark(words: str) -> str:
    return {"✓": "$\\checkmark$", "✗": "$\\times$", "–": "--"}.get(words, escape(words))


def _latex_entry(entry: GridCell) -> str:
    cell = entry.cell
    if cell.mean is None:
        return f"--\\textsuperscript{{{entry.mark}}}"
    style = {0: "{}", 1: "\\mathbf{{{}}}", 2: "\\underline{{{}}}"}[entry.rank]
    mean = style.format(f"{cell.mean:.2f}")
    if cell.low is not None:
        return f"${mean}_{{{cell.low:.2f}}}^{{{cell.high:.2f}}}$"
    return f"${mean} \\pm {cell.sd:.2f}$" if cell.sd is not None else f"${mean}$"


def escape(text: str) -> str:
    """Text for LaTeX: special characters and those of `TEX` translated, unknown ones left out."""
    return "".join(TEX.get(character, _plain(character)) for character in text)


def _plain(character: str) -> str:
    is_letter = character < "\u0180" and unicodedata.category(character)[0] == "L"
    return character if character.isascii() or is_letter else ""


def _caption(grid: Grid, ranks: str) -> str:
    spread = "" if grid.spec.number == 3 else " with 95 % intervals"
    if grid.spec.section is None:
        return f"{grid.spec.measure}{spread}; less error is better. {ranks} of each group."
    return (
        f"{grid.spec.measure}{spread}; less is better. {ranks} of each group; section "
        f"{grid.spec.section} of the paper."
    )


def _notes(tables: Tables, grid: Grid) -> list[str]:
    """All notes under a table: what is reduced, subsets, facts, and why numbers are missing."""
    facts = " · ".join(f"{name}: {words}" for name, words in stated_facts(tables, grid))
    missing = [f"[{mark}] {reason}" for mark, reason in grid.notes.items()]
    return grid.labels + ([facts[0].upper() + facts[1:]] if facts else []) + missing


def _name(row: Row) -> str:
    return " ".join(word for word in (row.method, row.model) if word)


def _number(cell: Cell) -> str:
    return f"{cell.mean:.2f}" + ("" if cell.sd is None else f" ± {cell.sd:.2f}")


def _one_line(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
