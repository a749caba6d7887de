"""Domains that experts assigned to spots, joined to a slide by barcode."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flag_st.core.errors import Faults, FlagError
from flag_st.data.barcodes import check_suffixes, plain
from flag_st.data.patients import without_gaps


def read_labels(path: str | Path, barcodes: Sequence[str]) -> np.ndarray:
    """The label of each spot of a slide, from a tab-separated table of ``barcode`` and ``label``.

    Returns:
        (N,) labels; "" where a spot has none.

    Raises:
        FlagError: the file is unreadable, lacks a column, gives a barcode two labels, or shares no
            barcode with the slide.
    """
    known = _read(path)
    names = plain(barcodes)
    labels = np.array([known.get(name, "") for name in names], dtype=np.str_)
    if not known.keys() & set(names):
        raise FlagError(
            f"{path}: none of its {len(known)} barcodes is among the slide's {len(labels)} spots",
            remedy="check that labels and slide belong together",
        )
    if not (labels != "").any():
        raise FlagError(f"{path} gives no spot of the slide a label", remedy="remove the file")
    return labels


def check_labels(path: Path, faults: Faults, spots: Sequence[str]) -> None:
    """Check a label file against the spots of the counts, and note what is joined to nothing.

    Raises:
        FlagError: as ``read_labels``.
    """
    known, labels = _read(path), read_labels(path, spots)
    check_suffixes(path, list(known), spots, faults)
    rows, bare = len(known.keys() - set(plain(spots))), int((labels == "").sum())
    if rows:
        faults.notes.append(f"{path}: {rows} of {len(known)} rows are of no spot of the counts")
    if bare:
        faults.notes.append(f"{path}: {bare} of {len(labels)} spots have no label")


def _read(path: str | Path) -> dict[str, str]:
    """Barcode, in one spelling, → label of every row."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = "save it as text in UTF-8"
        raise FlagError(f"the label file {path} is not UTF-8 ({error})", remedy=remedy) from None
    except OSError as error:
        raise FlagError(f"cannot read the label file {path} ({error})") from None
    known: dict[str, str] = {}
    table = csv.DictReader(text.splitlines(), delimiter="\t")
    table.fieldnames = [name.strip().lower() for name in table.fieldnames or []]
    for number, row in enumerate(table, 2):
        barcode, label = row.get("barcode"), row.get("label")
        if barcode is None or label is None:
            raise FlagError(
                f"{path}, line {number}: no barcode and label",
                remedy="write a tab-separated table whose first line is: barcode, label",
            )
        (name,), (value,) = plain([barcode]), without_gaps([label])
        if known.setdefault(name, value) != value:
            raise FlagError(f"{path}, line {number}: {barcode} has two labels")
    return known
