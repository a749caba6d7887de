"""Gene-gene correlations of pathways, in the truth and in predictions (Figures 5 and 10)."""

from flag_st.core.job import run

READS = ("predictions", "spots", "pathways")


def main(job):
    import pandas as pd

    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import matrices, style
    from flag_st.paper.predictions import sections

    style.use()
    experiment = Experiment.of(job.params.item)
    pathways = matrices.read_pathways(job.input.pathways, experiment.params.get("pathways"))
    found, tables = list(sections(job, experiment)), []
    figure, parts = style.stacked(
        [matrices.height(tissue, pathways, 1 + len(s), style.WIDTH) for _, tissue, s in found]
    )
    for part, (key, tissue, shown) in zip(parts, found, strict=True):
        title = f"{key['cohort']}, section {tissue.slide}"
        table = matrices.draw(part, tissue, shown, pathways, title)
        tables.append(table.assign(cohort=key["cohort"], slide=tissue.slide))
    style.save(figure, pd.concat(tables, ignore_index=True), job.output)


if "snakemake" in globals():
    run(main, snakemake)
