"""Gene-gene correlations in the truth and in predictions: of pathways, or of the most variable genes."""

from flag_st.core.job import run

READS = ("predictions", "spots", "pathways")


def main(job):
    import pandas as pd

    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import matrices, style
    from flag_st.paper.predictions import sections

    style.use()
    experiment = Experiment.of(job.params.item)
    variable, tables, rows = experiment.params.get("variable"), [], []
    pathways = matrices.read_pathways(job.input.pathways, experiment.params.get("pathways"))
    for key, tissue, shown in sections(job, experiment):
        groups = matrices.most_variable(tissue, variable) if variable else pathways
        rows.append((key, tissue, shown, groups))
    figure, parts = style.stacked(
        [matrices.height(tissue, groups, 1 + len(s), style.WIDTH) for _, tissue, s, groups in rows]
    )
    for part, (key, tissue, shown, groups) in zip(parts, rows, strict=True):
        title = f"{key['cohort']}, section {tissue.slide}"
        table = matrices.draw(part, tissue, shown, groups, title)
        tables.append(table.assign(cohort=key["cohort"], slide=tissue.slide))
    style.save(figure, pd.concat(tables, ignore_index=True), job.output)


if "snakemake" in globals():
    run(main, snakemake)
