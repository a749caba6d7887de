"""Which genes the columns of a slide are."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flag_st.core.errors import FlagError

log = logging.getLogger(__name__)


#: What to do about genes that a slide lacks, and about those that a pre-trained network does not know.
SHARED_GENES = "choose the panel from the genes that all slides of the cohort share"
OTHER_GENES = "list the genes that it knows in panels.NAME.genes, or choose another backbone"


def positions(
    have: Sequence[str], want: Sequence[str], where: str, remedy: str = SHARED_GENES
) -> np.ndarray:
    """Index in ``have`` of each name of ``want``.

    Raises:
        FlagError: names that ``where`` lacks.
    """
    index = {name: i for i, name in enumerate(have)}
    missing = [str(name) for name in want if name not in index]
    if missing:
        raise FlagError(
            f"{len(missing)} panel genes are not in {where}, such as {', '.join(missing[:3])}",
            remedy=remedy,
        )
    return np.array([index[name] for name in want], dtype=np.int64)


def vocabulary(table, panel: np.ndarray, size: int) -> np.ndarray:
    """Columns of the panel, in its order, and then of the genes that most spots detect.

    Args:
        table: CSR (N, C) of raw counts; ``panel`` (G,): its columns.
        size: how many columns are chosen, if the panel is not larger.
    """
    detected = np.bincount(table.indices[table.data > 0], minlength=table.shape[1])  # (C,)
    others = np.setdiff1d(np.argsort(-detected, kind="stable"), panel, assume_unique=True)
    return np.concatenate([panel, others])[: max(size, len(panel))]


def identifiers(
    genes: Sequence[str], ensembl: Sequence[str], symbols: Mapping[str, str]
) -> list[str]:
    """Ensembl id of each column: the one that the slide states, or one by symbol, or ``""``.

    Version suffixes (``.12``) are dropped and letters are made upper case, as in the dictionaries.
    """
    found = (own or symbols.get(gene, "") for gene, own in zip(genes, ensembl, strict=True))
    return [name.split(".")[0].upper() for name in found]


def read_symbols(path: str | Path) -> dict[str, str]:
    """A table of two tab-separated columns, ``symbol`` and ``ensembl``, with that header.

    Raises:
        FlagError: the file is missing, has another header, a line that has not two fields, or two
            ids of one symbol.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FlagError(f"cannot read the symbol table {path} ({error})") from None
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    if not rows or rows[0] != ["symbol", "ensembl"]:
        raise FlagError(f"{path} has no header line 'symbol<TAB>ensembl'")
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise FlagError(f"{path}: row {number} has {len(row)} fields instead of 2")
    table: dict[str, str] = {}
    for symbol, ensembl in rows[1:]:
        if table.setdefault(symbol, ensembl) != ensembl:
            raise FlagError(
                f"{path} gives {symbol} two ids, {table[symbol]} and {ensembl}",
                remedy="keep the one that the slides mean",
            )
    return table


def report_unknown(panel: Sequence[str], known: np.ndarray, vocabulary: str) -> None:
    """Log which panel genes ``vocabulary`` lacks; they are masked everywhere.

    Raises:
        FlagError: it knows none of them.
    """
    unknown = [gene for gene, here in zip(panel, known, strict=True) if not here]
    if len(unknown) == len(panel):
        raise FlagError(
            f"{vocabulary} knows none of the {len(panel)} panel genes, such as {panel[0]}",
            remedy="check the species, and that the slides' var['ensembl'] or `symbols` hold ids",
        )
    if unknown:
        log.warning(
            "%s lacks %d of %d panel genes; they are masked: %s",
            vocabulary,
            len(unknown),
            len(panel),
            ", ".join(unknown[:10]) + (" …" if len(unknown) > 10 else ""),
        )
