"""Write which slides train, validate and test, and which test patients other parts have too."""

from flag_st.core.job import run


def main(job):
    from flag_st.core.io import CONTRACT, write_json

    split, patients = dict(job.params.split), job.params.patients
    seen = {patients[s] for s in split["train"] + split["valid"]} - {""}
    shared = sorted({patients[s] for s in split["test"]} & seen)
    write_json(job.output.split, {"contract": CONTRACT, **split, "shared_patients": shared})


if "snakemake" in globals():
    run(main, snakemake)
