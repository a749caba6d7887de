"""Fit an image encoder on the training slides' patches, for encoders that are not pre-trained."""

from flag_st.core.job import run


def main(job):
    from contextlib import ExitStack

    import h5py

    from flag_st.core import registry
    from flag_st.core.job import device, log

    encoder = registry.build(job.params.encoder["use"], job.params.encoder["params"])
    encoder.open(device(job.gpu))
    with ExitStack() as stack:
        slides = [stack.enter_context(h5py.File(path))["img"] for path in job.input.patches]
        encoder.fit(slides, seed=0, progress=job.progress, log=lambda row: log.info("%s", row))
    encoder.save(job.output.model)


if "snakemake" in globals():
    run(main, snakemake)
