"""Predict one test slide from its features and positions; no expression is an input."""

from flag_st.core.job import run


def main(job):
    from flag_st.core.errors import FlagError
    from flag_st.core.job import device
    from flag_st.core.seeds import Draws
    from flag_st.data.slide import check_slide_id, read_slide, write_prediction
    from flag_st.methods.base import load

    method, facts = load(job.input.model, device(job.gpu))
    truth = job.input.truth if "truth" in method.needs else None
    patches = job.input.get("patches")
    slide = read_slide(
        job.input.features[0],
        spots=truth,
        genes=facts["genes"],
        transform=facts["unit"],
        patches=patches[0] if patches else None,
    )
    check_slide_id(slide, job.wildcards.slide, job.input.features[0])
    if slide.features.shape[1] != facts["width"]:
        raise FlagError(
            f"{job.input.features[0]} has {slide.features.shape[1]} features, {job.input.model} was "
            f"trained on {facts['width']}",
            remedy="delete both and run the same command again",
        )
    samples = job.params.samples if method.stochastic else 1
    prediction = method.predict(slide, samples, Draws(int(job.wildcards.seed), slide.id))
    write_prediction(job.output.prediction, slide, prediction, facts)
    job.record.write(job.output.run)


if "snakemake" in globals():
    run(main, snakemake)
