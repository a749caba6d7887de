"""Spatial domains of truth and predictions on one test slide a cohort (Figure 7)."""

from flag_st.core.job import run

READS = ("predictions", "spots")


def main(job):
    import matplotlib.pyplot as plt
    import pandas as pd

    from flag_st.paper import clusters, gallery, style
    from flag_st.paper.inputs import sections

    style.use()
    settings = job.params.item["params"]
    found = list(sections(job, settings.get("slides", {})))
    tables, rows = [], []
    for key, tissue, shown in found:
        resolution = settings.get("resolution", 0.3)
        table = clusters.domain_table(tissue, shown, resolution=resolution)
        tables.append(table.assign(cohort=key["cohort"]))
        title = f"{key['cohort']}, section {tissue.slide}"
        rows += [(tissue, part, title) for part in clusters.rows_of(table, gallery.COLUMNS)]
    panels = [1 + part[["method", "kind"]].drop_duplicates().shape[0] for _, part, _ in rows]
    heights = [
        gallery.height(t, 1, n, style.WIDTH) for (t, _, _), n in zip(rows, panels, strict=True)
    ]
    figure = plt.figure(figsize=(style.WIDTH, sum(heights)))
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        clusters.draw(part, *row)
    style.save(figure, pd.concat(tables, ignore_index=True), job.output)


if "snakemake" in globals():
    run(main, snakemake)
