"""Faults of a whole cohort: of each of its slides, of the genes that they share, and slides that are one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flag_st.core.errors import Faults
from flag_st.data.check_copies import check_copies, gene_names
from flag_st.data.check_panels import check_panel
from flag_st.data.check_slide import check_counts, check_slide, overlapping_spots
from flag_st.data.panels import highly_variable_union
from flag_st.data.patch_file import IMAGE_WANTED
from flag_st.data.prepare import used_spots
from flag_st.data.slide_files import SlideFiles


def check_cohort(
    files: Mapping[str, SlideFiles],
    panels: Mapping[str, Mapping[str, Any]],
    prepare: Mapping[str, Any],
    further: Mapping[str, Path] | None = None,
    fields: Mapping[str, int] | None = None,
) -> Faults:
    """All faults of all slides, whether they share enough genes for every panel, and which are one section.

    Args:
        files: the files of each slide, by slide id.
        panels: the entries of the panels, by name, as ``check_panel`` takes them.
        prepare: the key ``prepare`` of the cohort's entry.
        further: counts of sections without an image that gene models learn from, by name.
        fields: the encoders that patches of another field of view are cut for, and that field in µm.
    """
    faults = check_images(files, fields or {})
    names: dict[str, list[str]] = {}
    for slide, own in files.items():
        found = check_slide(own, slide, **prepare)
        faults.extend(found)
        if not found.messages:
            names[slide] = gene_names(own.st)
    sound = {slide: files[slide] for slide in names}
    for panel, entry in panels.items() if names else ():
        variable = _variable_genes(sound, entry.get("hvg"), prepare)
        faults.extend(check_panel(names, panel, entry, variable))
    counted = {key: prepare[key] for key in ("unique_genes", "min_counts") if key in prepare}
    counts: dict[str, Path] = {}
    for section, path in (further or {}).items():
        faults.extend(found := check_counts(path, **counted))
        counts |= {} if found.messages else {section: path}
    faults.extend(check_copies(sound, names, counts))
    return faults


def check_images(files: Mapping[str, SlideFiles], fields: Mapping[str, int]) -> Faults:
    """Whether there is an image to cut from, where an encoder has a field of view of its own."""
    faults = Faults()
    without = [slide for slide, own in files.items() if own.wsi is None]
    if not fields or not without:
        return faults
    names = ", ".join(f"{encoder} ({field} µm)" for encoder, field in fields.items())
    faults.add(
        f"{', '.join(without)}: there are ready-made patches and no slide image, which the patches of the encoder "
        f"{names} have to be cut from, since their field of view is another",
        remedy=IMAGE_WANTED,
    )
    return faults


def _variable_genes(
    files: Mapping[str, SlideFiles], number: int | None, prepare: Mapping[str, Any]
) -> dict[str, set[str]]:
    """The most variable genes of each slide, by the spots that are used of it."""
    if number is None:
        return {}
    kept = {key: prepare[key] for key in ("min_counts", "patches_from") if key in prepare}
    return {
        slide: highly_variable_union([used_spots(own, **kept)[0]], number)
        for slide, own in files.items()
    }


def cohort_warnings(files: Mapping[str, SlideFiles], prepare: Mapping[str, Any]) -> list[str]:
    """What looks wrong but stops nothing; a corrected pixel size needs no warning.

    Args:
        files, prepare: as for ``check_cohort``.
    """
    if "pixel_scale" in prepare:
        return []
    return [text for own in files.values() if (text := overlapping_spots(own.metadata))]
