"""Every part of the loss and every validation value over the epochs (Figure 9)."""

from flag_st.core.job import run

READS = ("history",)


def main(job):
    from flag_st.paper import curves, style

    style.use()
    labels = {name: method["label"] for name, method in job.params.item["methods"].items()}
    table, without = curves.read_histories(job.params.of["runs"], job.input.history)
    if len(table):
        figure = curves.dynamics(table, labels)
    else:
        figure = style.message(f"No method here is trained in epochs: {', '.join(without)}.")
    style.save(figure, table, job.output)


if "snakemake" in globals():
    run(main, snakemake)
