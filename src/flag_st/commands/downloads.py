"""``flag-st downloads``: what a run would bring, and whether it may. Nothing is transferred."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from flag_st.core.errors import FlagError
from flag_st.planning.grid import Plan
from flag_st.transfer.store import Plan as Transfer
from flag_st.transfer.store import human
from flag_st.transfer.weights import checkpoints


class Origin(Protocol):
    """Where files come from: a cohort's source, or one file of a model."""

    def plan(self) -> Transfer | None: ...

    def check_access(self) -> None: ...


def downloads(config: dict[str, Any]) -> int:
    """Print the transfers of a configuration, and all faults at once.

    Returns:
        0 if all of it is here or can be had and fits, else 1.
    """
    total = 0
    faults: dict[str, list[str]] = {}  # one shut gate may stop several
    for name, origin in origins(Plan(config)):
        try:
            transfer = _allowed(origin)
        except FlagError as error:
            faults.setdefault(str(error), []).append(name)
            continue
        if transfer is not None:
            total += transfer.need
            print(f"{name}: {str(transfer).splitlines()[0]}")
    print(f"{human(total)} to download" + ", and what could not be asked for" * bool(faults))
    for message, names in faults.items():
        print(f"fault: {', '.join(names)}: {message}", file=sys.stderr)
    if faults:
        number = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
        print(f"{number}; what to ask for and where: config/MODELS.md", file=sys.stderr)
    return int(bool(faults))


def origins(plan: Plan) -> Iterator[tuple[str, Origin]]:
    """Cohorts, encoders and gene models in use, with where their files come from."""
    runs = [run for name in plan.config["make"] for run in plan.runs(name)]
    for cohort in dict.fromkeys(run.cohort for run in runs):
        yield cohort, plan.source(cohort)
    methods = [plan.config["methods"][name] for name in dict.fromkeys(run.method for run in runs)]
    for layer, key in (("encoders", "encoder"), ("gene_models", "gene_model")):
        for name in dict.fromkeys(method[key] for method in methods if method[key]):
            entry = plan.config[layer][name]
            for place in checkpoints(entry):
                yield name, place
            if entry.get("params", {}).get("weights", "") is None and not any(checkpoints(entry)):
                yield name, ByHand(f"{layer}.{name}")


@dataclass(frozen=True)
class ByHand:
    """Weights that their authors publish where no program should fetch them."""

    entry: str

    def plan(self) -> None:
        raise FlagError(
            "its weights are to be brought by hand",
            remedy=f"set {self.entry}.params.weights to their folder",
        )

    def check_access(self) -> None:
        """Nobody is asked."""


def _allowed(origin: Origin) -> Transfer | None:
    """What would be transferred, None if nothing ever is.

    Raises:
        FlagError: it is not to be had: no login, gate not accepted, no space, hub out of reach.
    """
    transfer = origin.plan()
    if transfer is not None and transfer.need:
        origin.check_access()
        transfer.check_space()
    return transfer
