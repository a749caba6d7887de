"""Calibrate the intervals of a run on its validation slides, which are predicted for it."""

from flag_st.core.job import run


def main(job):
    from flag_st.core.io import read_json
    from flag_st.core.job import device
    from flag_st.data.patients import validated_and_trained
    from flag_st.data.slide import open_parts
    from flag_st.intervals.calibration import Calibration
    from flag_st.intervals.validation import predict_validation
    from flag_st.methods.base import load

    method, facts = load(job.input.model, device(job.gpu))
    split = read_json(job.input.split)
    parts = {"train": [], "valid": split["valid"]}
    _, valid = open_parts(job.input, parts, facts["genes"], facts["unit"])
    seed = int(job.wildcards.seed)
    seen = predict_validation(method, valid, job.params.samples, seed, job.progress)
    met = validated_and_trained(split, job.params.patients)
    Calibration.fit(seen, met).save(
        job.output.calibration, method=facts["method"], unit=facts["unit"]
    )


if "snakemake" in globals():
    run(main, snakemake)
