"""What a cohort's slide sheet says about a slide, and the files that the slide consists of."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SlideRow:
    """One row of a slide sheet.

    Attributes:
        id: name of the slide. It becomes part of paths, so it holds only letters, digits, ``.``,
            ``_`` and ``-``.
        patient: donor, or "" if unknown; a split by patient then refuses the slide.
        section: place among the serial sections of one patient, or "".
        fold: part of a fixed split that the slide belongs to (train, valid or test), or "".
    """

    id: str
    patient: str = ""
    section: str = ""
    fold: str = ""


@dataclass(frozen=True)
class SlideFiles:
    """Files of one slide in HEST-1k layout; at least one of ``wsi`` and ``patches`` is given.

    Attributes:
        st: h5ad of raw counts and spot positions.
        metadata: JSON with HEST's keys.
        wsi: slide image.
        patches: HDF5 of patches that were cut beforehand.
        labels: tab-separated ``barcode`` and ``label`` of the spots that experts assigned to a
            domain. HEST-1k has no such file; without it, a column of the counts' ``obs`` may hold
            the domains (``prepare.DOMAINS``).
    """

    st: Path
    metadata: Path
    wsi: Path | None = None
    patches: Path | None = None
    labels: Path | None = None

    def items(self) -> dict[str, Path]:
        """The paths that are given, by field name."""
        return {k: v for k, v in vars(self).items() if v is not None}
