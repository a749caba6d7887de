"""Fit a gene model on the training slides' counts, for models that are not pre-trained."""

from flag_st.script import run


def main(job):
    import anndata
    import pandas as pd

    from flag_st import registry
    from flag_st.panels import common_genes
    from flag_st.script import device

    model = registry.build(job.params.gene_model["use"], job.params.gene_model["params"])
    model.open(device(job.gpu))
    slides = [anndata.read_h5ad(path) for path in job.input.spots]
    genes = common_genes([list(s.var_names) for s in slides])
    panel = list(pd.read_parquet(job.input.panel)["gene"])
    model.fit([s[:, genes].X for s in slides], genes, panel, seed=0)
    model.save(job.output.model)


if "snakemake" in globals():
    run(main, snakemake)
