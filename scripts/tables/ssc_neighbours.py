"""SSC with other numbers of neighbours, on the same predictions (Table 12)."""

from flag_st.core.job import run

READS = ("runs", "predictions", "spots")


def main(job):
    import pandas as pd

    from flag_st.paper.comparison import compare
    from flag_st.paper.inputs import pairs
    from flag_st.paper.render import write
    from flag_st.paper.reported import read_reported
    from flag_st.paper.rescore import ssc_of

    item = job.params.item
    known = [column["metric"] for column in item["params"]["columns"]]
    neighbours = sorted({int(name.removeprefix("ssc_k")) for name in known})
    labels = {f"ssc_k{k}": (f"SSC, k = {k}", 1) for k in neighbours}
    scores = ssc_of(pairs(job), neighbours)
    printed = read_reported(job.input.reported, item["reported"])
    runs = pd.read_parquet(job.input.runs)
    write(*compare(item, scores, runs, printed, labels), job.output)


if "snakemake" in globals():
    run(main, snakemake)
