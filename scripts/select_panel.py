"""Choose the gene panel from the genes common to all slides, by the training slides' counts."""

from flag_st.core.job import run


def main(job):
    import anndata
    import numpy as np

    from flag_st.core import registry
    from flag_st.core.errors import FlagError
    from flag_st.core.io import read_json, writing
    from flag_st.data.panels import read_vocabulary, select_panel
    from flag_st.data.slide import read_expression
    from flag_st.data.splits import Split

    entry, parts = dict(job.params.panel), read_json(job.input.split)
    transform, fit_on = entry.pop("transform", "log1p"), entry.pop("fit_on", "train")
    split = Split(*(tuple(parts[name]) for name in ("train", "valid", "test")))
    chosen = set(split.choosing(fit_on))
    fit, paths, names = [], [], []
    for path in job.input.spots:
        backed = anndata.read_h5ad(path, backed="r")
        names.append(list(backed.var_names))
        if str(backed.uns["slide"]) in chosen:
            fit.append(backed.to_memory())
            paths.append(path)
        backed.file.close()
    if absent := sorted(chosen - {str(table.uns["slide"]) for table in fit}):
        raise FlagError(
            f"{job.input.split} names {', '.join(absent)}, whose spots are not among the inputs",
            remedy=f"delete {job.input.split} and run the same command again",
        )
    for model in job.params.gene_models:
        entry["vocabulary"] = registry.build(model["use"], model["params"]).known_symbols()
    if job.input.get("vocabulary"):
        entry["vocabulary"] = read_vocabulary(job.input.vocabulary)
    panel = select_panel(fit, names, **entry)
    pairs = zip(paths, fit, strict=True)
    values = [read_expression(p, t.obs_names, panel["gene"], transform) for p, t in pairs]
    # Kept for all methods, so that "most variable genes" are never those of the test slides.
    panel["variance"] = np.concatenate(values).var(0, dtype=np.float64)
    with writing(job.output.panel) as temporary:
        panel.to_parquet(temporary, index=False)


if "snakemake" in globals():
    run(main, snakemake)
