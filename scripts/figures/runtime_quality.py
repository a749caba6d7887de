"""Quality of predictions against the seconds that a slide takes."""

from flag_st.core.job import run

READS = ("scores", "predictions", "records")


def main(job):

    from flag_st.paper import charts, style
    from flag_st.paper.collect import read_scores
    from flag_st.paper.comparison import columns_of, labels_of, summarise
    from flag_st.paper.facts import inference_costs

    style.use()
    item, (column, *_) = job.params.item, columns_of(job.params.item)
    files = (job.params.of["predictions"], job.input.predictions, job.input.records)
    costs = inference_costs(item, *files).rename(columns={"inference_time_s": "seconds"})
    numbers = summarise(read_scores(job.input.scores), [column])
    table = numbers.merge(costs[["cohort", "method", "seconds", "n_spots", "draws"]])
    label = labels_of(item)[column.metric][0]
    style.save(charts.against_time(table, label, item), table, job.output)


if "snakemake" in globals():
    run(main, snakemake)
