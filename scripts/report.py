"""Write the page that holds every table, every figure, the configuration and all provenance."""

from flag_st.core.job import run


def main(job):
    import pandas as pd

    from flag_st.paper.experiment import Experiment
    from flag_st.paper.reported import read_reported
    from flag_st.report.build import Made, build

    experiments = [Experiment.of(item) for item in job.params.experiments]
    runs = [pd.read_parquet(path) for path in job.input.runs]
    build(
        {e.name: Made(e, table) for e, table in zip(experiments, runs, strict=True)},
        tables=dict(zip(job.params.tables, job.input.tables, strict=True)),
        figures=dict(zip(job.params.figures, job.input.figures, strict=True)),
        printed=read_reported(job.input.reported),
        config=job.params.config,
        out=job.output.page,
        explorers=dict(zip(job.params.explorers, job.input.explorers, strict=True)),
        new_slides=job.input.new_slides,
        new_explorer=job.input.explorer,
        not_made=[Experiment.of(item) for item in job.params.absent],
    )


if "snakemake" in globals():
    run(main, snakemake)
