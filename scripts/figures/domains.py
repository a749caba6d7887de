"""Spatial domains of truth and predictions on one test slide per cohort (Figure 7)."""

from flag_st.core.job import run

READS = ("predictions", "spots")


def main(job):
    import pandas as pd

    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import clusters, gallery, style
    from flag_st.paper.predictions import sections

    style.use()
    experiment = Experiment.of(job.params.item)
    resolution = experiment.params.get("resolution", 0.3)
    tables, rows, heights = [], [], []
    for key, tissue, shown in sections(job, experiment):
        table = clusters.domain_table(tissue, shown, resolution=resolution)
        tables.append(table.assign(cohort=key["cohort"]))
        for part in clusters.rows_of(table, gallery.COLUMNS):
            rows.append((tissue, part, f"{key['cohort']}, section {tissue.slide}"))
            panels = 1 + len(part[["method", "kind"]].drop_duplicates())
            heights.append(gallery.height(tissue, 1, panels, style.WIDTH))
    figure, parts = style.stacked(heights)
    for part, row in zip(parts, rows, strict=True):
        clusters.draw(part, *row)
    style.save(figure, pd.concat(tables, ignore_index=True), job.output)


if "snakemake" in globals():
    run(main, snakemake)
