"""FLAG, its baselines and ablations: from H&E sections to every table and figure of the paper."""

import sys

from snakemake.logging import logger
from snakemake.utils import min_version

min_version("9.20")
# The package is reached from here by every script, whichever environment the script runs in.
sys.path.insert(0, f"{workflow.basedir}/src")


from flag_st.core.streams import keep_messages
from flag_st.planning.ending import JobEvents, ending, lost_files
from flag_st.planning.lock import lock
from flag_st.planning.progress import print_lines
from flag_st.planning.records import RecordsMissing

EVENTS = JobEvents()
# Jobs that parse this file again, in processes of their own, have no run to sum up.
if workflow.is_main_process:
    keep_messages()
    logger.addHandler(EVENTS)
    logger.addHandler(RecordsMissing(lambda: workflow.dag, logger.warning))
    quiet = {str(word) for word in workflow.output_settings.quiet or ()}
    if "rules" in quiet and not quiet & {"progress", "all"}:
        print_lines(logger)


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


wildcard_constraints:
    cohort=CHOICES["cohorts"],
    scope=CHOICES["scopes"],
    split=CHOICES["folds"],
    panel=CHOICES["panels"],
    encoder=CHOICES["encoders"],
    gene_model=CHOICES["gene_models"],
    method=CHOICES["methods"],
    experiment=CHOICES["experiments"],
    slide=r"[A-Za-z0-9._-]+",
    seed=r"\d+",


include: "workflow/rules/data.smk"
include: "workflow/rules/genes.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/slides_common.smk"
include: "workflow/rules/slides.smk"
include: "workflow/rules/paper_common.smk"
include: "workflow/rules/paper.smk"


rule all:
    default_target: True
    input:
        rules.report.output.page,
        # No finished job has an edge to the checks, so that they are targets of their own.
        checked_cohorts,
        checked_slides,


onstart:
    try:
        LOCK = lock(RESULTS)  # held until this process ends
    except FlagError as error:
        raise WorkflowError(str(error)) from None


onsuccess:
    lost = lost_files(workflow.dag)
    print(ending(EVENTS, CONFIG, lost))
    if lost:
        raise WorkflowError(f"{len(lost)} files of this run are not there")


onerror:
    print(ending(EVENTS, CONFIG))
