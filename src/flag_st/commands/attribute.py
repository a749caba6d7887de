"""``flag-st attribute``: how much of the gap to a printed number each single choice explains."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.paper.claims import Test, read_claims
from flag_st.paper.collect import read_scores
from flag_st.paper.columns import ESTIMATORS, SCOPES, Column
from flag_st.paper.court import Court
from flag_st.paper.reported import read_reported
from flag_st.paper.summary import summarise
from flag_st.planning.config import merge
from flag_st.planning.court import FOLDER, read_court, require
from flag_st.scoring.slides import REST

if TYPE_CHECKING:
    import pandas

#: How many other seeds tell what the seeds do.
SEEDS = 3
#: By how much a pixel size may well be wrong.
SCALE = 1.1
#: Validation has no say: only the weights of the last epoch are validated.
NEVER = {"validate_from": 10**6}


@dataclass(frozen=True)
class Step:
    """One choice changed, all others kept.

    Attributes:
        factor: which choice, such as ``pooling``.
        change: what it is changed to.
        value: our value then; NaN where it has not been run.
        run: the experiment that has it, or "" where the same predictions tell.
    """

    factor: str
    change: str
    value: float
    run: str = ""


@dataclass(frozen=True)
class Attribution:
    """The gap between a printed number and ours, and what single choices do to it.

    Attributes:
        column, printed, ours: which value, as it is printed and as it is here.
        where: method, cohort and experiment in words.
        steps: what was tried.
        overlay: the configuration of the runs that are missing.
    """

    column: Column
    printed: float
    ours: float
    where: str
    steps: list[Step]
    overlay: Mapping[str, Any]

    def as_text(self) -> str:
        """One line per choice: our value, by how much it moved, and the share of the gap."""
        import yaml

        gap = self.printed - self.ours
        words = f"{SCOPES[self.column.scope]}, {ESTIMATORS[self.column.estimator]}"
        head = f"{self.column.metric} of {self.where}: printed {self.printed:.3f}, ours {self.ours:.3f}"
        lines = [f"{head} ({words}), gap {gap:+.3f}"]
        for step in self.steps:
            text = f"{step.factor:<12}{step.change:<32}"
            if not isfinite(step.value):
                lines.append(f"{text}not run: {step.run}")
                continue
            moved = step.value - self.ours
            share = f"{100 * moved / gap:.0f} % of the gap" if gap else "there is no gap"
            lines.append(f"{text}{step.value:.3f}  {moved:+.3f}  {share}")
        if self.overlay:
            plain = yaml.safe_dump(dict(self.overlay), sort_keys=False, allow_unicode=True)
            lines += ["", "# An overlay that makes the missing runs:", plain.rstrip()]
        return "\n".join(lines)


def attribute(config: Mapping[str, Any], name: str, results: str | Path) -> list[Attribution]:
    """One attribution for every number of the claim that its method has here.

    Args:
        config: as ``flag_st.planning.config.load`` returns it: that of the results.
        name: a claim of ``config/court.yaml``.
        results: the folder of the results.

    Raises:
        FlagError: the claim is unknown, has no run or no number of its method, or was not run.
    """
    entry = require(read_court(), name)
    court = Court(
        {name: entry}, read_claims(FOLDER / "claims.yaml"), read_reported(FOLDER / "reported.csv")
    )
    if name not in court.tests:
        missing = "; ".join(entry["missing"])
        raise FlagError(f"no run here tests {name}", remedy=f"what is missing: {missing}")
    test = court.tests[name].test
    numbers = [
        number
        for number in entry.get("numbers", ())
        if (number.get("method"), number.get("metric")) == (test.method, test.metric)
    ]
    if not numbers:
        raise FlagError(f"claim {name} has no printed {test.metric} of {test.method}")
    experiment, scores = _made(entry["run"]["experiments"], Path(results), name)
    known, found = config["experiments"][experiment], []
    beside = known.get("params", {}).get("paper_cohort", {})
    there = set(scores.loc[scores["method"] == test.method, "cohort"])
    for number in numbers:
        for cohort in filter(there.__contains__, known["cohorts"]):
            if number["cohort"] in (cohort, beside.get(cohort)):
                place = _Place(config, experiment, cohort, test, Path(results))
                found.append(place.attribute(number["value"], scores))
    if not found:
        cohorts = ", ".join(number["cohort"] for number in numbers)
        remedy = "run it on that cohort, or map one of yours to it: params.paper_cohort of the experiment"
        raise FlagError(f"{experiment} has no run of {cohorts} in {results}", remedy=remedy)
    return found


def _made(experiments: list[str], results: Path, name: str) -> tuple[str, "pandas.DataFrame"]:
    """The first experiment whose scores are there."""
    for experiment in experiments:
        path = _scores_file(results, experiment)
        if path.exists():
            return experiment, read_scores(path)
    wanted = " or ".join(experiments)
    remedy = (
        f"snakemake --config 'make=[{experiments[0]}]', with the configuration of these results"
    )
    raise FlagError(f"claim {name} needs {wanted}, of which {results} has no scores", remedy=remedy)


def _scores_file(results: Path, experiment: str) -> Path:
    return results / "experiments" / experiment / "scores.parquet"


@dataclass(frozen=True)
class _Place:
    """The runs of the claim's method on one cohort of one experiment."""

    config: Mapping[str, Any]
    experiment: str
    cohort: str
    test: Test
    results: Path

    def attribute(self, printed: float, scores: "pandas.DataFrame") -> Attribution:
        column = self.test.column
        rows = self._rows(scores)
        ours = _value(rows, column)
        if not isfinite(ours):
            raise FlagError(f"{self.experiment} has no {column.metric} of {self.test.method}")
        steps = list(_same_predictions(rows, column))
        overlay: dict[str, Any] = {}
        for factor, change, entry, more in self._other_runs():
            made = f"{self.experiment}_{self.cohort}_{factor}"
            path, value = _scores_file(self.results, made), float("nan")
            if path.exists():
                value = _value(read_scores(path), column)
            else:
                overlay.setdefault("make", []).append(made)
                overlay.setdefault("experiments", {})[made] = entry
                for layer, entries in more.items():
                    overlay.setdefault(layer, {}).update(entries)
            steps.append(Step(factor.replace("_", " "), change, value, made))
        where = f"{self.test.method} on {self.cohort}, experiment {self.experiment}"
        return Attribution(column, printed, ours, where, steps, overlay)

    def _rows(self, scores: "pandas.DataFrame") -> "pandas.DataFrame":
        """The scores of the method on the first panel of the experiment."""
        panel = self.config["experiments"][self.experiment]["panels"][0]
        of = (scores["cohort"] == self.cohort) & (scores["method"] == self.test.method)
        return scores[of & (scores["panel"] == panel)]

    def _other_runs(self) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
        """Factor, its other value, the experiment that has it, and further entries of the overlay."""
        base = self._same_run()
        panel, method, seeds = base["panels"][0], self.test.method, base["seeds"]
        patients = "leave_one_patient_out"
        split = patients if base["split"] != patients else "random"
        yield "split", split, {**base, "split": split}, {}
        yield "panel", "hmhvg200_released", {**base, "panels": ["hmhvg200_released"]}, {}
        unit = "log2p1" if self.config["panels"][panel].get("transform") != "log2p1" else "log1p"
        same = {**self.config["panels"][panel], "transform": unit}
        more = {"panels": {f"{panel}_{unit}": same}}
        yield "unit", unit, {**base, "panels": [f"{panel}_{unit}"]}, more
        seeds = [max(seeds) + 1 + i for i in range(SEEDS)]
        yield "seeds", ", ".join(map(str, seeds)), {**base, "seeds": seeds}, {}
        # Whole entries, because an entry that has a base itself cannot be one.
        cohort, entry = self.config["cohorts"][self.cohort], self.config["methods"][method]
        scale = SCALE * cohort.get("prepare", {}).get("pixel_scale", 1)
        more = {f"{self.cohort}_pixels": merge(cohort, {"prepare": {"pixel_scale": scale}})}
        yield "pixel_size", "10 % larger", {**base, "cohorts": list(more)}, {"cohorts": more}
        if "training" in signature(registry.load(entry["use"])).parameters:
            more = {f"{method}_last": merge(entry, {"params": {"training": NEVER}})}
            yield (
                "validation",
                "the last weights",
                {**base, "methods": list(more)},
                {"methods": more},
            )

    def _same_run(self) -> dict[str, Any]:
        """The runs of the claim's method as an experiment of their own."""
        known = self.config["experiments"][self.experiment]
        column = {key: getattr(self.test.column, key) for key in ("metric", "estimator", "scope")}
        return {
            "script": "tables/main",
            "title": f"{known['title']}, one choice changed",
            "cohorts": [self.cohort],
            "split": known["split"],
            "panels": known["panels"][:1],
            "methods": [self.test.method],
            "seeds": known["seeds"],
            "params": {"columns": [column]},
        }


def _same_predictions(rows: "pandas.DataFrame", column: Column) -> Iterator[Step]:
    """What the scores of the same predictions say under another definition."""
    family = re.escape(re.sub(r"[^a-z].*", "", column.metric))
    names = sorted(n for n in set(rows["metric"]) if re.fullmatch(rf"{family}([\d_].*)?", n))
    others = [("pooling", text, {"scope": scope}) for scope, text in SCOPES.items()]
    others += [("estimator", text, {"estimator": name}) for name, text in ESTIMATORS.items()]
    others += [("definition", name, {"metric": name}) for name in names if not name.endswith(REST)]
    for factor, text, change in others:
        other = replace(column, **change)
        if other != column and isfinite(value := _value(rows, other)):
            yield Step(factor, text, value)


def _value(rows: "pandas.DataFrame", column: Column) -> float:
    """Mean over slides and seeds; NaN where the scores have no such value."""
    means = summarise(rows, [column])["mean"]
    return float(means.iloc[0]) if len(means) else float("nan")
