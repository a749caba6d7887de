"""``flag-st check``: all faults of the configuration and of the data on this machine."""

import sys
from pathlib import Path
from typing import Any

from flag_st.core import registry
from flag_st.core.errors import Faults, FlagError
from flag_st.data.check_cohort import check_cohort, cohort_warnings
from flag_st.data.panels import check_list
from flag_st.data.slide_files import SlideFiles
from flag_st.gene_models.corpus import corpus_model
from flag_st.planning import court
from flag_st.planning.grid import Plan
from flag_st.planning.traits import check_traits, stated
from flag_st.transfer.weights import checkpoints


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
    for name in dict.fromkeys(panel for e in experiments.values() for panel in e["panels"]):
        _collect(faults, lambda p=config["panels"][name]: _check_panel(p), f"panels.{name}: ")
    for name in experiments:
        _collect(faults, lambda name=name: [plan.corpora(run) for run in plan.runs(name)])
        _collect(faults, lambda name=name: check_columns(plan, name))
        _collect(faults, lambda name=name: check_court(plan, name, faults))
    for cohort in cohorts if data else ():
        check_local_slides(plan, cohort, faults)
    # One missing folder is a fault of many experiments, and is printed once.
    found = list(dict.fromkeys(faults.messages))
    for message in found:
        print(f"fault: {message}", file=sys.stderr)
    if found:
        print(f"{len(found)} fault{'s' * (len(found) > 1)}; nothing was run", file=sys.stderr)
        return 1
    number = f"{len(experiments)} experiment{'s' * (len(experiments) != 1)}"
    print(f"ok: {number} on {', '.join(cohorts)}")
    return 0


def check_plugins(config: dict[str, Any], experiments: dict, faults: Faults) -> None:
    """Build every plug-in that the experiments use; wrong arguments and traits are faults.

    So are files of published weights that are not where ``params.weights`` says.
    """
    methods = dict.fromkeys(m for e in experiments.values() for m in e["methods"])
    used = [config["methods"][m] for m in methods]
    layers = {
        "methods": methods,
        "encoders": dict.fromkeys(entry["encoder"] for entry in used),
        "gene_models": dict.fromkeys(
            entry.get(key) for key in ("gene_model", "backbone") for entry in used
        ),
        "metrics": dict.fromkeys(config["defaults"]["metrics"]),
    }
    for layer, names in layers.items():
        for name in filter(None, names):
            entry = config[layer][name]
            _collect(
                faults, lambda e=entry, n=name, of=layer: _build(of, n, e), f"{layer}.{name}: "
            )


def _check_panel(entry: dict[str, Any]) -> None:
    check_list(entry.get("genes") or (), entry.get("size"), entry.get("drop_prefixes") or ())


def _build(layer: str, name: str, entry: dict[str, Any]) -> None:
    plugin = registry.build(entry["use"], entry.get("params", {}))
    check_traits(layer, name, stated(layer, entry), plugin)
    if layer == "gene_models":
        corpus_model(plugin, entry.get("corpus", "train") != "train")
    for place in checkpoints(entry) if layer in ("encoders", "gene_models") else ():
        if place.local is not None:
            place.here()


def check_columns(plan: Plan, name: str) -> None:
    """Whether every value that an experiment takes from its scores is computed for it.

    Raises:
        FlagError: a value is computed for other experiments only, or for none; a table would show
            an empty column.
    """
    if "scores" not in plan.reads(name):
        return
    config, entry = plan.config, plan.config["experiments"][name]
    computed = plan.metrics(downstream=False)
    computed += plan.metrics(downstream=True) if entry.get("downstream") else []
    of = {metric: registry.load(e["use"]).columns for metric, e in config["metrics"].items()}
    for column in entry.get("params", {}).get("columns", ()):
        known = [metric for metric in of if column["metric"] in of[metric]]
        if set(known) & set(computed):
            continue
        fault = f"experiments.{name} shows {column['metric']}, which "
        if not known:
            choices = sorted({value for values in of.values() for value in values})
            raise FlagError(f"{fault}no metric returns", choices=choices)
        metric = known[0]
        if metric in plan.metrics(downstream=True):
            remedy = f"write downstream: true in experiments.{name}"
        else:
            remedy = f"add {metric} to defaults.metrics"
        raise FlagError(f"{fault}is not computed: the metric {metric} returns it", remedy=remedy)


def check_court(plan: Plan, name: str, faults: Faults) -> None:
    """Of an experiment that reads the court: what its claims name and nobody declares.

    Raises:
        FlagError: entries are not of the form of ``workflow/schemas/court.schema.yaml``.
    """
    if "court" in plan.reads(name):
        uses = [entry["use"] for entry in plan.config["metrics"].values()]
        metrics = {value for use in uses for value in registry.load(use).columns}
        faults.extend(court.court_faults(court.read_court(), plan.config, metrics))


def check_local_slides(plan: Plan, cohort: str, faults: Faults) -> None:
    """Check those slides of a cohort whose files are on this machine, and the counts of its corpora."""
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
            source.check(slide)
        except FlagError as error:
            faults.add(f"cohorts.{cohort}: {error}")
            continue
        if found is None:
            waiting += 1
        else:
            files[slide] = found
    if waiting:
        print(
            f"{cohort}: {waiting} of {len(slides)} slides are not here yet; the rule retrieve fetches or converts them"
        )
    prepare = plan.config["cohorts"][cohort].get("prepare", {})
    for warning in cohort_warnings(files, prepare):
        print(f"warning: {warning}")
    further: dict[str, Path] = {}
    sections = faults.attempt(plan.corpus_sections, cohort) or ()
    for section in sections:
        _collect(faults, lambda s=section: further.update({s: source.counts(s)}))
    panels = faults.attempt(plan.panels, cohort) or {}
    fields = faults.attempt(plan.fields, cohort) or {}
    of_cohort = check_cohort(files, panels, prepare, further, fields)
    for note in of_cohort.notes:
        print(f"note: {note}")
    faults.extend(of_cohort)


def _collect(faults: Faults, action, prefix: str = "") -> None:
    """Add the fault that ``action`` raises, so that the next check still runs."""
    try:
        action()
    except FlagError as error:
        faults.add(f"{prefix}{error}")
