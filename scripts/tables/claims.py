"""The paper's claims, each with its rule and what this run says of it."""

from flag_st.core.job import run

READS = ("scores", "runs", "claims")


def main(job):
    import pandas as pd

    from flag_st.paper.claims import claim_sheet, judge, read_claims
    from flag_st.paper.collect import read_scores
    from flag_st.paper.render import write
    from flag_st.paper.reported import read_reported

    item = job.params.item
    claims = read_claims(job.input.claims, item["params"].get("claims"))
    printed = read_reported(job.input.reported, item["reported"])
    scores, runs = read_scores(job.input.scores), pd.read_parquet(job.input.runs)
    judged = judge(claims, item, scores, runs, printed)
    write(claim_sheet(claims, judged, item), judged, job.output)


if "snakemake" in globals():
    run(main, snakemake)
