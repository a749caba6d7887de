"""Cut patches of another field of view around the spots of a slide, from its image."""

from flag_st.core.job import run


def main(job):
    from flag_st.core.io import read_json
    from flag_st.data.patch_file import cut_field

    files = read_json(job.input.manifest)["files"]
    cut_field(
        files["wsi"]["path"] if "wsi" in files else None,
        spots=job.input.spots,
        out=job.output.patches,
        field_um=int(job.wildcards.field),
        progress=job.progress,
    )


if "snakemake" in globals():
    run(main, snakemake)
