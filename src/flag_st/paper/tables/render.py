"""Writes a sheet as LaTeX, Markdown and HTML."""

import re
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from flag_st.core.io import writing
from flag_st.paper.tables.sheet import Block, Cell, Head, Sheet

if TYPE_CHECKING:
    import pandas

STYLE = Path(__file__).with_name("table.css")
#: More columns than this do not fit on an upright page.
WIDE = 12
_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "µ": r"$\mu$",
    "σ": r"$\sigma$",
    "Δ": r"$\Delta$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≠": r"$\neq$",
    "→": r"$\rightarrow$",
    "’": "'",
}


def tex(text: str) -> str:
    """``text`` as LaTeX source, without the characters that LaTeX cannot print."""
    return "".join(_TEX.get(c, c if c.isascii() or c.isalpha() else "") for c in text)


def markdown(text: str) -> str:
    """``text`` as it must be written inside a Markdown table cell."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text).replace("\n", " ")


def write(sheet: Sheet, numbers: "pandas.DataFrame", output: Mapping[str, str]) -> None:
    """Write the files of ``output``: csv (all numbers, unrounded), tex, md and html."""
    with writing(output["csv"]) as temporary:
        numbers.to_csv(temporary, index=False, lineterminator="\n")
    writers: dict[str, Callable[[Sheet], str]] = {"tex": to_tex, "md": to_markdown, "html": to_html}
    for kind, render in writers.items():
        with writing(output[kind]) as temporary:
            temporary.write_text(render(sheet), encoding="utf-8")


# --- LaTeX ----------------------------------------------------------------------------------------


def to_tex(sheet: Sheet) -> str:
    """A float that needs the packages booktabs, graphicx and rotating; a wide one is turned sideways."""
    wide = max(len(block.columns) for block in sheet.blocks) > WIDE
    environment = "sidewaystable*" if wide else "table*"
    lines = [
        "% \\usepackage{booktabs,graphicx,rotating}",
        f"\\begin{{{environment}}}",
        "\\centering",
    ]
    caption = f"\\textbf{{{tex(sheet.title)}.}} {tex(sheet.caption)}".strip()
    lines += [
        f"\\caption{{{caption}}}",
        f"\\label{{tab:{re.sub('[^A-Za-z0-9]', '-', sheet.name)}}}",
    ]
    if sheet.warning:
        lines.append(f"\\textbf{{{tex(sheet.warning)}}}\\par\\medskip")
    for block in sheet.blocks:
        lines += ["\\resizebox{\\textwidth}{!}{%", *_tex_block(block), "}\\par\\medskip"]
    if notes := sheet.notes.items():
        text = " ".join(f"\\textsuperscript{{{k}}}\\,{tex(t)}." for k, t in notes)
        lines.append(f"{{\\footnotesize\\raggedright {text}\\par}}")
    return "\n".join([*lines, f"\\end{{{environment}}}", ""])


def _tex_block(block: Block) -> list[str]:
    kinds = {"name": "l", "words": "p{32mm}"}
    places = "".join(kinds.get(head.kind, "r") for head in block.columns)
    lines = [f"\\begin{{tabular}}{{{places}}}", "\\toprule"]
    if block.title:
        lines += [
            f"\\multicolumn{{{len(block.columns)}}}{{l}}{{\\textbf{{{tex(block.title)}}}}} \\\\"
        ]
    if block.groups:
        heads, rules, start = [], [], 1
        for head in block.groups:
            heads.append(f"\\multicolumn{{{head.span}}}{{c}}{{{tex(head.text)}}}")
            if head.text:
                rules.append(f"\\cmidrule(lr){{{start}-{start + head.span - 1}}}")
            start += head.span
        lines += [" & ".join(heads) + " \\\\", " ".join(rules)]
    lines += [" & ".join(tex(head.text) for head in block.columns) + " \\\\", "\\midrule"]
    lines += [" & ".join(map(_tex_cell, row)) + " \\\\" for row in block.rows]
    return [*lines, "\\bottomrule", "\\end{tabular}%"]


def _tex_cell(cell: Cell) -> str:
    command = {"best": "\\textbf", "second": "\\underline", "": ""}[cell.mark]
    text = f"{command}{{{tex(cell.text)}}}" if command else tex(cell.text)
    if cell.detail:
        text += f" {{\\scriptsize {tex(cell.detail)}}}"
    if cell.notes:
        text += f"\\textsuperscript{{{','.join(cell.notes)}}}"
    return f"\\textit{{{text}}}" if cell.kind == "paper" and text else text


# --- Markdown -------------------------------------------------------------------------------------


def to_markdown(sheet: Sheet) -> str:
    parts = [f"**{markdown(sheet.title)}.** {markdown(sheet.caption)}".strip()]
    if sheet.warning:
        parts.append(f"> **{markdown(sheet.warning)}**")
    for block in sheet.blocks:
        if block.title:
            parts.append(f"### {markdown(block.title)}")
        parts.append("\n".join(_markdown_block(block)))
    if notes := sheet.notes.items():
        parts.append("\n".join(f"- <sup>{k}</sup> {markdown(t)}" for k, t in notes))
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> list[str]:
    groups = [head.text for head in block.groups for _ in range(head.span)]
    groups = groups or [""] * len(block.columns)
    heads = [f"{g} {h.text}".strip() for g, h in zip(groups, block.columns, strict=True)]
    places = [":--" if head.kind in ("name", "words") else "--:" for head in block.columns]
    rows = [[markdown(h) for h in heads], places]
    rows += [[_markdown_cell(cell) for cell in row] for row in block.rows]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _markdown_cell(cell: Cell) -> str:
    text = markdown(f"{cell.text} {cell.detail}".strip())
    if cell.mark == "best":
        text = f"**{text}**"
    elif cell.mark == "second" or (cell.kind == "paper" and text):
        text = f"*{text}*" if cell.kind == "paper" else f"<u>{text}</u>"
    return text + (f"<sup>{','.join(cell.notes)}</sup>" if cell.notes else "")


# --- HTML -----------------------------------------------------------------------------------------


def to_html(sheet: Sheet) -> str:
    """A page of its own; the report includes the part inside ``<main>``."""
    style = STYLE.read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(sheet.title)}</title>\n<style>\n{style}</style></head>\n"
        f"<body>\n<h1>{escape(sheet.title)}</h1>\n<main>\n{to_fragment(sheet)}\n</main>\n"
        "</body></html>\n"
    )


def fragment(page: str | Path) -> str:
    """What ``to_html`` wrote inside ``<main>`` of a page."""
    text = Path(page).read_text(encoding="utf-8")
    return text.partition("<main>\n")[2].rpartition("\n</main>")[0]


def to_fragment(sheet: Sheet) -> str:
    parts = [f'<p class="caption">{escape(sheet.caption)}</p>']
    if sheet.warning:
        parts.append(f'<p class="warning" role="note">{escape(sheet.warning)}</p>')
    for block in sheet.blocks:
        if block.title:
            parts.append(f"<h4>{escape(block.title)}</h4>")
        label = escape(f"{sheet.title} {block.title}".strip(), quote=True)
        # A wide table scrolls inside its own frame, by keyboard as well; the page itself never scrolls.
        parts.append(f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">')
        parts += [*_html_block(block), "</div>"]
    if notes := sheet.notes.items():
        parts.append('<ul class="notes">')
        parts += [f"<li><sup>{k}</sup> {escape(t)}</li>" for k, t in notes] + ["</ul>"]
    return "\n".join(parts)


def _html_block(block: Block) -> list[str]:
    lines = ["<table>", "<thead>"]
    if block.groups:
        lines.append("<tr>" + "".join(_html_head(h, "colgroup") for h in block.groups) + "</tr>")
    lines.append("<tr>" + "".join(_html_head(h, "col") for h in block.columns) + "</tr>")
    lines += ["</thead>", "<tbody>"]
    lines += ["<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in block.rows]
    return [*lines, "</tbody>", "</table>"]


def _html_head(head: Head, scope: str) -> str:
    span = f' colspan="{head.span}"' if head.span > 1 else ""
    kind = f' class="{head.kind}"' if head.kind else ""
    return f'<th scope="{scope}"{span}{kind}>{escape(head.text)}</th>'


def _html_cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.mark:
        tag = {"best": "b", "second": "u"}[cell.mark]
        text = f"<{tag}>{text}</{tag}>"
    text += f" <small>{escape(cell.detail)}</small>" if cell.detail else ""
    text += f"<sup>{','.join(cell.notes)}</sup>" if cell.notes else ""
    kind = f' class="{cell.kind}"' if cell.kind else ""
    return f'<th scope="row"{kind}>{text}</th>' if cell.kind == "name" else f"<td{kind}>{text}</td>"
