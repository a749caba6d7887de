"""Embed the panel genes of one training slide with a gene foundation model."""

from flag_st.core.job import run


def main(job):
    import anndata
    import pandas as pd

    from flag_st.core import registry
    from flag_st.core.job import device
    from flag_st.gene_models.base import embed_slide

    model = registry.build(job.params.gene_model["use"], job.params.gene_model["params"])
    model.open(device(job.gpu))
    if job.input.get("fitted"):
        model.load(job.input.fitted)
    slide = anndata.read_h5ad(job.input.spots)
    panel = list(pd.read_parquet(job.input.panel)["gene"])
    embed_slide(model, slide, panel, job.output.targets, progress=job.progress)


if "snakemake" in globals():
    run(main, snakemake)
