"""Whether truth and prediction are in one unit, since every metric returns a number if they are not."""

from pathlib import Path
from typing import Any

import numpy as np

from flag_st.core.errors import FlagError

#: Means that differ by a larger factor are of different units.
APART = 3.0
#: Values are the logarithm of whole numbers if these are whole within this share, or within ``NEAR``.
ROUNDING, NEAR = 2e-5, 1e-3
#: By how much a factor between predicted and true means may differ from that of two logarithms, and how
#: closely the means of all genes must follow it.
FACTOR, FOLLOWS = 0.05, 0.98
#: The remedy where a unit is not known.
NAME = (
    "name the units: uns['transform'] of the truth and uns['unit'] of the prediction, such as log1p"
)


def check_unit(truth: Any, prediction: Any, truth_path: str | Path) -> None:
    """Refuse to compare what is certainly not in one unit.

    A unit that a file names is believed. Otherwise whole numbers are counts, and values whose inverse
    logarithms are all whole are logarithms of counts, of the base for which they are.

    Args:
        truth, prediction: AnnData of the same spots and genes.
        truth_path: of the truth, for messages.

    Raises:
        FlagError: the units differ, or one file holds counts and the unit of the other is not known.
    """
    unit, known = _unit(prediction, "unit"), _unit(truth, "transform")
    if unit is None or known is None:
        unit, known = unit or _seen(prediction), known or _seen(truth)
        if (unit == "counts") != (known == "counts") and None in (unit, known):
            whole = truth_path if known == "counts" else "the prediction"
            raise FlagError(
                f"{whole} seems to hold counts, and of the other file the unit is not known",
                remedy=f"give both in one unit, or {NAME}",
            )
        means = [float(abs(t.X).mean()) for t in (truth, prediction)]
        if None in (unit, known) and max(means) > APART * min(means):
            raise FlagError(
                f"the mean of {truth_path} is {means[0]:.3g} and that of the prediction {means[1]:.3g}, as in "
                "different units",
                remedy=f"if they are the same, {NAME}",
            )
    # A logarithm of a base that scanpy notes is not the log1p that is meant where nothing is said.
    if None in (unit, known) and any(map(_noted_base, (truth, prediction))):
        unit, known = unit or "log1p", known or "log1p"
    if unit is not None and known is not None and unit != known:
        raise FlagError(
            f"{truth_path} holds {known}, the prediction {unit}",
            remedy="transform the truth, and name its unit in uns['transform']",
        )


def scales_apart(truth: Any, prediction: Any, truth_path: str | Path) -> str:
    """A warning if one of the two seems to be log2(x + 1) and the other log(x + 1); else an empty text.

    The values of a prediction do not tell its logarithm, but the means of its genes do: those of log2 are
    1 / ln 2 = 1.44 times as large, of every gene. A biased method can have such means as well, so that
    this is no proof.

    Args:
        truth, prediction: AnnData (N, G) of the same spots and genes in the same order.
        truth_path: of the truth, for the message.
    """
    if _unit(prediction, "unit") is not None and _unit(truth, "transform") is not None:
        return ""
    true, own = (np.asarray(t.X.mean(0), dtype=np.float64).ravel() for t in (truth, prediction))
    if len(true) < 3 or not (np.isfinite(own).all() and np.isfinite(true).all() and true.any()):
        return ""
    factor = float(own @ true / (true @ true))
    left = ((own - factor * true) ** 2).sum() / (own**2).sum() if own.any() else 1.0
    for wanted, names in ((1 / np.log(2), ("log1p", "log2")), (np.log(2), ("log2", "log1p"))):
        if abs(factor / wanted - 1) < FACTOR and left < 1 - FOLLOWS:
            return (
                f"the genes' means in the prediction are {factor:.2f} times those of {truth_path}, as if that held "
                f"{names[0]} (x + 1) and the prediction {names[1]} (x + 1): errors and slopes would then be wrong; {NAME}"
            )
    return ""


def _unit(table: Any, key: str) -> str | None:
    """The unit that a file names; logarithms of another base than e by scanpy's own note."""
    named = table.uns.get(key)
    if named is not None:
        return str(np.ravel(named)[0])
    base = _noted_base(table)
    names = {None: None, 2.0: "log2p1", float(np.e): "log1p"}
    return names.get(base, f"log1p to base {base:g}" if base else None)


def _noted_base(table: Any) -> float | None:
    """The base of the logarithm that scanpy notes where it is not e."""
    logs = table.uns.get("log1p")
    base = logs.get("base") if hasattr(logs, "get") else None
    return None if base is None else float(base)


def _seen(table: Any) -> str | None:
    """The unit that the values tell: counts, or the logarithm of counts to base e or 2; None if none."""
    values = table.X.data if hasattr(table.X, "toarray") else np.asarray(table.X)
    values = np.unique(values)
    if not len(values) or not np.isfinite(values).all() or values.min() < 0:
        return None
    if (values == np.round(values)).all():
        return "counts" if values.max() > 1 else None
    # Two values beside 0 may be whole by chance.
    if (values > 0).sum() < 3 or values.max() > np.log(1e6):
        return None
    inverse = {"log1p": np.expm1(values.astype(float)), "log2p1": np.exp2(values.astype(float)) - 1}
    for unit, counts in inverse.items():
        if (np.abs(counts - np.round(counts)) < NEAR + ROUNDING * counts).all():
            return unit
    return None
