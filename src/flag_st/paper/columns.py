"""A column of a table, or a panel of a figure: which value of the score table it shows."""

from collections.abc import Sequence
from dataclasses import dataclass

from flag_st.core.errors import FlagError

#: Value of a column's ``estimator`` or ``scope`` → how a heading says it.
ESTIMATORS = {
    "point": "point",
    "mean": "mean of draws",
    "draw": "one draw",
    "ensemble": "all draws",
}
SCOPES = {"slide": "per slide", "pooled": "pooled"}
#: Direction of a metric → the arrow after its label.
ARROWS = {1: " ↑", -1: " ↓", 0: ""}


@dataclass(frozen=True)
class Column:
    """One column of our numbers.

    Attributes:
        metric: name in the score table.
        estimator: ``point`` (the method's own estimate), ``mean`` (of the draws), ``draw`` (the mean
            over single draws) or ``ensemble`` (all draws together).
        scope: ``slide`` (mean over test slides) or ``pooled`` (all test spots at once).
        paper: name in ``config/reported.csv`` of the printed number beside it, or "" for none.
        heading: replaces what the heading says of estimator and scope.

    Raises:
        FlagError: an unknown estimator or scope.
    """

    metric: str
    estimator: str = "point"
    scope: str = "slide"
    paper: str = ""
    heading: str = ""

    def __post_init__(self) -> None:
        for name, choices in (("estimator", ESTIMATORS), ("scope", SCOPES)):
            if (value := getattr(self, name)) not in choices:
                raise FlagError(f"column {self.metric}: {name} {value!r}", choices=choices)

    def words(self, columns: Sequence["Column"]) -> str:
        """Scope and estimator, where they distinguish this column from others of its metric."""
        same = [column for column in columns if column.metric == self.metric]
        words = []
        if len({column.scope for column in same}) > 1 or len(same) == 1:
            words.append(SCOPES[self.scope])
        if len({column.estimator for column in same}) > 1:
            words.append(ESTIMATORS[self.estimator])
        return ", ".join(words)
