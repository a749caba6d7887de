"""Domains that experts assigned to spots, joined to a slide by barcode."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flag_st.core.errors import FlagError


def read_labels(path: str | Path, barcodes: Sequence[str]) -> np.ndarray:
    """The label of each spot of a slide, from a tab-separated table of ``barcode`` and ``label``.

    Returns:
        (N,) labels; "" where a spot has none.

    Raises:
        FlagError: the file is unreadable, lacks a column, gives a barcode two labels, or shares no
            barcode with the slide.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FlagError(f"cannot read the label file {path} ({error})") from None
    known: dict[str, str] = {}
    for number, row in enumerate(csv.DictReader(text.splitlines(), delimiter="\t"), 2):
        barcode, label = row.get("barcode"), row.get("label")
        if barcode is None or label is None:
            raise FlagError(
                f"{path}, line {number}: no barcode and label",
                remedy="write a tab-separated table whose first line is: barcode, label",
            )
        if known.setdefault(barcode.strip(), label.strip()) != label.strip():
            raise FlagError(f"{path}, line {number}: {barcode} has two labels")
    labels = np.array([known.get(str(b), "") for b in barcodes], dtype=np.str_)
    if not (labels != "").any():
        raise FlagError(
            f"{path}: none of its {len(known)} barcodes is among the slide's {len(labels)} spots",
            remedy="check that labels and slide belong together",
        )
    return labels
