"""Calibrate the intervals of a run on its validation slides, which are predicted for it."""

from flag_st.core.job import run


def main(job):
    from flag_st.core.job import device
    from flag_st.data.slide import Cohort, read_slide
    from flag_st.intervals.conformal import Conformal
    from flag_st.intervals.validation import predict_validation
    from flag_st.methods.base import load

    method, facts = load(job.input.model, device(job.gpu))
    patches = job.input.get("patches") or [None] * len(job.input.features)
    files = zip(job.input.features, job.input.spots, patches, strict=True)
    slides = [read_slide(f, s, facts["genes"], facts["unit"], patches=p) for f, s, p in files]
    valid = Cohort(slides, facts["genes"])
    seed = int(job.wildcards.seed)
    seen = predict_validation(method, valid, job.params.samples, seed, job.progress)
    Conformal.fit(seen).save(job.output.calibration, method=facts["method"], unit=facts["unit"])


if "snakemake" in globals():
    run(main, snakemake)
