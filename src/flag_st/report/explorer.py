"""The slide explorer: picture, truth, prediction, difference and spread, spot by spot.

Slides without counts have verdicts in the place of the truth (``flag_st.outputs.explorer``). Values are stored as 16-bit steps of each gene's range, so that a page of several slides stays small.
"""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flag_st.core.io import writing
from flag_st.paper.experiment import Experiment
from flag_st.paper.figures.maps import colour_range
from flag_st.paper.tables.render import STYLE
from flag_st.paper.tissue import Shown, Tissue, spatial_genes
from flag_st.report.build import environment, read_asset

#: Bytes that the values of all slides together may take; genes are left out to stay within it.
BUDGET = 8_000_000
STEPS = 65535
KINDS = {"prediction": "point", "point estimate": "point", "one draw": "draw", "spread": "spread"}

#: Panels of a page, and what its colours mean, for slides with a truth and for slides without.
WITH_TRUTH = {
    "image": "H&E",
    "truth": "Truth",
    "prediction": "Prediction",
    "difference": "Prediction − truth",
    "spread": "Spread over draws",
}
WITHOUT_TRUTH = {
    "image": "H&E",
    "prediction": "Prediction",
    "spread": "Spread over draws",
    "verdict": "Verdict",
}
COLOURS_WITH_TRUTH = "Truth and prediction share one colour scale, from the 1st to the 99th percentile of the gene's truth."
COLOURS_WITHOUT_TRUTH = "Colours of the prediction go from its 1st to its 99th percentile."
#: What a page may load from the folder that it lies in, besides its own text.
BESIDE = " 'self' file:"

Section = tuple[Mapping[str, Any], Tissue, Sequence[Shown]]


def build(found: Iterable[Section], experiment: Experiment, out: str | Path) -> None:
    """Write the page.

    Args:
        found: slides with all predictions to show, including the spread (``predictions.sections``).
        experiment: its ``params.genes`` come first, and there are at most ``params.explorer_genes``
            genes (60).
        out: path of the page.
    """
    sections = list(found)
    slides = [_slide(section, experiment.params, len(sections)) for section in sections]
    write_page(out, experiment.title, slides, truth=True)


def write_page(
    out: str | Path, title: str, slides: Sequence[Mapping[str, Any]], truth: bool
) -> None:
    """Write the page.

    Args:
        out: its path.
        title: what it shows.
        slides: each with its ``label``, and either all its data or, as ``source``, the path of the
            script beside the page that hands them to ``receive``.
        truth: whether the slides have counts.
    """
    # A closing tag inside the data would end the script element that holds the data.
    data = json.dumps({"slides": slides}, separators=(",", ":")).replace("<", "\\u003c")
    page = environment().get_template("explorer.html.jinja")
    text = page.render(
        title=title,
        panels=WITH_TRUTH if truth else WITHOUT_TRUTH,
        colours=COLOURS_WITH_TRUTH if truth else COLOURS_WITHOUT_TRUTH,
        beside=BESIDE if any("source" in slide for slide in slides) else "",
        styles=[STYLE.read_text(encoding="utf-8"), read_asset("explorer.css")],
        script=read_asset("explorer.js"),
        data=data,
    )
    with writing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _slide(section: Section, params: Mapping[str, Any], slides: int) -> dict[str, Any]:
    key, tissue, shown = section
    room = BUDGET // (2 * len(tissue.spots) * (1 + len(shown)) * slides)
    count = max(1, min(params.get("explorer_genes", 60), room, len(tissue.genes)))
    genes = gene_choice(tissue, params.get("genes"), count)
    columns = [tissue.genes.index(gene) for gene in genes]
    low, high, top = _ranges(tissue, shown, columns)
    methods: dict[str, dict[str, str]] = {}
    for panel in shown:
        limits = (np.zeros_like(top), top) if panel.kind == "spread" else (low, high)
        values = pack(panel.values[:, columns], *limits)
        methods.setdefault(panel.method, {})[KINDS[panel.kind]] = values
    return {
        "label": f"{key['cohort']}: {tissue.slide}",
        "unit": tissue.unit,
        "diameter": tissue.diameter,
        "extent": tissue.extent,
        "image": picture(tissue.image),
        "spots": tissue.spots.tolist(),
        "position": np.round(tissue.position, 1).tolist(),
        "genes": genes,
        "low": low.tolist(),
        "high": high.tolist(),
        "top": top.tolist(),
        # The ends of the colour scale: one extreme draw must not wash out all other spots.
        "ends": [list(colour_range(tissue.truth[:, column])) for column in columns],
        "truth": pack(tissue.truth[:, columns], low, high),
        "methods": [{"name": name, **values} for name, values in methods.items()],
    }


def _ranges(
    tissue: Tissue, shown: Sequence[Shown], columns: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) lowest and highest level of each gene, and (K,) the highest spread."""
    levels = [tissue.truth, *(s.values for s in shown if s.kind != "spread")]
    low = np.min([v[:, columns].min(0) for v in levels], axis=0)  # (K,)
    high = np.max([v[:, columns].max(0) for v in levels], axis=0)  # (K,)
    spreads = [s.values[:, columns].max(0) for s in shown if s.kind == "spread"]
    top = np.max(spreads, axis=0) if spreads else np.zeros(len(columns))  # (K,)
    return low, high, top


def gene_choice(tissue: Tissue, wanted: Sequence[str] | None, count: int) -> list[str]:
    """First the wanted genes that the panel holds, then those of highest Moran's I, each once."""
    first = [gene for gene in wanted or () if gene in tissue.genes]
    ranked = spatial_genes(tissue, None, len(tissue.genes))
    return list(dict.fromkeys([*first, *ranked]))[:count]


def pack(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """(N, K) values as little-endian uint16 steps between ``low`` and ``high``, gene by gene."""
    span = np.where(high > low, high - low, 1.0)
    steps = np.rint((values - low) / span * STEPS)  # (N, K)
    content = np.clip(steps, 0, STEPS).T.astype("<u2").tobytes()
    return base64.b64encode(content).decode("ascii")


def picture(image: np.ndarray) -> str:
    """A thumbnail as a JPEG data address."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
