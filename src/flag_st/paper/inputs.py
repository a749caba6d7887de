"""The files of a figure, joined to what they are of; paths are never parsed."""

from collections.abc import Iterator, Mapping
from typing import Any

from flag_st.errors import FlagError
from flag_st.paper.maps import Shown, Tissue, read_shown, read_tissue


def sections(
    job, wanted: Mapping[str, str], spot_um: float | None = None
) -> Iterator[tuple[dict[str, Any], Tissue, list[Shown]]]:
    """One test slide of every cohort, with the first run of every method on it.

    Args:
        job: with ``input.predictions`` and ``params.predictions`` (cohort … seed, slide of each),
            ``input.spots`` and ``params.spots`` (cohort, slide of each), ``params.item``.
        wanted: cohort → test slide; the first of the split where none is said.
        spot_um: spot diameter, where the array does not tell it.

    Yields:
        What the slide is of, the section, and its predictions: the point estimate of every
        method and, of stochastic ones, one draw.
    """
    import anndata

    item = job.params.item
    files = list(zip(job.params.predictions, job.input.predictions, strict=True))
    spots = {
        (key["cohort"], key["slide"]): path
        for key, path in zip(job.params.spots, job.input.spots, strict=True)
    }
    for cohort in item["cohorts"]:
        slides = list(dict.fromkeys(k["slide"] for k, _ in files if k["cohort"] == cohort))
        slide = wanted.get(cohort, slides[0])
        if slide not in slides:
            raise FlagError(
                f"experiment {item['name']}: {slide} is no test slide of {cohort}", choices=slides
            )
        here = [(k, p) for k, p in files if (k["cohort"], k["slide"]) == (cohort, slide)]
        table = anndata.read_h5ad(here[0][1], backed="r")
        genes, unit = list(table.var_names), str(table.uns["unit"])
        tissue = read_tissue(spots[cohort, slide], genes, unit, spot_um)
        yield here[0][0], tissue, [s for k, p in _first(here) for s in _shown(item, k, p, tissue)]


def _first(files):
    """The first run of every method: one fold, one seed."""
    chosen = {key["method"]: (key, path) for key, path in reversed(files)}
    return [chosen[name] for name in dict.fromkeys(key["method"] for key, _ in files)]


def _shown(item: Mapping[str, Any], key: Mapping[str, Any], path, tissue: Tissue) -> list[Shown]:
    method = item["methods"][key["method"]]
    shown = [read_shown(path, tissue, method["label"])]
    if method["stochastic"]:
        shown.append(read_shown(path, tissue, method["label"], draw=0))
    return shown
