# Configuration, the grid and small helpers. There are no rules here: `snakemake --lint` wants rules
# and functions in separate files.

import os
import re

from flag_st.planning import config as layers
from flag_st.planning.contents import contents, named_files
from flag_st.core.errors import FlagError
from flag_st.planning.grid import Plan
from flag_st.planning.rules import GROWING, RULES, RUN
from flag_st.planning.traits import bounds_others, stated
from flag_st.core.code import ROOT, code_digest

try:
    CONFIG = layers.load(config)
    PLAN = Plan(CONFIG)
    RUNS = {name: PLAN.runs(name) for name in CONFIG["make"]}
    for run in PLAN.made:
        PLAN.corpora(run)  # an impossible corpus is refused before anything runs
    # An experiment of which nothing can be run here is mentioned in the report and not made.
    MADE = [name for name in CONFIG["make"] if RUNS[name]]
except FlagError as error:
    raise WorkflowError(str(error)) from None

RESULTS = CONFIG["results"]
SAMPLES = CONFIG["defaults"]["samples"]
# What pages are made from, besides results.
ASSETS = sorted(
    str(path)
    for path in (ROOT / "src" / "flag_st" / "report").iterdir()
    if path.suffix in (".css", ".jinja", ".js")
)


def any_of(names):
    """A wildcard constraint: one of these names and nothing else."""
    return "|".join(map(re.escape, sorted(names))) or "(?!)"


CHOICES = {
    layer: any_of(CONFIG[layer])
    for layer in (
        "cohorts",
        "panels",
        "encoders",
        "gene_models",
        "methods",
        "experiments",
    )
}
CHOICES["folds"] = any_of(PLAN.folds)
CHOICES["scopes"] = any_of(["data", *PLAN.folds])


def entry(layer, name):
    return CONFIG[layer][name]


def plugin(layer, name):
    """What a script needs to build a plug-in, without machine facts, so that moving re-runs nothing."""
    return {
        "name": name,
        "use": entry(layer, name)["use"],
        "params": entry(layer, name).get("params", {}),
    }


def metrics_of(rule):
    """The metrics that a rule computes, by name."""
    names = PLAN.metrics(downstream=rule == "evaluate_downstream")
    return {name: plugin("metrics", name) for name in names}


def scores_of(experiment):
    """The files of scores of every run of an experiment: one file per rule that scores it."""
    return [
        file
        for rule in PLAN.scored_by(experiment)
        for file in of_runs(f"{RESULTS}/{RULES[rule].outputs['scores']}", experiment)
    ]


def uses(plugin):
    """The classes that an entry names, including those in its params (of wrappers)."""
    if isinstance(plugin, dict):
        own = [plugin["use"]] if isinstance(plugin.get("use"), str) else []
        return own + [u for value in plugin.values() for u in uses(value)]
    return (
        [u for value in plugin for u in uses(value)] if isinstance(plugin, list) else []
    )


def code(script, *plugins):
    """Digest of a script and of all project code that it and the plug-in entries import."""
    return code_digest(ROOT / "scripts" / f"{script}.py", *uses(list(plugins)))


def gate(checked, rule, wildcards):
    """The list of checked slides, which a job waits for unless its outputs are there already.

    A new slide in the list must not make the others anew. An `ancient` input alone leaves jobs out:
    of the jobs below a job that is to run, Snakemake does not compare the parameters, since it runs
    them all, but it stops at ancient inputs. So a finished job has no edge to the check at all.
    """
    path = checked.format(**dict(wildcards.items()))
    own = RULES[rule].files(RESULTS, dict(wildcards.items()))
    finished = all(map(os.path.exists, [path, *own]))
    return ancient(before_update(path)) if finished else path


def checked_cohorts(wildcards):
    """The list of checked slides of every cohort of which anything is made."""
    names = {run.cohort for run in PLAN.made}
    path = rules.check_cohort.output.checked
    return [path.format(cohort=name) for name in sorted(names)]


def is_given(path):
    """Whether a file comes from outside, so that no rule makes it."""
    return not os.path.abspath(path).startswith(os.path.abspath(RESULTS) + os.sep)


def given(files):
    """A file or files, whose dates do not matter if they come from outside: see `contents_of`."""
    if isinstance(files, list):
        return [given(file) for file in files]
    return ancient(str(files)) if is_given(files) else str(files)


def contents_of(rule, wildcards, files):
    """What those of a job's inputs hold that come from outside: a parameter of the job."""
    log = log_of(rule).format(**dict(wildcards.items()))
    own = [str(file) for file in files if is_given(file)]
    return contents(own, os.path.splitext(log)[0] + ".json", CONFIG["verify"])


def files_named(layer, name):
    """The files from outside that an entry's params name, such as weights."""
    return list(filter(is_given, named_files(entry(layer, name).get("params", {}))))


# Outputs, log, benchmark, environment and resources of every rule are in flag_st/planning/rules.py.


def outputs(rule, **flagged):
    """Outputs of a rule by name; `flagged` gives a function that marks the path of an output."""
    unflagged = lambda path: path
    return {
        name: flagged.get(name, unflagged)(f"{RESULTS}/{path}")
        for name, path in RULES[rule].outputs.items()
    }


def log_of(rule):
    return f"{RESULTS}/{RULES[rule].log}"


def benchmark_of(rule):
    return f"{RESULTS}/{RULES[rule].benchmark}"


def environment(rule):
    """The conda environment file; an entry of the configuration may name another one."""

    def file(wildcards):
        return str(ROOT / "envs" / f"{RULES[rule].environment(CONFIG, wildcards)}.yaml")

    return file if RULES[rule].entry else file(None)


def threads_of(rule):
    """The number of threads as the configuration states it, for `threads` and for `params`."""
    if RULES[rule].entry is None:
        return RULES[rule].threads
    return lambda wildcards: RULES[rule].amount("threads", CONFIG, wildcards)


def resources_of(rule):
    """GPUs, memory and time limit; memory and time grow with each try."""

    def resource(key):
        if RULES[rule].entry is None and key not in GROWING:
            return RULES[rule].amount(key, CONFIG, None)

        def value(wildcards, attempt):
            amount = RULES[rule].amount(key, CONFIG, wildcards)
            return amount * attempt if key in GROWING else amount

        return value

    return {key: resource(key) for key in ("gpu", "mem_mb", "runtime")}


def scope(encoder, split):
    """Features of a frozen encoder belong to the cohort, those of a fitted one to a split."""
    return split if entry("encoders", encoder).get("fits") else "data"


def part(wildcards, *names):
    """The slides of some parts of the job's split, in sheet order."""
    split = PLAN.split(wildcards.cohort, wildcards.split).as_dict()
    return [slide for name in names for slide in split[name]]


def of_slides(pattern, wildcards, slides, **more):
    """`pattern`, a rule's output, for several slides of the job's cohort, split and panel."""
    known = {**dict(wildcards.items()), **more}
    return [pattern.format(**{**known, "slide": slide}) for slide in slides]


def of_runs(pattern, experiment):
    """`pattern`, a rule's output, for every run of an experiment."""
    return [pattern.format(**vars(run)) for run in RUNS[experiment]]


def of_predictions(pattern, experiment):
    """`pattern` for every run of an experiment and every test slide of its split."""
    return [
        pattern.format(**vars(run), slide=slide)
        for run in RUNS[experiment]
        for slide in PLAN.split(run.cohort, run.split).test
    ]


def vocabularies_of(wildcards):
    """The files of the genes that the panels of a cohort may choose from."""
    panels = PLAN.panels(wildcards.cohort).values()
    return sorted({entry["vocabulary"] for entry in panels if "vocabulary" in entry})


def corpus_counts(wildcards):
    """The files of the sections without an image that some gene model of the cohort learns from."""
    source = PLAN.source(wildcards.cohort)
    return [source.counts(s) for s in PLAN.corpus_sections(wildcards.cohort)]


def vocabulary_of(wildcards):
    """The file of the genes that a panel may choose from, if its entry names one."""
    name = entry("panels", wildcards.panel).get("vocabulary")
    file = name and name not in CONFIG["gene_models"]
    return str(layers.locate_file(name)) if file else []


def knows_genes(wildcards):
    """The gene model whose genes a panel may choose from, if its entry names one."""
    name = entry("panels", wildcards.panel).get("vocabulary")
    return [name] if name in CONFIG["gene_models"] else []


def gene_files(wildcards):
    """The files that the params of the gene model name which knows a panel's genes."""
    return [
        f for name in knows_genes(wildcards) for f in files_named("gene_models", name)
    ]


def makes(kind):
    """The experiments to make whose script is a table, or a figure."""
    return [n for n in MADE if entry("experiments", n)["script"].startswith(f"{kind}/")]


def features_of(wildcards, *parts):
    encoder = entry("methods", wildcards.method)["encoder"]
    slides = part(wildcards, *parts)
    place = {"encoder": encoder, "scope": scope(encoder, wildcards.split)}
    return of_slides(rules.encode_patches.output.features, wildcards, slides, **place)


def seen_by_encoder(wildcards, slides):
    """The patches that the encoder of a job reads: the standard ones, or those of its field of view."""
    field = PLAN.field(wildcards.encoder)
    if field is None:
        return of_slides(rules.prepare_slide.output.patches, wildcards, slides)
    return of_slides(rules.cut_patches.output.patches, wildcards, slides, field=field)


def targets_of(wildcards):
    gene_model = entry("methods", wildcards.method)["gene_model"]
    if gene_model is None:
        return []
    slides = part(wildcards, "train")
    return of_slides(
        rules.embed_genes.output.targets, wildcards, slides, gene_model=gene_model
    )


def corpus_files(wildcards):
    """The counts beyond the training slides that a gene model is fitted to."""
    corpus = PLAN.corpus(wildcards.cohort, wildcards.split, wildcards.gene_model)
    counts, spots = rules.prepare_counts.output.counts, rules.prepare_slide.output.spots
    return [
        *of_slides(counts, wildcards, corpus.counts),
        *of_slides(spots, wildcards, corpus.slides),
    ]


def backbone_of(wildcards):
    """The fitted gene model that a method is built on, if it has one and that is fitted here."""
    backbone = entry("methods", wildcards.method).get("backbone")
    if not (backbone and entry("gene_models", backbone).get("fits")):
        return []
    path = RULES["fit_gene_model"].outputs["model"]
    return f"{RESULTS}/{path}".format(**{**dict(wildcards), "gene_model": backbone})


def parts_of(wildcards):
    """Models of the methods that this one is made of, where they are methods of their own."""
    parts = PLAN.parts(wildcards.cohort, wildcards.method)
    pattern = f"{RESULTS}/{RULES['train'].outputs['model']}"
    return [pattern.format(**{**dict(wildcards), "method": name}) for name in parts]


def calibration_of(wildcards):
    """The run's intervals, if a metric judges them."""
    if not PLAN.calibrated(wildcards.method):
        return []
    return [
        f"{RESULTS}/{RULES['calibrate'].outputs['calibration']}".format(
            **dict(wildcards)
        )
    ]


def patches_of(wildcards, slides):
    if not entry("methods", wildcards.method).get("needs_patches"):
        return []
    return of_slides(rules.prepare_slide.output.patches, wildcards, slides)
