"""Paint the image of a synthetic section that has no counts, for the demo to predict."""

from flag_st.core.job import run


def main(job):
    from pathlib import Path

    from flag_st.core import registry

    source = registry.build(job.params.source["use"], job.params.source["params"])
    source.paint(job.wildcards.slide, Path(job.output.image))


if "snakemake" in globals():
    run(main, snakemake)
