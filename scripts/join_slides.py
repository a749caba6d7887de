"""Write what is made of all new slides together: the explorer and the table of the cohort."""

from flag_st.core.job import run


def main(job):
    from flag_st.outputs.together import write

    write(job.input.folders, job.output.explorer, job.output.cohort)


if "snakemake" in globals():
    run(main, snakemake)
