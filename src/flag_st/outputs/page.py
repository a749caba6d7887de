"""``summary.html``: the slide, maps of a few genes with their spread, the verdicts, and the units."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.io import writing
from flag_st.intervals.certificate import VERDICTS
from flag_st.outputs import table
from flag_st.paper.figures import style
from flag_st.paper.figures.maps import colour_range, draw_image, draw_spots
from flag_st.paper.tables.render import STYLE
from flag_st.paper.tissue import Tissue
from flag_st.report.build import environment, png_address, read_asset
from flag_st.report.explorer import picture
from flag_st.slides.predicted import Predicted
from flag_st.slides.trust import FLAGGED, LIKE, REFUSED, UNLIKE

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

#: Genes that are drawn, of those that are shown.
DRAWN = 6
#: How verdicts on spots are coloured.
COLOURS = {LIKE: style.COLOURS[0], UNLIKE: style.COLOURS[1]}


def write(
    made: Predicted, path: str | Path, files: Mapping[str, str], maps: bytes | None = None
) -> None:
    """Write the page, which needs nothing outside itself.

    Args:
        files: name of each file beside the page → what it is for.
        maps: what ``write_maps`` wrote; without it, the maps are drawn here.
    """
    style.use()
    rows = table.table_of(made)
    genes = rows[rows["kind"] == table.GENE]
    text = (
        environment()
        .get_template("slide.html.jinja")
        .render(
            made=made,
            trust=made.trust,
            limits={"flagged": FLAGGED, "refused": REFUSED},
            picture=picture(made.thumbnail),
            verdicts=png_address(_png(verdict_map(made)), "the verdicts of the page"),
            maps=png_address(maps or _png(gene_maps(made)), "the maps of the page"),
            drawn=list(made.shown)[:DRAWN],
            genes=_rows(genes.sort_values("validation_pcc", ascending=False)),
            shown={v: int((made.trust.certificate.verdicts == v).sum()) for v in VERDICTS},
            sets=_rows(rows[rows["kind"] == table.SET]),
            regions=_rows(regions_of(made)),
            files=files,
            styles=[STYLE.read_text(encoding="utf-8"), read_asset("page.css")],
            script=read_asset("page.js"),
        )
    )
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def regions_of(made: Predicted) -> "pandas.DataFrame":
    """The regions, with the shares of genes, over their spots, that can be trusted in them."""
    import pandas as pd

    shares = pd.DataFrame(made.genes_by_verdict, columns=["trust", "coarser"])
    shares = shares.reindex(range(len(made.slide)))
    means = shares.groupby(made.trust.spots["region"].to_numpy()).mean()
    return made.trust.regions.join(means).reset_index()


def write_maps(made: Predicted, path: str | Path) -> None:
    """Write ``gene_maps`` as a PNG."""
    style.use()
    with writing(path) as temporary:
        temporary.write_bytes(_png(gene_maps(made)))


def _rows(frame: Any) -> list[dict[str, Any]]:
    return frame.to_dict("records")


def tissue_of(made: Predicted) -> Tissue:
    """The slide as the drawing functions take it; there is no truth in it."""
    width, height = (side * made.pixel_um for side in made.size)
    return Tissue(
        slide=made.slide.id,
        image=made.thumbnail,
        extent=(0.0, width, height, 0.0),
        spots=made.slide.spots,
        position=made.slide.position,
        diameter=made.spot_um,
        genes=(),
        truth=np.empty((len(made.slide), 0)),
        unit=made.facts["unit"],
    )


def verdict_map(made: Predicted) -> "Figure":
    """The slide with the spots that are unlike the training slides."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(style.WIDTH, 3.2))
    left, right = figure.subplots(1, 2)
    tissue = tissue_of(made)
    draw_image(left, tissue)
    unlike = (made.trust.spots["verdict"] != LIKE).to_numpy(dtype=float)  # (N,)
    draw_spots(right, tissue, unlike, (0.0, 1.0), ListedColormap(list(COLOURS.values())))
    handles = [Patch(color=colour) for colour in COLOURS.values()]
    style.legend(figure, handles, [f"{name} slides" for name in COLOURS])
    return figure


def gene_maps(made: Predicted) -> "Figure":
    """The drawn genes with their verdicts, two panels a row: beside each its spread over draws, if any."""
    from matplotlib.figure import Figure

    panels: list[tuple[str, str, np.ndarray]] = []
    point, spread = made.point, made.spread
    for gene, column in list(zip(made.shown, made.columns(), strict=True))[:DRAWN]:
        title = f"{gene}: {made.trust.certificate.verdicts[column]}"
        panels.append((title, made.unit, point[:, column]))
        if spread is not None:
            panels.append((gene, f"spread, {made.unit}", spread[:, column]))
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(style.WIDTH, 2.6 * rows))
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    tissue = tissue_of(made)
    for place, (title, name, values) in zip(axes, panels, strict=False):
        drawn = draw_spots(place, tissue, values, colour_range(values), style.SEQUENTIAL)
        place.set_title(title)
        figure.colorbar(drawn, ax=place, shrink=0.8, label=name)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    return figure


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
