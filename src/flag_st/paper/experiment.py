"""What a table or figure knows of its experiment, built once from the parameters of the rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flag_st.core import registry
from flag_st.paper.columns import Column

#: Name of a value in the score table → its label, and +1, -1 or 0: whether higher or lower is better.
Labels = Mapping[str, tuple[str, int]]


@dataclass(frozen=True)
class MethodFacts:
    """What is known of a method.

    Attributes:
        label: its name for readers.
        params: the arguments of its class.
        stochastic: its draws differ.
        seeded: what it learns depends on the seed.
        needs_truth: it sees the truth, so that it bounds the other methods and does not compete.
        needs_patches: it reads pixels and not the features of an encoder.
        changed: its arguments, or those of what it is given, are not those that this project ships.
    """

    label: str
    params: Mapping[str, Any] = field(default_factory=dict)
    stochastic: bool = False
    seeded: bool = False
    needs_truth: bool = False
    needs_patches: bool = False
    changed: bool = False

    @property
    def random(self) -> bool:
        """Whether two seeds give two results."""
        return self.stochastic or self.seeded


@dataclass(frozen=True)
class CohortFacts:
    """What is known of a cohort.

    Attributes:
        use: the class that provides its slides.
        only: the slides that its entry restricts it to; empty for all of them.
        patients: slide → patient, "" where unknown.
    """

    use: str
    only: Sequence[str] = ()
    patients: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Absent:
    """A method that cannot be run on a cohort here, and why."""

    cohort: str
    method: str
    reason: str


@dataclass(frozen=True)
class Experiment:
    """What is known of an experiment: no file, and nothing about the machine.

    Attributes:
        name, title, caption: of the table or figure.
        reported: the printed table whose numbers stand beside ours.
        params: the script's own settings, ``params`` of the entry.
        cohorts, methods: name → facts, in the order of the entry.
        metrics: name → class of every metric of the configuration.
        absent: what cannot be run here.
    """

    name: str
    title: str
    caption: str
    reported: str
    params: Mapping[str, Any]
    cohorts: Mapping[str, CohortFacts]
    methods: Mapping[str, MethodFacts]
    metrics: Mapping[str, str]
    absent: Sequence[Absent] = ()

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Experiment":
        """From the plain mapping that the workflow passes, ``item`` in ``paper_common.smk``."""
        cohorts = {
            name: CohortFacts(
                cohort["use"], cohort["slides"] or (), plain["patients"].get(name, {})
            )
            for name, cohort in plain["cohorts"].items()
        }
        methods = {name: MethodFacts(**facts) for name, facts in plain["methods"].items()}
        absent = [Absent(**entry) for entry in plain["missing"]]
        same = ("name", "title", "caption", "reported", "params", "metrics")
        return cls(
            **{key: plain[key] for key in same}, cohorts=cohorts, methods=methods, absent=absent
        )

    @cached_property
    def columns(self) -> list[Column]:
        """The columns that ``params.columns`` asks for."""
        return [Column(**entry) for entry in self.params["columns"]]

    @cached_property
    def labels(self) -> Labels:
        """Labels and directions of all values that the metrics of the configuration return."""
        labels: dict[str, tuple[str, int]] = {}
        for use in self.metrics.values():
            labels |= registry.load(use).columns
        return labels

    def label(self, method: str) -> str:
        """The name of a method for readers."""
        return self.methods[method].label

    def paper_cohort(self, cohort: str) -> str:
        """The paper's cohort whose numbers stand beside those of ``cohort``.

        It is the one of the same name, unless ``params.paper_cohort`` names another.
        """
        return self.params.get("paper_cohort", {}).get(cohort, cohort)

    def patients_of(self, cohort: str, slides: Sequence[str]) -> dict[str, str]:
        """Slide → patient; a slide whose patient is unknown counts as a patient of its own."""
        known = self.cohorts[cohort].patients
        return {slide: known.get(slide) or slide for slide in slides}
