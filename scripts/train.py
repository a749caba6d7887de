"""Fit one method with one seed on the training slides; settings are chosen on validation slides."""

from flag_st.core.job import run


def main(job):
    from pathlib import Path

    import pandas as pd

    from flag_st.core import registry
    from flag_st.core.history import History
    from flag_st.core.io import read_json
    from flag_st.core.job import device
    from flag_st.data.slide import open_parts
    from flag_st.methods.base import Run
    from flag_st.planning.traits import check_traits

    plugin, transform = job.params.method, job.params.panel.get("transform", "log1p")
    genes, split = list(pd.read_parquet(job.input.panel)["gene"]), read_json(job.input.split)
    facts = {"use": plugin["use"], "params": plugin["params"], "genes": genes}
    facts |= {"method": plugin["name"], "unit": transform, **job.params.inputs}
    seed, where = int(job.wildcards.seed), device(job.gpu)
    train, valid = open_parts(job.input, split, genes, transform)
    history = History(job.output.history)
    events = Path(job.log).with_suffix("")
    place, origin = Path(job.params.checkpoint), job.record.origin()
    made = job.input.get("backbone"), job.input.get("parts", ())
    run_ = Run(seed, where, place, history, job.progress, events, origin, *made)
    method = registry.build(plugin["use"], plugin["params"])
    check_traits("methods", plugin["name"], job.params.traits, method)
    method.fit(train, valid, run_)
    method.save(job.output.model, seed=seed, width=train[0].features.shape[1], **facts)
    history.write()
    settings = registry.resolve(plugin["use"], plugin["params"])
    job.record.add(config={**facts, "settings": settings}, seed=seed)
    job.record.add(train_spots=sum(map(len, train)))
    job.record.write(job.output.run)
    run_.finish()


if "snakemake" in globals():
    run(main, snakemake)
