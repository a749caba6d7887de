"""Repeat analyses of expression on the predictions of one run, and compare with those of the truth."""

from flag_st.core.job import run


def main(job):
    from flag_st.scoring.run import write_scores

    write_scores(job)


if "snakemake" in globals():
    run(main, snakemake)
