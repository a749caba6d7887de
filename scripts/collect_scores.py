"""Put the scores of all runs of an experiment into one table."""

from flag_st.core.job import run


def main(job):
    from flag_st.paper.collect import collect_scores

    collect_scores(job.input.scores, job.output.scores, job.progress)


if "snakemake" in globals():
    run(main, snakemake)
