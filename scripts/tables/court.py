"""Claims that the field has printed, each with what would test it and the verdict of the runs that are there."""

from flag_st.core.job import run

READS = ("court", "claims", "tried_scores", "tried_runs")


def main(job):
    import pandas as pd

    from flag_st.paper.claims import read_claims
    from flag_st.paper.collect import read_scores
    from flag_st.paper.court import Court, Tried
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.reported import read_reported
    from flag_st.paper.tables.court import court_sheet
    from flag_st.paper.tables.render import write
    from flag_st.planning.court import read_court

    file = read_court(job.input.court)
    court = Court(file["claims"], read_claims(job.input.claims), read_reported(job.input.reported))
    known = [Experiment.of(item) for item in job.params.of["tried"]]
    files = zip(known, job.input.tried_scores, job.input.tried_runs, strict=True)
    tried = {e.name: Tried(e, read_scores(s), pd.read_parquet(r)) for e, s, r in files}
    judged = court.judge(tried)
    sheet = court_sheet(court, file["sources"], judged, list(tried), Experiment.of(job.params.item))
    write(sheet, judged, job.output)


if "snakemake" in globals():
    run(main, snakemake)
