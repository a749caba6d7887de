"""Turn the patches of one slide into feature vectors; the file holds no expression."""

from flag_st.core.job import run


def main(job):
    import anndata
    import h5py
    import numpy as np
    import pandas as pd

    from flag_st.core import registry
    from flag_st.core.errors import FlagError
    from flag_st.core.hdf5 import write_table
    from flag_st.core.io import CONTRACT
    from flag_st.core.job import device
    from flag_st.encoders.base import check_features

    encoder = registry.build(job.params.encoder["use"], job.params.encoder["params"])
    encoder.open(device(job.gpu))
    if job.input.get("fitted"):
        encoder.load(job.input.fitted)
    spots = anndata.read_h5ad(job.input.spots, backed="r")
    with h5py.File(job.input.patches) as file:
        barcodes = pd.Index(file["barcode"].asstr()[:])
        if unknown := sorted(set(barcodes) - set(spots.obs_names)):
            raise FlagError(
                f"{job.input.patches}: {len(unknown)} patches are of no spot of {job.input.spots}, "
                f"such as {unknown[0]}",
                remedy="delete both and run the same command again, which makes them anew",
            )
        features = encoder.encode(file["img"], progress=job.progress)
        check_features(features, len(barcodes), job.params.encoder["name"])
    position = pd.DataFrame(np.asarray(spots.obsm["spatial_um"]), index=spots.obs_names)
    table = anndata.AnnData(
        np.asarray(features, dtype=np.float32),
        obs=pd.DataFrame(index=barcodes),
        obsm={"spatial_um": position.loc[barcodes].to_numpy()},
        uns={
            "contract": CONTRACT,
            "slide": job.wildcards.slide,
            "patient": spots.uns["patient"],
            "pixel_size_um": spots.uns["pixel_size_um"],
            "encoder": job.wildcards.encoder,
            "digest": encoder.digest(),
        },
    )
    write_table(job.output.features, table)


if "snakemake" in globals():
    run(main, snakemake)
