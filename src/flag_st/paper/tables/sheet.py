"""A table as it is printed: cells carry their meaning and leave the file format to ``render``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite

#: What is printed where there is no number.
DASH = "–"
UNDEFINED = "undefined, because there are too few spots or genes or because values do not vary"
ABSENT = "not computed in this run"


@dataclass(frozen=True)
class Cell:
    """One entry.

    Attributes:
        text: what is printed.
        detail: printed in small letters after it, such as "± 0.012".
        kind: "" | ``name`` (what the row is about) | ``words`` (text that wraps) | ``paper`` (a
            number that the paper printed).
        mark: "" | ``best`` | ``second``.
        notes: keys of footnotes.
    """

    text: str
    detail: str = ""
    kind: str = ""
    mark: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Head:
    """A heading over ``span`` columns; ``kind`` is that of the cells below it."""

    text: str
    span: int = 1
    kind: str = ""


@dataclass(frozen=True)
class Block:
    """Rows under one heading, such as a cohort, or the whole table.

    Attributes:
        title: "" for none.
        groups: headings of groups of columns, whose spans add up to the number of columns.
        columns: one heading per column.
        rows: one cell per column in each row.

    Raises:
        ValueError: rows and headings have different widths.
    """

    title: str
    groups: Sequence[Head]
    columns: Sequence[Head]
    rows: list[list[Cell]]

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.rows} | {len(self.columns)}
        widths |= {sum(head.span for head in self.groups)} if self.groups else set()
        if len(widths) != 1:
            raise ValueError(f"block {self.title!r}: rows and headings of {sorted(widths)} columns")


class Notes:
    """Footnotes: equal texts share a key; keys are a, b, c and so on in order of first use."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def key(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return letters(self.texts.index(text))

    def items(self) -> list[tuple[str, str]]:
        return [(letters(i), text) for i, text in enumerate(self.texts)]


@dataclass(frozen=True)
class Sheet:
    """A whole table: title, caption, blocks, footnotes, and a warning if its numbers may mislead."""

    name: str
    title: str
    caption: str
    blocks: Sequence[Block]
    notes: Notes = field(default_factory=Notes)
    warning: str = ""


def letters(index: int) -> str:
    """0 → a, 25 → z, 26 → aa …"""
    text = ""
    while index >= 0:
        text = chr(ord("a") + index % 26) + text
        index = index // 26 - 1
    return text


def number(value: float, std: float, notes: Notes, mark: str = "", digits: int = 3) -> Cell:
    """A cell with a number of ours: the mean, and ± the standard deviation if there is one."""
    if not isfinite(value):
        return Cell(DASH, notes=(notes.key(UNDEFINED),))
    detail = f"± {std:.{digits}f}" if isfinite(std) else ""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return Cell(f"{round(value, digits) + 0:.{digits}f}", detail, mark=mark)


def printed(value: tuple[float, float, str] | None, digits: int = 4) -> Cell:
    """A cell with a number of the paper, or with its reason for having none."""
    if value is None:
        return Cell("", kind="paper")
    mean, std, note = value
    if not isfinite(mean):
        return Cell(note or DASH, kind="paper")
    detail = f"± {std:.{digits}f}" if isfinite(std) else ""
    return Cell(f"{mean:.{digits}f}", detail, kind="paper")


def marks(
    values: Sequence[float],
    direction: int,
    ahead: Callable[[float, float], bool] = lambda first, second: True,
    digits: int = 3,
) -> list[str]:
    """``best`` and ``second`` in a column; values that print alike are marked alike.

    Args:
        values: NaN values do not compete.
        direction: +1 if higher is better, -1 if lower is better, 0 for no marks.
        ahead: whether the lead of the first value over the second is clear. A value without a clear
            lead over the next gets no mark, and without a best there is no second.
        digits: how many are printed after the point.
    """
    ranks: dict[float, list[float]] = {}
    for value in sorted((v for v in values if isfinite(v)), reverse=direction > 0):
        ranks.setdefault(round(value, digits), []).append(value)
    groups: list[list[float]] = list(ranks.values())
    names: dict[float, str] = {}
    for place, name in enumerate(("best", "second")[: len(groups) if direction else 0]):
        behind = groups[place + 1 : place + 2]
        if behind and not ahead(groups[place][-1], behind[0][0]):
            break
        names |= dict.fromkeys(groups[place], name)
    return [names.get(v, "") for v in values]
