"""Training and validation loss of every run that is trained in epochs."""

from flag_st.core.job import run

READS = ("history",)


def main(job):
    from flag_st.paper import curves, style

    style.use()
    item = job.params.item
    labels = {name: method["label"] for name, method in item["methods"].items()}
    table, without = curves.read_histories(job.params.of["runs"], job.input.history)
    if len(table):
        figure = curves.draw(table, labels)
    else:
        names = ", ".join(labels[name] for name in without)
        figure = style.message(f"No method here is trained in epochs: {names}.")
    style.save(figure, table, job.output)


if "snakemake" in globals():
    run(main, snakemake)
