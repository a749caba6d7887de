"""Faults of a whole cohort: of each of its slides, of the genes that they share, and slides that are one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flag_st.core.errors import Faults
from flag_st.data.check_copies import check_copies, gene_names
from flag_st.data.check_slide import check_counts, check_slide, overlapping_spots
from flag_st.data.slide_files import SlideFiles


def check_cohort(
    files: Mapping[str, SlideFiles],
    panels: Mapping[str, int],
    prepare: Mapping[str, Any],
    further: Mapping[str, Path] | None = None,
) -> Faults:
    """All faults of all slides, whether they share enough genes for every panel, and which are one section.

    Args:
        files: the files of each slide, by slide id.
        panels: how many genes the slides must share for each panel, by name.
        prepare: the key ``prepare`` of the cohort's entry.
        further: counts of sections without an image that gene models learn from, by name.
    """
    faults = Faults()
    names: dict[str, list[str]] = {}
    known = ("patches_from", "unique_genes", "pixel_scale", "check_places")
    options = {k: v for k, v in prepare.items() if k in known}
    for slide, own in files.items():
        found = check_slide(own, slide, **options)
        faults.extend(found)
        if not found.messages:
            names[slide] = gene_names(own.st)
    for panel, size in panels.items() if names else ():
        faults.extend(check_common_genes(names, size, panel))
    unique = prepare.get("unique_genes", True)
    sound = {}
    for section, path in (further or {}).items():
        faults.extend(found := check_counts(path, unique))
        sound |= {} if found.messages else {section: path}
    faults.extend(check_copies({slide: files[slide] for slide in names}, names, sound))
    return faults


def cohort_warnings(files: Mapping[str, SlideFiles], prepare: Mapping[str, Any]) -> list[str]:
    """What looks wrong but stops nothing; a corrected pixel size needs no warning.

    Args:
        files, prepare: as for ``check_cohort``.
    """
    if "pixel_scale" in prepare:
        return []
    return [text for own in files.values() if (text := overlapping_spots(own.metadata))]


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
        fault += f"; without {worst} ({len(sets[worst])} genes) they share {without(worst)}"
        remedies.append(f"take {worst} out")
    checked = "check that all slides name their genes in the same way (symbols, not ids)"
    faults.add(fault, remedy=f"{', or '.join(remedies)}; {checked}" if remedies else checked)
    return faults
