"""Whether the slides of a cohort have the genes that a panel asks for, before anything is prepared."""

from collections.abc import Mapping, Sequence
from typing import Any

from flag_st.core.errors import Faults, FlagError
from flag_st.data.panels import rankable, read_vocabulary

#: Keys of a panel's entry that decide by names alone which of the common genes are ranked.
FILTERS = ("drop_prefixes", "genes", "vocabulary")


def check_panel(
    names: Mapping[str, Sequence[str]],
    panel: str,
    entry: Mapping[str, Any],
    variable: Mapping[str, set[str]],
) -> Faults:
    """What ``panels.select_panel`` would refuse later on.

    Args:
        names: the names of the genes of each slide.
        panel: name of the panel, for messages.
        entry: its entry, as ``planning.grid.Plan.panels`` returns it.
        variable: the ``hvg`` most variable genes of each slide; empty if the entry does not ask for them.
    """
    wanted = entry.get("size") or entry["top"]
    faults = check_common_genes(names, wanted, panel)
    lacking = {
        g: [s for s, known in names.items() if g not in known] for g in entry.get("genes") or ()
    }
    lacking = {gene: slides for gene, slides in lacking.items() if slides}
    if lacking:
        some = "; ".join(
            f"{g} is not in {', '.join(slides[:3])}" for g, slides in list(lacking.items())[:3]
        )
        faults.add(
            f"panel {panel} lists {len(lacking)} genes that some slides lack: {some}",
            remedy="take them out of genes, or those slides out of the cohort; check that all slides name their "
            "genes in the same way (symbols, not ids)",
        )
    if faults.messages:
        return faults
    used = {key: entry[key] for key in FILTERS if entry.get(key)}
    try:
        if "vocabulary" in used:
            used["vocabulary"] = read_vocabulary(used["vocabulary"])
        left = rankable(list(names.values()), entry.get("size"), **used)
    except FlagError as error:
        faults.messages.append(f"panels.{panel}: {error}")
        return faults
    if len(left) < wanted:
        faults.add(
            f"panel {panel} wants {wanted} genes, and of those that all slides share {', '.join(used)} leave {len(left)}",
            remedy=f"set the size (or top) of panel {panel} to {len(left)} or fewer, or leave fewer genes out",
        )
        return faults
    _check_variable(panel, wanted, entry, set(left), variable, faults)
    return faults


def _check_variable(
    panel: str,
    wanted: int,
    entry: Mapping[str, Any],
    left: set[str],
    variable: Mapping[str, set[str]],
    faults: Faults,
) -> None:
    """Whether enough genes are among the most variable ones of the slides that choose, in every split."""
    complete = [
        slides for slides in entry.get("fits", ()) if variable and set(slides) <= set(variable)
    ]
    kept = [(len(left.intersection(*[set.union(*(variable[s] for s in f))])), f) for f in complete]
    number, slides = min(kept, default=(wanted, ()))
    if number < wanted:
        faults.add(
            f"panel {panel} wants {wanted} genes, and {number} are left among the {entry['hvg']} most variable ones "
            f"of each of {', '.join(slides[:5])}{' and others' if len(slides) > 5 else ''}",
            remedy=f"raise hvg of panel {panel}, or set its size (or top) to {number} or fewer",
        )


def check_common_genes(
    names_per_slide: Mapping[str, Sequence[str]], wanted: int, panel: str
) -> Faults:
    """Whether all slides share at least ``wanted`` genes, which the panel needs."""
    faults = Faults()
    sets = {slide: set(names) for slide, names in names_per_slide.items()}
    common = set.intersection(*sets.values()) if sets else set()
    if len(common) >= wanted:
        return faults
    fault = f"panel {panel} wants {wanted} genes, {len(sets)} slides share {len(common)}"
    smaller = f"set the size (or top) of panel {panel} to {len(common)} or fewer"
    remedies = [smaller] if common else []
    if len(sets) > 1:

        def without(slide: str) -> int:
            return len(set.intersection(*(sets[other] for other in sets if other != slide)))

        worst = max(sets, key=without)
        if without(worst) > len(common):
            fault += f"; without {worst} ({len(sets[worst])} genes) they share {without(worst)}"
            remedies.append(f"take {worst} out")
    checked = "check that all slides name their genes in the same way (symbols, not ids)"
    faults.add(fault, remedy=f"{', or '.join(remedies)}; {checked}" if remedies else checked)
    return faults
