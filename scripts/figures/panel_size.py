"""Metrics against the number of panel genes (Figures 2 and 4), or against genes per width."""

from flag_st.core.job import run

READS = ("scores", "runs")


def main(job):
    import pandas as pd

    from flag_st.paper import charts, style
    from flag_st.paper.collect import read_scores
    from flag_st.paper.comparison import columns_of, labels_of, numbers_of
    from flag_st.paper.reported import read_reported

    style.use()
    item, runs = job.params.item, pd.read_parquet(job.input.runs)
    printed = read_reported(job.input.reported, item["reported"])
    numbers = numbers_of(item, read_scores(job.input.scores), runs, printed)
    numbers["size"] = numbers["panel"].map(runs.groupby("panel")["genes"].first())
    draw = charts.OVER[item["params"].get("over", "genes")]
    figure = draw(numbers, columns_of(item), labels_of(item), item)
    style.save(figure, numbers, job.output)


if "snakemake" in globals():
    run(main, snakemake)
