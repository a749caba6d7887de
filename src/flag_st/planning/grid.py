"""The grid: which slides, splits and runs a configuration stands for. No data is touched."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.data import splits
from flag_st.data.corpora import Corpus, corpus_of
from flag_st.data.field import FIELD_UM
from flag_st.data.slide_files import SlideRow
from flag_st.data.splits import Split
from flag_st.planning.reads import reads_of
from flag_st.sources.base import Source
from flag_st.sources.folder import locate as locate_file

#: Keys of a panel's entry, besides ``vocabulary``, that decide which genes there are to choose from.
CHOOSING = ("size", "top", "drop_prefixes", "genes", "hvg")

#: What a method reads besides its own slides' spots and genes, as its entry says.
INPUTS = ("encoder", "gene_model", "backbone", "needs_patches", "needs_truth")


@dataclass(frozen=True, order=True)
class RunKey:
    """One training run; also the path of its results."""

    cohort: str
    split: str
    panel: str
    method: str
    seed: int


def source_params(params: dict[str, Any], root: str | None) -> dict[str, Any]:
    """Fill ``root: null`` of a cohort, its one machine fact, from the command line's ``root``."""
    return {**params, "root": root} if root and params.get("root", "") is None else dict(params)


def holds(params: Any, plugin: Mapping[str, Any]) -> bool:
    """Whether ``params`` have a plug-in with the class and arguments of ``plugin`` inside, at any depth."""
    if not isinstance(params, dict):
        return False
    if params.get("use") == plugin["use"] and params.get("params") == plugin.get("params", {}):
        return True
    return any(holds(value, plugin) for value in params.values())


class Plan:
    """Answers what Snakemake asks while it builds the DAG."""

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self._sources: dict[str, Source] = {}
        self._rows: dict[str, list[SlideRow]] = {}
        self._splits: dict[tuple[str, str], dict[str, Split]] = {}

    def source(self, cohort: str) -> Source:
        if cohort not in self._sources:
            entry = self.config["cohorts"][cohort]
            params = source_params(entry.get("params", {}), self.config.get("root"))
            self._sources[cohort] = registry.build(entry["use"], params)
        return self._sources[cohort]

    def rows(self, cohort: str) -> list[SlideRow]:
        """The slide sheet, or the slides that the cohort entry restricts it to."""
        if cohort not in self._rows:
            rows = self.source(cohort).slides()
            wanted = self.config["cohorts"][cohort].get("slides")
            if wanted:
                known = {row.id: row for row in rows}
                if missing := [s for s in wanted if s not in known]:
                    raise FlagError(
                        f"cohorts.{cohort}.slides: unknown {', '.join(missing)}", choices=known
                    )
                rows = [known[s] for s in wanted]
            self._rows[cohort] = rows
        return self._rows[cohort]

    def slides(self, cohort: str) -> list[str]:
        return [row.id for row in self.rows(cohort)]

    def patient(self, cohort: str, slide: str) -> str:
        """The donor of a slide, or of a section with counts alone."""
        rows = self.rows(cohort)
        if slide not in self.slides(cohort):
            rows = self.source(cohort).counts_only()
        return next(row.patient for row in rows if row.id == slide)

    def expand_split(self, cohort: str, name: str) -> dict[str, Split]:
        """The folds of a split entry on a cohort: name → Split."""
        key = cohort, name
        if key not in self._splits:
            entry = dict(self.config["splits"][name])
            if isinstance(only := entry.get("only"), dict):
                entry["only"] = only.get(cohort)
            self._splits[key] = splits.expand(name, entry, self.rows(cohort))
        return self._splits[key]

    def split(self, cohort: str, fold: str) -> Split:
        """One fold by its full name (``loso-A1``), as it stands in a path."""
        for name in self.config["splits"]:
            if fold == name or fold.startswith(f"{name}-"):
                folds = self.expand_split(cohort, name)
                if fold in folds:
                    return folds[fold]
        raise FlagError(f"no split {fold!r} of cohort {cohort!r}", choices=self.config["splits"])

    def field(self, encoder: str) -> int | None:
        """Edge in µm of the patches that are cut for an encoder; None if it reads the standard ones."""
        field = self.config["encoders"][encoder].get("field_um", FIELD_UM)
        return None if field == FIELD_UM else int(field)

    def fields(self, cohort: str) -> dict[str, int]:
        """The encoders of the experiments to make on a cohort that patches are cut for: name → µm."""
        methods = {run.method for run in self.made if run.cohort == cohort}
        used = sorted({self.config["methods"][method]["encoder"] for method in methods})
        return {name: field for name in used if (field := self.field(name))}

    def corpus(self, cohort: str, fold: str, gene_model: str) -> Corpus:
        """The sections beyond the training slides that a gene model is fitted to."""
        kind = self.config["gene_models"][gene_model].get("corpus", "train")
        if kind == "train":
            return Corpus()
        where = f"gene_models.{gene_model}, corpus {kind}, split {fold} of cohort {cohort}"
        further = self.source(cohort).counts_only()
        return corpus_of(kind, self.split(cohort, fold), self.rows(cohort), further, where)

    def corpora(self, run: RunKey) -> dict[str, Corpus]:
        """The corpus of each gene model that is fitted for a run."""
        entry, models = self.config["methods"][run.method], self.config["gene_models"]
        names = dict.fromkeys(filter(None, (entry["gene_model"], entry.get("backbone"))))
        fitted = [name for name in names if models[name].get("fits")]
        return {name: self.corpus(run.cohort, run.split, name) for name in fitted}

    def panels(self, cohort: str) -> dict[str, dict[str, Any]]:
        """The entries of the panels that the experiments to make use on a cohort, by name.

        Of each entry, those keys that decide which genes there are to choose from. ``vocabulary`` is a path;
        that of a gene model is left out, since its files need not be here yet. Where counts decide
        (``hvg``), ``fits`` lists the slides of each split whose counts do.
        """
        used = sorted({(run.panel, run.split) for run in self.made if run.cohort == cohort})
        panels: dict[str, dict[str, Any]] = {}
        for panel, fold in used:
            entry = self.config["panels"][panel]
            kept = panels.setdefault(panel, {k: entry[k] for k in CHOOSING if entry.get(k)})
            if (known := entry.get("vocabulary")) and known not in self.config["gene_models"]:
                kept["vocabulary"] = str(locate_file(known))
            if entry.get("hvg"):
                slides = self.split(cohort, fold).choosing(entry.get("fit_on", "train"))
                kept.setdefault("fits", []).append(list(slides))
        return panels

    def corpus_sections(self, cohort: str) -> list[str]:
        """The sections with counts alone that some gene model of the experiments to make learns from."""
        runs = [run for run in self.made if run.cohort == cohort]
        corpora = [corpus for run in runs for corpus in self.corpora(run).values()]
        return sorted({section for corpus in corpora for section in corpus.counts})

    def seeds(self, method: str, seeds: list[int]) -> list[int]:
        """Methods without any randomness run once: their repeats would be equal."""
        entry = self.config["methods"][method]
        return seeds if entry.get("stochastic") or entry.get("seeded") else seeds[:1]

    def missing(self, cohort: str, method: str | None = None) -> str:
        """Why a method (or anything at all) cannot be run on a cohort here; "" if it can."""
        declared = self.config.get("missing", {})
        names = [cohort]
        if method is not None:
            entry = self.config["methods"][method]
            names += [method, entry["encoder"], entry["gene_model"], entry.get("backbone")]
        for name in names:
            reason = declared.get(name, "")
            if reason := reason if isinstance(reason, str) else reason.get(cohort, ""):
                return reason
        return ""

    def absent(self, experiment: str) -> list[dict[str, str]]:
        """Cohort, method and reason of what an experiment goes without."""
        entry = self.config["experiments"][experiment]
        pairs = [(c, m, self.missing(c, m)) for c in entry["cohorts"] for m in entry["methods"]]
        return [{"cohort": c, "method": m, "reason": reason} for c, m, reason in pairs if reason]

    def runs(self, experiment: str) -> list[RunKey]:
        entry = self.config["experiments"][experiment]
        return [
            RunKey(cohort, fold, panel, method, seed)
            for cohort in entry["cohorts"]
            if not self.missing(cohort)
            for fold in self.expand_split(cohort, entry["split"])
            for panel in entry["panels"]
            for method in entry["methods"]
            if not self.missing(cohort, method)
            for seed in self.seeds(method, entry["seeds"])
        ]

    def parts(self, cohort: str, method: str) -> list[str]:
        """The entries that a method's params name and that are trained as methods of their own.

        Their models are taken instead of training the same once more: if class and arguments, what they read,
        and the seed are the same, so is the model. What has no seed is quickly fitted again.
        """
        entries = self.config["methods"]
        own = entries[method]
        return [
            name
            for name in own.get("named", ())
            if (entries[name].get("stochastic") or entries[name].get("seeded"))
            and all(own.get(key) == entries[name].get(key) for key in INPUTS)
            and holds(own["params"], entries[name])
            and not self.missing(cohort, name)
        ]

    @cached_property
    def made(self) -> set[RunKey]:
        """The runs of all experiments to make."""
        return {run for name in self.config["make"] for run in self.runs(name)}

    def metrics(self, downstream: bool) -> list[str]:
        """Those of ``defaults.metrics`` that ``evaluate_downstream`` computes, or ``evaluate``."""
        entries = self.config["metrics"]
        names = self.config["defaults"]["metrics"]
        return [name for name in names if bool(entries[name].get("downstream")) == downstream]

    def scored_by(self, experiment: str) -> list[str]:
        """The rules whose scores an experiment reads, if it reads scores at all."""
        asked = self.config["experiments"][experiment].get("downstream")
        return ["evaluate", *["evaluate_downstream"] * bool(asked and self.metrics(True))]

    def calibrated(self, method: str) -> bool:
        """Whether a metric judges a method's intervals; a control that sees the truth has none."""
        asked = any(self.config["metrics"][n].get("calibrated") for n in self.metrics(False))
        return asked and not self.config["methods"][method].get("needs_truth")

    def reads(self, experiment: str) -> tuple[str, ...]:
        """What the script of an experiment reads besides the printed numbers."""
        return reads_of(self.config["experiments"][experiment]["script"])

    @cached_property
    def folds(self) -> list[str]:
        """All split names that any made experiment uses, for wildcard constraints."""
        names = set()
        for experiment in self.config["make"]:
            names |= {run.split for run in self.runs(experiment)}
        return sorted(names)
