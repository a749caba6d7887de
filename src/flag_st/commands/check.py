"""``flag-st check``: every fault of the configuration and of the data that is there."""

import sys
from collections.abc import Mapping
from typing import Any

from flag_st.core import registry
from flag_st.core.errors import Faults, FlagError
from flag_st.data.slide_files import SlideFiles
from flag_st.planning.grid import Plan


def check_all(config: dict[str, Any], data: bool = True) -> int:
    """Print all faults; the configuration itself was validated when it was loaded.

    Plug-ins are built with their arguments; every slide of the cohorts in use is checked whose
    files are on this machine. Slides that a run would download or make are only counted.

    Returns:
        0 if there is no fault, else 1.
    """
    plan, faults = Plan(config), Faults()
    experiments = {name: config["experiments"][name] for name in config["make"]}
    check_plugins(config, experiments, faults)
    cohorts = list(dict.fromkeys(c for e in experiments.values() for c in e["cohorts"]))
    for name in experiments:
        _collect(faults, lambda name=name: plan.runs(name))
        _collect(faults, lambda name=name: plan.reads(name))
    for cohort in cohorts if data else ():
        check_cohort(plan, cohort, panel_sizes(config, experiments, cohort), faults)
    found = list(dict.fromkeys(faults.messages))  # a missing folder stops every experiment on it
    for message in found:
        print(f"fault: {message}", file=sys.stderr)
    if found:
        print(f"{len(found)} fault{'s' * (len(found) > 1)}; nothing was run", file=sys.stderr)
        return 1
    print(f"ok: {len(experiments)} experiments on {', '.join(cohorts)}")
    return 0


def check_plugins(config: dict[str, Any], experiments: dict, faults: Faults) -> None:
    """Build every plug-in that the experiments use: wrong arguments are refused by name."""
    methods = dict.fromkeys(m for e in experiments.values() for m in e["methods"])
    layers = {
        "methods": methods,
        "encoders": {config["methods"][m]["encoder"]: None for m in methods},
        "gene_models": {config["methods"][m]["gene_model"]: None for m in methods},
        "metrics": dict.fromkeys(config["defaults"]["metrics"]),
    }
    for layer, names in layers.items():
        for name in filter(None, names):
            entry = config[layer][name]
            _collect(
                faults,
                lambda entry=entry: registry.build(entry["use"], entry.get("params", {})),
                f"{layer}.{name}: ",
            )


def panel_sizes(config: dict[str, Any], experiments: dict, cohort: str) -> dict[str, int]:
    """Panels wanted of a cohort, with their sizes."""
    names = {p for e in experiments.values() if cohort in e["cohorts"] for p in e["panels"]}
    return {name: config["panels"][name]["size"] for name in sorted(names)}


def check_cohort(plan: Plan, cohort: str, panels: dict[str, int], faults: Faults) -> None:
    """Check the slides of a cohort whose files are on this machine."""
    try:
        source, slides = plan.source(cohort), plan.slides(cohort)
    except FlagError as error:
        faults.add(str(error))
        return
    files: dict[str, SlideFiles] = {}
    waiting = 0
    for slide in slides:
        try:
            found = source.local(slide)
        except FlagError as error:
            faults.add(f"cohorts.{cohort}: {error}")
            continue
        if found is None:
            waiting += 1
        else:
            files[slide] = found
    if waiting:
        print(f"{cohort}: {waiting} of {len(slides)} slides are not here yet; retrieve brings them")
    faults.extend(check_slides(files, panels, plan.config["cohorts"][cohort].get("prepare", {})))


def check_slides(
    files: Mapping[str, SlideFiles], panels: Mapping[str, int], prepare: Mapping[str, Any]
) -> Faults:
    """All faults of all slides, and whether they share genes enough for every panel.

    Args:
        files: per slide. panels: name → size. prepare: the cohort entry's ``prepare``.
    """
    import anndata

    from flag_st.data.check_slide import check_common_genes, check_slide

    faults, names = Faults(), {}
    options = {k: v for k, v in prepare.items() if k in ("patches_from", "unique_genes")}
    for slide, own in files.items():
        found = check_slide(own, slide, **options)
        faults.extend(found)
        if not found.messages:
            table = anndata.read_h5ad(own.st, backed="r")
            names[slide] = list(table.var_names)
            table.file.close()
    for panel, size in panels.items() if names else ():
        faults.extend(check_common_genes(names, size, panel))
    return faults


def _collect(faults: Faults, action, prefix: str = "") -> None:
    """Keep the fault that ``action`` raises, so that the next check still runs."""
    try:
        action()
    except FlagError as error:
        faults.add(f"{prefix}{error}")
