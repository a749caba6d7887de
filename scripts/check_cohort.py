"""Check every slide of a cohort, and report all faults at once before any slide is prepared."""

from flag_st.core.job import run


def main(job):
    import logging
    from pathlib import Path

    from flag_st.core.io import CONTRACT, read_json, write_json
    from flag_st.data.check_cohort import check_cohort, cohort_warnings
    from flag_st.data.slide_files import SlideFiles

    manifests = [read_json(path) for path in job.input.manifests]
    files = {
        m["slide"]: SlideFiles(**{k: Path(f["path"]) for k, f in m["files"].items()})
        for m in manifests
    }
    for warning in cohort_warnings(files, job.params.prepare):
        logging.getLogger("flag_st").warning("%s", warning)
    further = {Path(path).stem: Path(path) for path in job.input.counts}
    faults = check_cohort(files, job.params.panels, job.params.prepare, further, job.params.fields)
    for note in faults.notes:
        logging.getLogger("flag_st").warning("%s", note)
    faults.raise_if_any(f"cohort {job.wildcards.cohort}")
    write_json(job.output.checked, {"contract": CONTRACT, "slides": sorted(files)})


if "snakemake" in globals():
    run(main, snakemake)
