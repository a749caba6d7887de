"""A slide for the explorer: prediction, spread and verdicts of every gene, in a script beside the page.

A page that is opened from a folder on disk may not read other files, but it may load scripts. One script
per slide keeps the page small, whatever the number of slides: it holds one slide at a time.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flag_st.core.io import writing
from flag_st.paper.figures.maps import colour_range
from flag_st.report.explorer import pack, picture
from flag_st.slides.predicted import Predicted
from flag_st.slides.trust import LIKE

NAME = "explorer.js"
#: Bytes that the values of a slide may take before they become text, which needs a third more.
BUDGET = 12_000_000
#: Spots that a browser draws without delay.
DRAWN = 15_000


def write(made: Predicted, path: str | Path) -> None:
    """Write the script, which hands the slide to the page's function ``receive``."""
    text = json.dumps(data_of(made), separators=(",", ":"), ensure_ascii=False)
    with writing(path) as temporary:
        temporary.write_text(f"receive({text});\n", encoding="utf-8")


def data_of(made: Predicted) -> dict[str, Any]:
    """What the page shows of a slide; spots are left out to stay within ``BUDGET`` and ``DRAWN``,
    genes never."""
    names, point, spread = order(made)
    panels = 1 if spread is None else 2
    room = min(DRAWN, BUDGET // (2 * panels * len(names)))
    kept = thinned(made.slide.position, room)
    low, high = point.min(0), point.max(0)  # (K,) each
    method = {"name": made.facts["method"], "point": pack(point[kept], low, high)}
    top = np.zeros(len(names)) if spread is None else spread.max(0)  # (K,)
    if spread is not None:
        method["spread"] = pack(spread[kept], np.zeros_like(top), top)
    width, height = (side * made.pixel_um for side in made.size)
    return {
        "unit": made.unit,
        "about": about(made, len(kept)),
        "diameter": made.spot_um,
        "extent": [0.0, width, height, 0.0],
        "image": picture(made.thumbnail),
        "spots": made.slide.spots[kept].tolist(),
        "position": np.round(made.slide.position[kept], 1).tolist(),
        "genes": names,
        "notes": notes(made, names),
        "low": low.tolist(),
        "high": high.tolist(),
        "top": top.tolist(),
        "ends": [list(colour_range(values)) for values in point.T],
        "unlike": (made.trust.spots["verdict"] != LIKE).to_numpy(dtype=int)[kept].tolist(),
        "methods": [method],
    }


def order(made: Predicted) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """Names of all K gene sets and genes, (N, K) point and spread: first the sets, then the genes that
    are shown, then the others by validation.
    """
    ranked = made.trust.genes.sort_values("validation_pcc", ascending=False, kind="stable").index
    genes = list(dict.fromkeys([*made.shown, *ranked]))
    columns = [made.genes.index(name) for name in genes]
    names = [*(made.sets.scored_names if made.sets else ()), *genes]
    point, spread = np.hstack([made.set_point, made.point[:, columns]]), made.spread  # (N, K)
    if spread is not None:
        spread = spread[:, columns]
        spread = spread if made.set_spread is None else np.hstack([made.set_spread, spread])
    return names, point, spread


def notes(made: Predicted, names: list[str]) -> list[str]:
    """What validation showed of each gene, and how much of each set there is, below the menus."""
    found = {
        name: f"{verdict}, "
        + ("not scored" if math.isnan(pcc) else f"validation correlation {pcc:.2f}")
        for name, verdict, pcc in made.trust.genes[["verdict", "validation_pcc"]].itertuples()
    }
    if made.sets is not None:
        counts = zip(made.sets.names, made.sets.found, made.sets.sizes, strict=True)
        found |= {name: f"gene set, {here} of its {of} genes" for name, here, of in counts}
    return [found[name] for name in names]


def about(made: Predicted, kept: int) -> str:
    """The verdict on the slide, and which of its spots the page lacks."""
    verdict = "; ".join([made.trust.verdict, *made.trust.reasons])
    text = f"{made.slide.id}: {verdict}."
    if kept < len(made.slide):
        text += (
            f" Of {len(made.slide)} spots, {kept} are shown: of each square of the slide the one "
            "nearest to its middle. All are in prediction.h5ad."
        )
    return text


def thinned(position: np.ndarray, room: int) -> np.ndarray:
    """Places of at most ``room`` spots, evenly over the slide, in their order.

    Squares are laid over the slide, as small as leaves no more of them with a spot than there is room;
    of each, the spot nearest to its middle is kept.
    """
    room = max(1, room)
    if len(position) <= room:
        return np.arange(len(position))
    corner, size = position.min(0), np.ptp(position, axis=0)
    side = math.sqrt(float(np.prod(size + 1.0)) / room) / 4
    while True:
        place = (position - corner) / side  # (N, 2)
        square = np.floor(place)
        number = square[:, 1] * (size[0] // side + 1) + square[:, 0]  # (N,)
        _, owner = np.unique(number, return_inverse=True)
        if owner.max() < room:
            break
        side *= 1.1
    far = np.linalg.norm(place - square - 0.5, axis=1)  # (N,)
    nearest = pd.Series(far).groupby(owner).idxmin()
    return np.sort(nearest.to_numpy())
