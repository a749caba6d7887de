"""Fit a gene model on the training slides' counts, for models that are not pre-trained."""

from flag_st.core.job import run


def main(job):
    import anndata
    import pandas as pd

    from flag_st.core import registry
    from flag_st.core.job import device
    from flag_st.gene_models.base import fit_slides

    model = registry.build(job.params.gene_model["use"], job.params.gene_model["params"])
    model.open(device(job.gpu))
    slides = [anndata.read_h5ad(path) for path in job.input.spots]
    panel = list(pd.read_parquet(job.input.panel)["gene"])
    fit_slides(model, slides, panel, seed=0)
    model.save(job.output.model)


if "snakemake" in globals():
    run(main, snakemake)
