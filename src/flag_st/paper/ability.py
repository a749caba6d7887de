"""The place of a score between a null and a ceiling, as openproblems.bio scales its tasks.

A score alone does not say how much a method can do: real profiles placed at random already have most of
the gene-gene structure, and no prediction can agree with a noisy measurement perfectly. The ability is
(score - null) / (ceiling - null): 0 for a method that does not look at the image, 1 for the ceiling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flag_st.paper.experiment import Experiment

if TYPE_CHECKING:
    import pandas

PLACE = ["cohort", "panel", "column"]


@dataclass(frozen=True)
class Scale:
    """The two ends of the scale, which are methods of the experiment.

    Attributes:
        zero: the null: what is reached without the image.
        one: the ceiling: what is reached by knowing the truth.
    """

    zero: str
    one: str

    @classmethod
    def of(cls, experiment: Experiment) -> "Scale | None":
        """What ``params.scale`` asks for, if the experiment has both methods."""
        asked = experiment.params.get("scale")
        if not asked:
            return None
        scale = cls(**asked)
        return scale if {scale.zero, scale.one} <= set(experiment.methods) else None


def add_ability(
    numbers: "pandas.DataFrame",
    experiment: Experiment,
    ceilings: Mapping[tuple[str, str], float] | None = None,
) -> "pandas.DataFrame":
    """The numbers with the columns null, ceiling and ability; all NaN without a scale.

    Args:
        numbers: as ``summary.numbers_of`` returns them.
        experiment: its ``params.scale`` names the methods at both ends.
        ceilings: (cohort, metric) → a ceiling that takes precedence over that of a method, such as
            the value that a second measurement of the truth would attain.
    """
    scale, found = Scale.of(experiment), numbers.copy()
    for name, method in (("null", "zero"), ("ceiling", "one")):
        found[name] = float("nan")
        if scale:
            rows = numbers[numbers["method"] == getattr(scale, method)]
            means = rows.set_index(PLACE)["mean"]
            found[name] = [means.get(tuple(key)) for key in numbers[PLACE].to_numpy()]
    if ceilings:
        known = [ceilings.get(key) for key in zip(found["cohort"], found["metric"], strict=True)]
        found["ceiling"] = [
            new if new is not None else old
            for new, old in zip(known, found["ceiling"], strict=True)
        ]
    found[["null", "ceiling"]] = found[["null", "ceiling"]].astype(float)
    width = (found["ceiling"] - found["null"]).replace(0, float("nan"))
    found["ability"] = (found["mean"] - found["null"]) / width
    return found
