"""Moran's I of every gene, prediction against truth, on one test slide a cohort (Figure 6)."""

from flag_st.core.job import run

READS = ("predictions", "spots")


def main(job):
    import matplotlib.pyplot as plt
    import pandas as pd

    from flag_st.paper import moran, style
    from flag_st.paper.inputs import sections

    style.use()
    found = list(sections(job, job.params.item["params"].get("slides", {})))
    heights = [moran.height(len(shown)) for _, _, shown in found]
    figure = plt.figure(figsize=(style.WIDTH, sum(heights)))
    parts = figure.subfigures(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
    tables = []
    for part, (key, tissue, shown) in zip(parts, found, strict=True):
        table = moran.moran_table(tissue, shown)
        moran.draw(part, table, f"{key['cohort']}, section {tissue.slide}")
        tables.append(table.assign(cohort=key["cohort"], slide=tissue.slide))
    style.save(figure, pd.concat(tables, ignore_index=True), job.output)


if "snakemake" in globals():
    run(main, snakemake)
