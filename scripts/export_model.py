"""Put a finished run into one file that predicts new slides."""

from flag_st.core.job import run


def main(job):
    from pathlib import Path

    from flag_st.core.job import device
    from flag_st.exported.export import export

    folder = Path(job.input.run).parent
    known = {"device": device(job.gpu), "progress": job.progress, "licence": job.params.licence}
    export(folder, job.output.model, **known)


if "snakemake" in globals():
    run(main, snakemake)
