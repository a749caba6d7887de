"""Spatial domains of truth and predictions on one test slide a cohort (Figure 7)."""

from flag_st.script import run


def main(job):
    import matplotlib.pyplot as plt
    import pandas as pd

    from flag_st.paper import clusters, gallery, style
    from flag_st.paper.inputs import sections

    style.use()
    settings = job.params.item["params"]
    found = list(sections(job, settings.get("slides", {})))
    heights = [gallery.height(t, 1, 1 + len(shown), style.WIDTH) for _, t, shown in found]
    figure = plt.figure(figsize=(style.WIDTH, sum(heights)))
    parts = figure.subfigures(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
    tables = []
    for part, (key, tissue, shown) in zip(parts, found, strict=True):
        resolution = settings.get("resolution", 0.3)
        table = clusters.domain_table(tissue, shown, resolution=resolution)
        clusters.draw(part, tissue, table, f"{key['cohort']}, section {tissue.slide}")
        tables.append(table.assign(cohort=key["cohort"]))
    style.save(figure, pd.concat(tables, ignore_index=True), job.output)


if "snakemake" in globals():
    run(main, snakemake)
