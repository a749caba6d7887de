"""How much single draws of one trained model differ in their scores (Table 9)."""

from flag_st.core.job import run

READS = ("runs", "predictions", "spots")


def main(job):
    import pandas as pd

    from flag_st.core import registry
    from flag_st.paper.comparison import compare
    from flag_st.paper.inputs import pairs
    from flag_st.paper.render import write
    from flag_st.paper.reported import read_reported
    from flag_st.paper.rescore import of_draws

    item = job.params.item
    metrics = {n: registry.build(item["metrics"][n]) for n in ("pcc", "mse", "gsc", "ssc")}
    scores = of_draws(pairs(job), metrics)
    printed = read_reported(job.input.reported, item["reported"])
    write(*compare(item, scores, pd.read_parquet(job.input.runs), printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
