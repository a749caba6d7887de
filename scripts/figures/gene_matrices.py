"""Gene-gene correlations of pathways, truth and predictions (Figures 5 and 10)."""

from flag_st.script import run


def main(job):
    import matplotlib.pyplot as plt
    import pandas as pd

    from flag_st.paper import matrices, style
    from flag_st.paper.inputs import sections

    style.use()
    settings = job.params.item["params"]
    pathways = matrices.read_pathways(job.input.pathways, settings.get("pathways"))
    found = list(sections(job, settings.get("slides", {})))
    columns = 1 + max(len(shown) for _, _, shown in found)
    height = len(pathways) * (style.WIDTH / columns + 0.15) + 0.5
    figure = plt.figure(figsize=(style.WIDTH, height * len(found)))
    parts = figure.subfigures(len(found), 1, squeeze=False)[:, 0]
    tables = []
    for part, (key, tissue, shown) in zip(parts, found, strict=True):
        title = f"{key['cohort']}, section {tissue.slide}"
        table = matrices.draw(part, tissue, shown, pathways, title)
        tables.append(table.assign(cohort=key["cohort"], slide=tissue.slide))
    style.save(figure, pd.concat(tables, ignore_index=True), job.output)


if "snakemake" in globals():
    run(main, snakemake)
