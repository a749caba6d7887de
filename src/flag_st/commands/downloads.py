"""``flag-st downloads``: what a run would download, and whether the user's login may."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from flag_st.core.errors import FlagError
from flag_st.planning.grid import Plan
from flag_st.transfer.store import DownloadPlan, human
from flag_st.transfer.weights import checkpoints


class Origin(Protocol):
    """Where files come from: the source of a cohort, or one file of a published model."""

    def plan(self) -> DownloadPlan | None: ...

    def check_access(self) -> None: ...


def list_downloads(config: dict[str, Any]) -> int:
    """Print what a configuration would download, and all faults; nothing is transferred.

    Returns:
        0 if everything is here already, or may be downloaded and fits on the disk; else 1.
    """
    total = 0
    faults: dict[str, list[str]] = {}  # message → names, since one closed gate may concern several
    for name, origin in origins(Plan(config)):
        try:
            plan = _allowed(origin)
        except FlagError as error:
            faults.setdefault(str(error), []).append(name)
            continue
        if plan is not None:
            total += plan.need
            print(f"{name}: {str(plan).splitlines()[0]}")
    print(f"{human(total)} to download" + ", without what the faults below concern" * bool(faults))
    for message, names in faults.items():
        print(f"fault: {', '.join(dict.fromkeys(names))}: {message}", file=sys.stderr)
    if faults:
        number = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
        print(f"{number}; what to ask for and where: config/MODELS.md", file=sys.stderr)
    return int(bool(faults))


def origins(plan: Plan) -> Iterator[tuple[str, Origin]]:
    """Name and origin of every cohort, encoder and gene model in use."""
    runs = [run for name in plan.config["make"] for run in plan.runs(name)]
    for cohort in dict.fromkeys(run.cohort for run in runs):
        yield cohort, plan.source(cohort)
    methods = [plan.config["methods"][name] for name in dict.fromkeys(run.method for run in runs)]
    for layer, keys in (("encoders", ["encoder"]), ("gene_models", ["gene_model", "backbone"])):
        used = (method.get(key) for key in keys for method in methods)
        for name in dict.fromkeys(filter(None, used)):
            entry = plan.config[layer][name]
            for place in checkpoints(entry):
                yield name, place
            if entry.get("params", {}).get("weights", "") is None and not any(checkpoints(entry)):
                yield name, ByHand(f"{layer}.{name}")


@dataclass(frozen=True)
class ByHand:
    """Weights that a person has to fetch: no program should, from where they are published."""

    entry: str

    def plan(self) -> None:
        raise FlagError(
            "its weights must be downloaded by hand",
            remedy=f"set {self.entry}.params.weights to their folder",
        )

    def check_access(self) -> None:
        """Nothing to ask: ``plan`` has raised already."""


def _allowed(origin: Origin) -> DownloadPlan | None:
    """What would be downloaded; None for an origin that downloads nothing.

    Raises:
        FlagError: the download would fail: no login, conditions not accepted, too little space,
            or no connection.
    """
    plan = origin.plan()
    if plan is not None and plan.need:
        origin.check_access()
        plan.check_space()
    return plan
