"""Put a finished run into one file that predicts new slides."""

from flag_st.core.job import run


def main(job):
    from pathlib import Path

    from flag_st.core.job import device
    from flag_st.exported.export import export

    folder = Path(job.input.run).parent
    export(folder, job.output.model, device=device(job.gpu), progress=job.progress)


if "snakemake" in globals():
    run(main, snakemake)
