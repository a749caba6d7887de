"""Structure against accuracy, with nulls and with the ceilings that the truth itself attains."""

from flag_st.core.job import run

READS = ("scores", "runs", "predictions", "spots")


def main(job):
    import pandas as pd

    from flag_st.paper import charts, style
    from flag_st.paper.collect import read_scores
    from flag_st.paper.comparison import columns_of, labels_of, numbers_of
    from flag_st.paper.inputs import spot_files, tissues
    from flag_st.paper.reported import read_reported
    from flag_st.paper.rescore import ceilings_of

    style.use()
    item, runs = job.params.item, pd.read_parquet(job.input.runs)
    printed = read_reported(job.input.reported, item["reported"])
    numbers = numbers_of(item, read_scores(job.input.scores), runs, printed)
    ceilings = ceilings_of(tissues(job), spot_files(job))
    figure = charts.structure_against_accuracy(
        numbers, columns_of(item), labels_of(item), item, ceilings
    )
    known = zip(numbers["cohort"], numbers["metric"], strict=True)
    style.save(figure, numbers.assign(ceiling=[ceilings.get(key) for key in known]), job.output)


if "snakemake" in globals():
    run(main, snakemake)
