"""Moran's I of every gene, prediction against truth, on one test slide per cohort (Figure 6)."""

from flag_st.core.job import run

READS = ("predictions", "spots")


def main(job):
    import pandas as pd

    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import moran, style
    from flag_st.paper.predictions import sections

    style.use()
    found, tables = list(sections(job, Experiment.of(job.params.item))), []
    figure, parts = style.stacked([moran.height(len(shown)) for _, _, shown in found])
    for part, (key, tissue, shown) in zip(parts, found, strict=True):
        table = moran.moran_table(tissue, shown)
        moran.draw(part, table, f"{key['cohort']}, section {tissue.slide}")
        tables.append(table.assign(cohort=key["cohort"], slide=tissue.slide))
    style.save(figure, pd.concat(tables, ignore_index=True), job.output)


if "snakemake" in globals():
    run(main, snakemake)
