"""Write what is made of all new slides together: the page on which each of them can be explored."""

from flag_st.core.job import run


def main(job):
    from flag_st.outputs.together import write_explorer

    write_explorer(job.input.folders, job.output.explorer)


if "snakemake" in globals():
    run(main, snakemake)
