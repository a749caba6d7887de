"""Check and copy the counts of a section without an image, from which a gene model may learn."""

from flag_st.core.job import run


def main(job):
    from flag_st.data.prepare import prepare_counts

    prepare_counts(
        job.input.raw,
        job.wildcards.slide,
        job.output.counts,
        patient=job.params.patient,
        **job.params.prepare,
    )


if "snakemake" in globals():
    run(main, snakemake)
