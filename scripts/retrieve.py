"""Find, download or make the files of one slide, and record their paths and digests."""

from flag_st.core.job import run


def main(job):
    from pathlib import Path

    from flag_st.core import registry
    from flag_st.core.io import CONTRACT, digest, write_json
    from flag_st.planning.grid import source_params

    plugin = job.params.source
    source = registry.build(plugin["use"], source_params(plugin["params"], job.params.root))
    files = source.fetch(job.wildcards.slide, Path(job.params.directory)).items()
    facts = {k: {"path": str(p), "sha256": digest(p)} for k, p in files.items()}
    manifest = {"contract": CONTRACT, "slide": job.wildcards.slide, "files": facts}
    write_json(job.output.manifest, manifest)


if "snakemake" in globals():
    run(main, snakemake)
