"""Score the predictions of one run against the test slides' truth."""

from flag_st.core.job import run


def main(job):
    from flag_st.scoring.run import write_scores

    write_scores(job)


if "snakemake" in globals():
    run(main, snakemake)
