"""Claims that systems of the field have printed, judged where a run of this project can tell."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError
from flag_st.paper.claims import Claim, Claims, Judged, Test, judge, read_test
from flag_st.paper.experiment import Experiment
from flag_st.paper.reported import FIELDS, paper_of

if TYPE_CHECKING:
    import pandas

#: In place of a table of ``config/reported.csv``, where a claim brings its own numbers.
OWN = "court_claim"


@dataclass(frozen=True)
class Tried:
    """An experiment that was made, with its scores and its runs as collected."""

    experiment: Experiment
    scores: "pandas.DataFrame"
    runs: "pandas.DataFrame"


@dataclass(frozen=True)
class Court:
    """Claims that can be judged by the rules of ``paper.claims``, whatever system they are about.

    Attributes:
        entries: name → entry of ``config/court.yaml``.
        known: the claims of ``config/claims.yaml``.
        reported: the printed numbers of all tables.
    """

    entries: Mapping[str, Mapping[str, Any]]
    known: Claims
    reported: "pandas.DataFrame"

    @cached_property
    def tests(self) -> dict[str, Claim]:
        """Name → rule and test of every claim that has a run.

        Raises:
            FlagError: a test has unknown keys or lacks one.
        """
        return {name: self._claim(name) for name, entry in self.entries.items() if "run" in entry}

    def _claim(self, name: str) -> Claim:
        entry = self.entries[name]
        run = entry["run"]
        if same := run.get("judged_as"):
            if same not in self.known.entries:
                choices = sorted(self.known.entries)
                raise FlagError(f"court, claim {name}: no claim {same!r}", choices=choices)
            return self.known.entries[same]
        test = read_test(f"court, test of claim {name}", run["test"])
        texts = entry["claim"], entry["where"], entry.get("table", OWN), "", run["rule"]
        return Claim(*texts, test)

    def printed(self, name: str, beside: str = "") -> "pandas.DataFrame":
        """The printed numbers that a claim rests on, in the columns of ``config/reported.csv``.

        Args:
            name: the claim.
            beside: the printed table beside the experiment that tests it, which is preferred to the
                claim's own if it is of the same paper: it may be about other cohorts.
        """
        import pandas as pd

        entry, claim = self.entries[name], self.tests[name]
        if claim.table != OWN:
            table = beside if paper_of(beside) == paper_of(claim.table) else claim.table
            return self.reported[self.reported["table"] == table].reset_index(drop=True)
        return pd.DataFrame(list(_rows(entry, claim.test)), columns=FIELDS).fillna(
            dict.fromkeys([f for f in FIELDS if f not in ("value", "std")], "")
        )

    def judge(self, tried: Mapping[str, Tried]) -> "pandas.DataFrame":
        """Judge every claim in every experiment that it names and that was made.

        Returns:
            One row of ``Judged`` for each claim, experiment, cohort and panel, with the experiment.
        """
        import pandas as pd

        columns = ["experiment", *Judged.__dataclass_fields__]
        parts = [pd.DataFrame(columns=columns)]
        for name, claim in self.tests.items():
            for made in self.entries[name]["run"]["experiments"]:
                if made in tried:
                    found = tried[made]
                    asked = Claims({name: claim}, self.known.tested)
                    printed = self.printed(name, found.experiment.reported)
                    rows = judge(asked, found.experiment, found.scores, found.runs, printed)
                    parts.append(rows.assign(experiment=made))
        return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)[columns]


def _rows(entry: Mapping[str, Any], test: Test) -> Iterator[dict[str, Any]]:
    """What the entry states of its protocol and its numbers, in the form of a printed table.

    A cohort is the paper's only if ``protocol.shared`` says so. A method of which nothing is stated has
    no row, so that any encoder and any gene model will do.
    """
    protocol = entry["protocol"]
    stated = {"table": OWN, "panel": protocol.get("panel"), "split": protocol.get("split")}
    encoders = {test.method: protocol["encoder"]} if "encoder" in protocol else {}
    for cohort in protocol.get("shared", [protocol.get("cohort", "not stated")]):
        yield {**stated, "cohort": cohort}
        for method in (*encoders, *entry["run"].get("rivals", ())):
            yield {**stated, "cohort": cohort, "method": method, "encoder": encoders.get(method)}
    for number in entry.get("numbers", ()):
        if "method" in number:
            keys = ("cohort", "method", "metric", "value")
            yield {**stated, **{key: number.get(key) for key in keys}}
