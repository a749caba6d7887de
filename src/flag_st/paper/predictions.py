"""Predictions and truth of an experiment's test slides.

Files are matched with what they are of by the keys that the rule passes; paths are never parsed.
Each function takes a job with ``input.predictions`` and ``params.of["predictions"]`` (cohort, split,
panel, method, seed and slide of each file), and ``input.spots`` and ``params.of["spots"]`` (cohort
and slide of each).
"""

from collections.abc import Iterator
from typing import Any

from flag_st.core.errors import FlagError
from flag_st.core.io import check_contract
from flag_st.data.slide import read_expression
from flag_st.paper.experiment import Experiment, MethodFacts
from flag_st.paper.tissue import Shown, Tissue, read_shown, read_spread, read_tissue
from flag_st.scoring.slides import Pair

Key = dict[str, Any]


def sections(
    job, experiment: Experiment, spread: bool = False
) -> Iterator[tuple[Key, Tissue, list[Shown]]]:
    """One test slide of every cohort, with the first run of every method on it.

    Args:
        job: see above.
        experiment: ``params.slides`` may name the test slide of a cohort (the first one otherwise),
            and ``params.spot_um`` the spot diameter, for arrays whose pitch does not tell it.
        spread: also give the standard deviation over draws.

    Yields:
        The key of the slide, the section, and its predictions: the point estimate of every method
        and, for stochastic methods, one draw and the spread.

    Raises:
        FlagError: the slide asked for is no test slide.
    """
    import anndata

    files, spots = _predictions(job), spot_files(job)
    for cohort in experiment.cohorts:
        slides = list(dict.fromkeys(k["slide"] for k, _ in files if k["cohort"] == cohort))
        slide = experiment.params.get("slides", {}).get(cohort, slides[0])
        if slide not in slides:
            raise FlagError(
                f"experiment {experiment.name}: {slide} is not a test slide of {cohort}",
                choices=slides,
            )
        here = [(k, p) for k, p in files if (k["cohort"], k["slide"]) == (cohort, slide)]
        table = anndata.read_h5ad(here[0][1], backed="r")
        genes, unit = list(table.var_names), str(table.uns["unit"])
        tissue = read_tissue(spots[cohort, slide], genes, unit, experiment.params.get("spot_um"))
        shown = [
            panel
            for key, path in _first_runs(here)
            for panel in _shown(experiment.methods[key["method"]], path, tissue, spread)
        ]
        yield here[0][0], tissue, shown


def _keys(job, word: str) -> list[Key]:
    """What the files ``job.input[word]`` are of.

    Raises:
        FlagError: the script's ``READS`` does not name them, so that the rule did not pass them.
    """
    if word not in job.params.of:
        raise FlagError(
            f"this script reads {word}, but its READS does not name them",
            remedy=f'add "{word}" to READS at the top of the script',
        )
    return job.params.of[word]


def spot_files(job) -> dict[tuple[str, str], str]:
    """(cohort, slide) → spot file of every test slide."""
    keys = ((key["cohort"], key["slide"]) for key in _keys(job, "spots"))
    return dict(zip(keys, job.input.spots, strict=True))


def tissues(job) -> Iterator[tuple[Key, Tissue]]:
    """Every test slide of every cohort once, with the truth of the first run's panel."""
    import anndata

    files = {(k["cohort"], k["slide"]): p for k, p in reversed(_predictions(job))}
    for key, path in zip(_keys(job, "spots"), job.input.spots, strict=True):
        table = anndata.read_h5ad(files[key["cohort"], key["slide"]], backed="r")
        yield key, read_tissue(path, list(table.var_names), str(table.uns["unit"]))


def pairs(job) -> Iterator[tuple[Key, Pair]]:
    """Truth, point estimate and draws of every run on every test slide, one at a time."""
    import anndata
    import numpy as np

    spots = spot_files(job)
    for key, path in job.progress(_predictions(job), desc="predictions"):
        table = anndata.read_h5ad(path)
        check_contract(table.uns.get("contract"), path, "prediction file")
        names, genes, unit = table.obs_names.to_numpy(), tuple(table.var_names), table.uns["unit"]
        truth = read_expression(spots[key["cohort"], key["slide"]], names, genes, str(unit))
        draws = np.stack([table.layers[f"draw_{k}"] for k in range(int(table.uns["draws"]))])
        position = np.asarray(table.obsm["spatial"], dtype=np.float64)
        facts = {"transform": str(unit)}
        yield key, Pair(key["slide"], genes, truth, np.asarray(table.X), draws, position, facts)


def _predictions(job) -> list[tuple[Key, str]]:
    return list(zip(_keys(job, "predictions"), job.input.predictions, strict=True))


def _first_runs(files: list[tuple[Key, str]]) -> list[tuple[Key, str]]:
    """The first run of every method: one fold and one seed."""
    chosen = {key["method"]: (key, path) for key, path in reversed(files)}
    return [chosen[name] for name in dict.fromkeys(key["method"] for key, _ in files)]


def _shown(method: MethodFacts, path: str, tissue: Tissue, spread: bool) -> list[Shown]:
    shown = [read_shown(path, tissue, method.label)]
    if method.stochastic:
        shown.append(read_shown(path, tissue, method.label, draw=0))
        shown += [read_spread(path, tissue, method.label)] if spread else []
    return shown
