"""Methods against metrics with the printed numbers beside them: Table 1 and tables of its shape."""

from flag_st.core.job import run

READS = ("scores", "runs")


def main(job):
    import pandas as pd

    from flag_st.paper.collect import read_scores
    from flag_st.paper.comparison import compare
    from flag_st.paper.render import write
    from flag_st.paper.reported import read_reported

    item = job.params.item
    printed = read_reported(job.input.reported, item["reported"])
    scores, runs = read_scores(job.input.scores), pd.read_parquet(job.input.runs)
    write(*compare(item, scores, runs, printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
