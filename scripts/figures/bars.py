"""Methods as bars, a panel a metric, with the printed numbers (Figure 1 and its like)."""

from flag_st.core.job import run

READS = ("scores", "runs")


def main(job):
    import pandas as pd

    from flag_st.paper import charts, style
    from flag_st.paper.collect import read_scores
    from flag_st.paper.comparison import columns_of, labels_of, numbers_of
    from flag_st.paper.reported import read_reported

    style.use()
    item = job.params.item
    printed = read_reported(job.input.reported, item["reported"])
    runs = pd.read_parquet(job.input.runs)
    numbers = numbers_of(item, read_scores(job.input.scores), runs, printed)
    style.save(charts.bars(numbers, columns_of(item), labels_of(item), item), numbers, job.output)


if "snakemake" in globals():
    run(main, snakemake)
