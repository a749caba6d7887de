"""``flag-st check``: all faults of the configuration and of the data on this machine."""

import sys
from typing import Any

from flag_st.core import registry
from flag_st.core.errors import Faults, FlagError
from flag_st.data.check_cohort import check_cohort
from flag_st.data.slide_files import SlideFiles
from flag_st.planning.grid import Plan
from flag_st.planning.traits import check_traits, stated


def check(config: dict[str, Any], data: bool = True) -> int:
    """Print all faults of a configuration that has been loaded, and thereby validated.

    Every plug-in is built with its arguments. Of the cohorts in use, the slides whose files are on
    this machine are checked; slides that a run would first download or make are only counted.

    Args:
        config: as ``flag_st.planning.config.load`` returns it.
        data: whether to look at the slides at all.

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
        check_local_slides(plan, cohort, panel_sizes(config, experiments, cohort), faults)
    # One missing folder is a fault of many experiments, and is printed once.
    found = list(dict.fromkeys(faults.messages))
    for message in found:
        print(f"fault: {message}", file=sys.stderr)
    if found:
        print(f"{len(found)} fault{'s' * (len(found) > 1)}; nothing was run", file=sys.stderr)
        return 1
    print(f"ok: {len(experiments)} experiments on {', '.join(cohorts)}")
    return 0


def check_plugins(config: dict[str, Any], experiments: dict, faults: Faults) -> None:
    """Build every plug-in that the experiments use; wrong arguments and traits are faults."""
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
                faults, lambda e=entry, n=name, of=layer: _build(of, n, e), f"{layer}.{name}: "
            )


def _build(layer: str, name: str, entry: dict[str, Any]) -> None:
    plugin = registry.build(entry["use"], entry.get("params", {}))
    check_traits(layer, name, stated(layer, entry), plugin)


def panel_sizes(config: dict[str, Any], experiments: dict, cohort: str) -> dict[str, int]:
    """Name → size of the panels that the experiments need on a cohort."""
    names = {p for e in experiments.values() if cohort in e["cohorts"] for p in e["panels"]}
    return {name: config["panels"][name]["size"] for name in sorted(names)}


def check_local_slides(plan: Plan, cohort: str, panels: dict[str, int], faults: Faults) -> None:
    """Check those slides of a cohort whose files are on this machine."""
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
        print(
            f"{cohort}: {waiting} of {len(slides)} slides are not here yet; the rule retrieve fetches them"
        )
    faults.extend(check_cohort(files, panels, plan.config["cohorts"][cohort].get("prepare", {})))


def _collect(faults: Faults, action, prefix: str = "") -> None:
    """Add the fault that ``action`` raises, so that the next check still runs."""
    try:
        action()
    except FlagError as error:
        faults.add(f"{prefix}{error}")
