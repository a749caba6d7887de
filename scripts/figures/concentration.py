"""How correlations between spots concentrate as the panel grows (Figure 2)."""

from flag_st.core.job import run

READS = ("predictions", "spots")


def main(job):
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import concentration, style
    from flag_st.paper.predictions import tissues

    style.use()
    sizes = Experiment.of(job.params.item).params["sizes"]
    table = concentration.spot_correlations(tissues(job), sizes)
    style.save(concentration.draw(table), table, job.output)


if "snakemake" in globals():
    run(main, snakemake)
