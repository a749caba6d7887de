"""Predict one new slide with an exported model, and write the folder of its files."""

from flag_st.core.job import run


def main(job):
    from flag_st.core.job import device, log
    from flag_st.exported.model import open_model
    from flag_st.outputs.folder import make
    from flag_st.slides.predict import Predictor
    from flag_st.slides.request import Request

    predictor = Predictor(open_model(job.input.model), device(job.gpu), job.threads)
    request = Request.of(job.params.slide)
    verdict = make(predictor, request, job.output.folder, progress=job.progress)
    log.info("slide %s: %s", request.name, verdict)


if "snakemake" in globals():
    run(main, snakemake)
