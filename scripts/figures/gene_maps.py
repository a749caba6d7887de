"""One test slide a cohort: picture, truth and predictions of the most spatial panel genes."""

from flag_st.core.job import run

READS = ("predictions", "spots")


def main(job):
    import matplotlib.pyplot as plt
    import pandas as pd

    from flag_st.paper import gallery, style
    from flag_st.paper.inputs import sections
    from flag_st.paper.maps import spatial_genes

    style.use()
    settings = job.params.item["params"]
    parts = []
    for key, tissue, shown in sections(job, settings.get("slides", {}), settings.get("spot_um")):
        genes = spatial_genes(tissue, settings.get("genes"), settings.get("count", 3))
        # Panels that are too small tell nothing: many methods take several rows.
        parts += [(key, tissue, row, genes) for row in style.rows_of(shown, gallery.COLUMNS)]
    heights = [gallery.height(t, len(genes), 1 + len(s), style.WIDTH) for _, t, s, genes in parts]
    figure = plt.figure(figsize=(style.WIDTH, sum(heights)))
    figures = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (key, tissue, shown, genes) in zip(figures, parts, strict=True):
        unit = f"unit {tissue.unit}"
        title = f"{key['cohort']}, section {tissue.slide} ({len(tissue.spots)} spots, {unit})"
        gallery.gallery(part, tissue, shown, genes, title)
    tables = [gallery.numbers(t, s, genes, cohort=key["cohort"]) for key, t, s, genes in parts]
    style.save(figure, pd.concat(tables, ignore_index=True), job.output)


if "snakemake" in globals():
    run(main, snakemake)
