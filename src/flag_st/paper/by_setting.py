"""The numbers of methods that differ in one setting, such as their number of steps."""

from typing import TYPE_CHECKING

from flag_st.paper.experiment import Experiment
from flag_st.paper.tables.settings import settings_of

if TYPE_CHECKING:
    import pandas


def by_setting(
    experiment: Experiment, numbers: "pandas.DataFrame", runs: "pandas.DataFrame"
) -> "pandas.DataFrame":
    """``numbers`` once for each setting, with the methods that differ from the first in it alone.

    Args:
        experiment: ``params.settings`` maps the name of each setting, such as ``sampling.budget``, to
            its ``label`` and to the setting ``unset`` whose number holds where it has none.
        numbers: as ``summary.numbers_of`` returns them.
        runs: as collected; they hold the settings of every method.

    Returns:
        The rows of ``numbers`` with the label as ``setting`` and the number as ``value``.
    """
    import pandas as pd

    known = {method: settings_of(runs, method) for method in numbers["method"].unique()}
    first = known[next(method for method in experiment.methods if method in known)]
    asked, parts = experiment.params["settings"], []
    for name, how in asked.items():
        others = [other for other in asked if other != name]
        values = {
            method: settings[how["unset"]] if settings[name] is None else settings[name]
            for method, settings in known.items()
            if all(settings[other] == first[other] for other in others)
        }
        part = numbers[numbers["method"].isin(values)]
        parts.append(part.assign(setting=how["label"], value=part["method"].map(values)))
    return pd.concat(parts, ignore_index=True)
