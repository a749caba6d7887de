"""Put the provenance and the costs of all runs of an experiment into one table."""

from flag_st.core.job import run


def main(job):
    from flag_st.paper.collect import collect_runs

    collect_runs(job.params.runs, job.input.runs, job.output.runs)


if "snakemake" in globals():
    run(main, snakemake)
