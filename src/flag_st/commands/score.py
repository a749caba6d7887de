"""``flag-st score``: the metrics asked for, for one prediction file and its truth."""

from collections.abc import Mapping, Sequence
from typing import Any

from flag_st.core import registry
from flag_st.core.errors import FlagError


def score(
    config: dict[str, Any], truth: str, prediction: str, names: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """Metric → estimator → value.

    Args:
        config: as ``flag_st.planning.config.load`` returns it.
        truth, prediction: h5ad files of the same spots and genes.
        names: the metrics, as entries of the configuration; None takes all.

    Raises:
        FlagError: an unknown metric, or a file that cannot be scored.
    """
    from flag_st.scoring.files import score_files

    entries = config["metrics"]
    chosen = names or list(entries)
    if unknown := sorted(set(chosen) - set(entries)):
        raise FlagError(f"no metric {', '.join(unknown)}", choices=entries)
    metrics = {n: registry.build(entries[n]["use"], entries[n].get("params", {})) for n in chosen}
    return score_files(truth, prediction, metrics)


def as_text(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A table with one row per metric and one column per estimator."""
    names = list(dict.fromkeys(n for values in scores.values() for n in values))
    lines = [f"{'metric':28}" + "".join(f"{name:>12}" for name in names)]
    for metric, values in scores.items():
        cells = [f"{values[n]:12.4f}" if n in values else " " * 11 + "–" for n in names]
        lines.append(f"{metric:28}" + "".join(cells))
    return "\n".join(lines)


def as_json(scores: Any) -> Any:
    """The same with null for undefined values, because JSON has no NaN."""
    if isinstance(scores, dict):
        return {name: as_json(value) for name, value in scores.items()}
    return None if scores != scores else scores
