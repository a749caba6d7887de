"""Fit a gene model on counts: the training slides', and those of further sections of its corpus."""

from flag_st.core.job import run


def main(job):
    import anndata
    import pandas as pd

    from flag_st.core import registry
    from flag_st.core.io import read_json
    from flag_st.core.job import device
    from flag_st.data.corpora import check_sections
    from flag_st.gene_models.corpus import fit_slides

    model = registry.build(job.params.gene_model["use"], job.params.gene_model["params"])
    model.open(device(job.gpu))
    slides, further = (
        [anndata.read_h5ad(path) for path in paths] for paths in (job.input.spots, job.input.corpus)
    )
    names = [str(table.uns["slide"]) for table in (*slides, *further)]
    check_sections(names, read_json(job.input.split), job.params.corpus)
    panel = list(pd.read_parquet(job.input.panel)["gene"])
    fit_slides(model, slides, panel, 0, further, job.params.unit)
    model.save(
        job.output.model, model=type(model).__name__, corpus=job.params.corpus, sections=names
    )


if "snakemake" in globals():
    run(main, snakemake)
