"""Quality of predictions against the seconds that a slide takes."""

from flag_st.core.job import run

READS = ("scores", "predictions", "records")


def main(job):
    from flag_st.paper.collect import read_scores
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import charts, style
    from flag_st.paper.summary import summarise
    from flag_st.paper.tables.costs import inference_costs

    style.use()
    experiment = Experiment.of(job.params.item)
    column = experiment.columns[0]
    files = (job.params.of["predictions"], job.input.predictions, job.input.records)
    costs = inference_costs(experiment, *files).rename(columns={"inference_time_s": "seconds"})
    numbers = summarise(read_scores(job.input.scores), [column])
    table = numbers.merge(costs[["cohort", "method", "seconds", "n_spots", "draws"]])
    label = experiment.labels[column.metric][0]
    style.save(charts.against_time(table, label, experiment), table, job.output)


if "snakemake" in globals():
    run(main, snakemake)
