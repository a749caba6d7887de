"""Put the scores and the provenance of all runs of an experiment into one table each."""

from flag_st.script import run


def main(job):
    from flag_st.paper.collect import collect_runs, collect_scores

    collect_scores(job.input.scores, job.output.scores, job.progress)
    collect_runs(job.params.runs, job.input.runs, job.output.runs)


if "snakemake" in globals():
    run(main, snakemake)
