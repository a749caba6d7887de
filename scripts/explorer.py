"""Write the page on which one test slide a cohort can be explored spot by spot."""

from flag_st.core.job import run


def main(job):
    from flag_st.paper.inputs import sections
    from flag_st.report.explorer import build

    item, settings = job.params.item, job.params.item["params"]
    found = sections(job, settings.get("slides", {}), settings.get("spot_um"), spread=True)
    build(found, settings, item["title"], job.output.page)


if "snakemake" in globals():
    run(main, snakemake)
