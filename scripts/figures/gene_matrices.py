"""Gene-gene correlations of pathways, truth and predictions (Figures 5 and 10)."""

from flag_st.core.job import run

READS = ("predictions", "spots", "pathways")


def main(job):
    import matplotlib.pyplot as plt
    import pandas as pd

    from flag_st.paper import matrices, style
    from flag_st.paper.inputs import sections

    style.use()
    settings = job.params.item["params"]
    pathways = matrices.read_pathways(job.input.pathways, settings.get("pathways"))
    found = list(sections(job, settings.get("slides", {})))
    heights = [
        matrices.height(tissue, pathways, 1 + len(shown), style.WIDTH) for _, tissue, shown in found
    ]
    figure = plt.figure(figsize=(style.WIDTH, sum(heights)))
    parts = figure.subfigures(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
    tables = []
    for part, (key, tissue, shown) in zip(parts, found, strict=True):
        title = f"{key['cohort']}, section {tissue.slide}"
        table = matrices.draw(part, tissue, shown, pathways, title)
        tables.append(table.assign(cohort=key["cohort"], slide=tissue.slide))
    style.save(figure, pd.concat(tables, ignore_index=True), job.output)


if "snakemake" in globals():
    run(main, snakemake)
