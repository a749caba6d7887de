"""The files of a figure, joined to what they are of; paths are never parsed."""

from collections.abc import Iterator, Mapping
from typing import Any

from flag_st.core.errors import FlagError
from flag_st.core.io import check_contract
from flag_st.data.slide import read_expression
from flag_st.paper.maps import Shown, Tissue, read_shown, read_spread, read_tissue
from flag_st.scoring.slides import Pair


def sections(
    job, wanted: Mapping[str, str], spot_um: float | None = None, spread: bool = False
) -> Iterator[tuple[dict[str, Any], Tissue, list[Shown]]]:
    """One test slide of every cohort, with the first run of every method on it.

    Args:
        job: with ``input.predictions`` and ``params.predictions`` (cohort … seed, slide of each),
            ``input.spots`` and ``params.spots`` (cohort, slide of each), ``params.item``.
        wanted: cohort → test slide; the first of the split where none is said.
        spot_um: spot diameter, where the array does not tell it.
        spread: also give the standard deviation over draws.

    Yields:
        What the slide is of, the section, and its predictions: the point estimate of every
        method and, of stochastic ones, one draw and their spread.
    """
    import anndata

    item = job.params.item
    files = _predictions(job)
    spots = spot_files(job)
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
        shown = [_shown(item["methods"][k["method"]], p, tissue, spread) for k, p in _first(here)]
        yield here[0][0], tissue, [panel for panels in shown for panel in panels]


def spot_files(job) -> dict[tuple[str, str], str]:
    """(cohort, slide) → spot file of every test slide."""
    keys = ((key["cohort"], key["slide"]) for key in job.params.of["spots"])
    return dict(zip(keys, job.input.spots, strict=True))


def tissues(job) -> Iterator[tuple[dict[str, Any], Tissue]]:
    """Every test slide of every cohort once, with the truth of the first run's panel."""
    import anndata

    files = {(k["cohort"], k["slide"]): p for k, p in reversed(_predictions(job))}
    for key, path in zip(job.params.of["spots"], job.input.spots, strict=True):
        table = anndata.read_h5ad(files[key["cohort"], key["slide"]], backed="r")
        yield key, read_tissue(path, list(table.var_names), str(table.uns["unit"]))


def _predictions(job) -> list[tuple[dict[str, Any], str]]:
    return list(zip(job.params.of["predictions"], job.input.predictions, strict=True))


def pairs(job) -> Iterator[tuple[dict[str, Any], Pair]]:
    """Truth, point estimate and draws of every run on every test slide, one at a time.

    Args:
        job: as for ``sections``.
    """
    import anndata
    import numpy as np

    spots = spot_files(job)
    for key, path in job.progress(_predictions(job), desc=job.params.item["name"]):
        table = anndata.read_h5ad(path)
        check_contract(table.uns.get("contract"), path, "prediction file")
        names, genes, unit = table.obs_names.to_numpy(), tuple(table.var_names), table.uns["unit"]
        truth = read_expression(spots[key["cohort"], key["slide"]], names, genes, str(unit))
        draws = np.stack([table.layers[f"draw_{k}"] for k in range(int(table.uns["draws"]))])
        position = np.asarray(table.obsm["spatial"], dtype=np.float64)
        facts = {"transform": str(unit)}
        yield key, Pair(key["slide"], genes, truth, np.asarray(table.X), draws, position, facts)


def _first(files):
    """The first run of every method: one fold, one seed."""
    chosen = {key["method"]: (key, path) for key, path in reversed(files)}
    return [chosen[name] for name in dict.fromkeys(key["method"] for key, _ in files)]


def _shown(method: Mapping[str, Any], path: str, tissue: Tissue, spread: bool) -> list[Shown]:
    shown = [read_shown(path, tissue, method["label"])]
    if method["stochastic"]:
        shown.append(read_shown(path, tissue, method["label"], draw=0))
        shown += [read_spread(path, tissue, method["label"])] if spread else []
    return shown
