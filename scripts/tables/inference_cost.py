"""Time and memory to predict one slide (Table 10)."""

from flag_st.core.job import run

READS = ("predictions", "records")


def main(job):
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.reported import read_reported
    from flag_st.paper.tables.costs import INFERENCE_FACTS, inference_costs
    from flag_st.paper.tables.facts import fact_sheet
    from flag_st.paper.tables.render import write

    experiment = Experiment.of(job.params.item)
    printed = read_reported(job.input.reported, experiment.reported)
    files = (job.params.of["predictions"], job.input.predictions, job.input.records)
    rows = inference_costs(experiment, *files)
    names = ["cohort", "label", "slide", "device"]
    write(*fact_sheet(experiment, rows, names, INFERENCE_FACTS, printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
