"""Check one slide, then cut it into spots (counts, positions in µm) and 224 px patches."""

from flag_st.core.job import run


def main(job):
    from pathlib import Path

    from flag_st.core.io import read_json
    from flag_st.data.prepare import prepare
    from flag_st.data.slide_files import SlideFiles

    files = read_json(job.input.manifest)["files"]
    prepare(
        SlideFiles(**{name: Path(fact["path"]) for name, fact in files.items()}),
        slide=job.wildcards.slide,
        out_spots=job.output.spots,
        out_patches=job.output.patches,
        patient=job.params.patient,
        progress=job.progress,
        **job.params.prepare,
    )


if "snakemake" in globals():
    run(main, snakemake)
