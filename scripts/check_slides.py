"""Check every new slide, and report all faults at once before any slide is predicted."""

from flag_st.core.job import run


def main(job):
    from flag_st.core.io import CONTRACT, write_json
    from flag_st.exported.model import open_model
    from flag_st.slides.request import Request, check

    requests = [Request.of(params) for params in job.params.slides]
    check(requests, open_model(job.input.model))
    write_json(
        job.output.checked, {"contract": CONTRACT, "slides": sorted(r.name for r in requests)}
    )


if "snakemake" in globals():
    run(main, snakemake)
