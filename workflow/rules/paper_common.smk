# What tables and figures know of their experiment, and which files they read. No rule is here.

from functools import partial

from flag_st.planning.court import tried
from flag_st.planning.shipped import run_differs

REPORTED = str(ROOT / "config" / "reported.csv")
SHEETS = {
    word: str(ROOT / "config" / f"{word}.yaml")
    for word in ("pathways", "claims", "court")
}
try:
    READS = {name: PLAN.reads(name) for name in MADE}
except FlagError as error:
    raise WorkflowError(str(error)) from None


def item(experiment):
    """All that a script knows of its experiment: no file, and nothing about the machine."""
    known = entry("experiments", experiment)
    return {
        "name": experiment,
        "title": known["title"],
        "caption": known.get("caption", ""),
        "reported": known.get("reported", "table_1"),
        "params": known.get("params", {}),
        "cohorts": {
            name: {
                **plugin("cohorts", name),
                "slides": entry("cohorts", name).get("slides"),
            }
            for name in known["cohorts"]
        },
        "methods": {name: method_facts(experiment, name) for name in known["methods"]},
        "missing": PLAN.absent(experiment),
        "patients": {
            name: {row.id: row.patient for row in PLAN.rows(name)}
            for name in known["cohorts"]
            if not PLAN.missing(name)
        },
        "metrics": {name: metric["use"] for name, metric in CONFIG["metrics"].items()},
    }


def method_facts(experiment, name):
    """Label and traits of a method; `changed` if its runs use a shipped entry with other settings."""
    known = entry("methods", name)
    return {
        "label": known.get("label", name.replace("_", " ")),
        "params": known.get("params", {}),
        "changed": run_differs(CONFIG, experiment, name),
        **{
            trait: known.get(trait, False)
            for trait in ("stochastic", "seeded", "needs_patches")
        },
        "needs_truth": bounds_others(CONFIG, name),
    }


def run_keys(experiment):
    """Cohort, split, panel, method and seed of every run, in the order of `of_runs`."""
    return [dict(vars(run)) for run in RUNS[experiment]]


def prediction_keys(experiment):
    """The same with the slide, in the order of `of_predictions`."""
    return [
        {**key, "slide": slide}
        for key in run_keys(experiment)
        for slide in PLAN.split(key["cohort"], key["split"]).test
    ]


def spot_keys(experiment):
    """Cohort and slide of every test slide, each once."""
    pairs = dict.fromkeys(
        (k["cohort"], k["slide"]) for k in prediction_keys(experiment)
    )
    return [{"cohort": cohort, "slide": slide} for cohort, slide in pairs]


def slide_keys(experiment):
    """Cohort and slide of every slide, each once."""
    cohorts = entry("experiments", experiment)["cohorts"]
    return [
        {"cohort": name, "slide": slide}
        for name in cohorts
        if not PLAN.missing(name)
        for slide in PLAN.slides(name)
    ]


def keys_of(wildcards):
    """What each file in the lists of `files_of` is of, in the same order."""
    name = wildcards.experiment
    known = {
        "history": ("runs", run_keys),
        "predictions": ("predictions", prediction_keys),
        "spots": ("spots", spot_keys),
        "slides": ("slides", slide_keys),
        "tried_runs": ("tried", lambda name: [item(other) for other in named()]),
    }
    return {
        known[word][0]: known[word][1](name) for word in READS[name] if word in known
    }


def named():
    """The experiments to make that claims of the court name, and whose scores can tell."""
    return [name for name in MADE if name in tried() and "scores" in READS[name]]


def files_of(wildcards):
    """Inputs of a table or figure."""
    name = wildcards.experiment
    found = {
        "scores": lambda: rules.collect_scores.output.scores.format(experiment=name),
        "runs": lambda: rules.collect_runs.output.runs.format(experiment=name),
        "history": lambda: of_runs(rules.train.output.history, name),
        "predictions": lambda: of_predictions(rules.predict.output.prediction, name),
        "spots": lambda: [
            rules.prepare_slide.output.spots.format(**key) for key in spot_keys(name)
        ],
        "slides": lambda: [
            rules.prepare_slide.output.spots.format(**key) for key in slide_keys(name)
        ],
        "records": lambda: of_predictions(rules.predict.output.run, name),
        "tried_scores": lambda: of_experiments(
            rules.collect_scores.output.scores, named()
        ),
        "tried_runs": lambda: of_experiments(rules.collect_runs.output.runs, named()),
        **{word: partial(given, path) for word, path in SHEETS.items()},
    }
    return {word: found[word]() for word in READS[name]}


def sheets_of(wildcards):
    """The files of the configuration that a table or figure reads."""
    words = READS[wildcards.experiment]
    return [REPORTED, *(SHEETS[word] for word in words if word in SHEETS)]


def explored():
    """The experiments that show maps; each of them also gets a page to explore its slides."""
    return [n for n in MADE if entry("experiments", n)["script"] == "figures/gene_maps"]


def of_experiments(pattern, names):
    """`pattern`, a rule's output, for each of these experiments."""
    return [pattern.format(experiment=name) for name in names]
