"""The paper's claims, each with its rule and what this run says about it."""

from flag_st.core.job import run

READS = ("scores", "runs", "claims")


def main(job):
    import pandas as pd

    from flag_st.paper.claims import judge, read_claims
    from flag_st.paper.collect import read_scores
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.reported import read_reported
    from flag_st.paper.tables.claims import claim_sheet
    from flag_st.paper.tables.render import write

    experiment = Experiment.of(job.params.item)
    claims = read_claims(job.input.claims, experiment.params.get("claims"))
    printed = read_reported(job.input.reported, experiment.reported)
    scores, runs = read_scores(job.input.scores), pd.read_parquet(job.input.runs)
    judged = judge(claims, experiment, scores, runs, printed)
    write(claim_sheet(claims, judged, experiment), judged, job.output)


if "snakemake" in globals():
    run(main, snakemake)
