"""Score the predictions of one run against the test slides' truth."""

from flag_st.core.job import run


def main(job):
    import pandas as pd

    from flag_st.core import registry
    from flag_st.core.io import writing
    from flag_st.scoring.run import score_run

    panel = pd.read_parquet(job.input.panel)
    metrics = {n: registry.build(m["use"], m["params"]) for n, m in job.params.metrics.items()}
    transform = job.params.panel.get("transform", "log1p")
    scores = score_run(job.input.predictions, job.input.truth, panel, transform, metrics)
    for name in ("seed", "method", "panel", "split", "cohort"):
        scores.insert(0, name, job.wildcards[name])
    scores["seed"] = scores["seed"].astype(int)
    with writing(job.output.scores) as temporary:
        scores.to_parquet(temporary, index=False)


if "snakemake" in globals():
    run(main, snakemake)
