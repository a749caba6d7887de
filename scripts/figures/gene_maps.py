"""Picture, truth and predictions of the most spatial panel genes, on one test slide per cohort."""

from flag_st.core.job import run

READS = ("predictions", "spots")


def main(job):
    import pandas as pd

    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import gallery, style
    from flag_st.paper.predictions import sections
    from flag_st.paper.tissue import spatial_genes

    style.use()
    experiment = Experiment.of(job.params.item)
    tables, rows, heights = [], [], []
    for key, tissue, shown in sections(job, experiment):
        wanted, count = experiment.params.get("genes"), experiment.params.get("count", 3)
        genes = spatial_genes(tissue, wanted, count)
        size = f"{len(tissue.spots)} spots, unit {tissue.unit}"
        title = f"{key['cohort']}, section {tissue.slide} ({size})"
        # Panels that are too small show nothing, so many methods take several rows.
        for part in style.rows_of(shown, gallery.COLUMNS):
            rows.append((tissue, part, genes, title))
            heights.append(gallery.height(tissue, len(genes), 1 + len(part), style.WIDTH))
            tables.append(gallery.numbers(tissue, part, genes, cohort=key["cohort"]))
    figure, parts = style.stacked(heights)
    for part, row in zip(parts, rows, strict=True):
        gallery.gallery(part, *row)
    style.save(figure, pd.concat(tables, ignore_index=True), job.output)


if "snakemake" in globals():
    run(main, snakemake)
