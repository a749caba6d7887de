"""What a source is: it knows its slides without data, and brings their files on request."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flag_st.transfer.store import Plan


@dataclass(frozen=True)
class SlideRow:
    """One row of a slide sheet.

    Attributes:
        id: slide name; letters, digits, ``.``, ``_`` and ``-`` only, since it becomes a path.
        patient: donor; empty means unknown, and then a split by patient is refused.
        section: order among the serial sections of one patient, or "".
        fold: part that a fixed split puts the slide in (train, valid, test), or "".
    """

    id: str
    patient: str = ""
    section: str = ""
    fold: str = ""


@dataclass(frozen=True)
class SlideFiles:
    """Files of one slide in HEST-1k layout; at least one of ``wsi`` and ``patches`` is there.

    ``labels``, tab-separated ``barcode`` and ``label`` of the spots that experts assigned to a domain,
    is no part of HEST-1k; where it is absent, counts may say it in ``obs`` (``prepare.DOMAINS``).
    """

    st: Path
    metadata: Path
    wsi: Path | None = None
    patches: Path | None = None
    labels: Path | None = None

    def items(self) -> dict[str, Path]:
        return {k: v for k, v in vars(self).items() if v is not None}


class Source(ABC):
    """Where a cohort's slides come from. Constructed while Snakemake plans: imports stay light."""

    @abstractmethod
    def slides(self) -> list[SlideRow]:
        """The slide sheet; must not need any data to be there."""

    def inputs(self, slide: str) -> list[Path]:
        """Local files that ``fetch`` reads, so that an edit of them is noticed."""
        return []

    def local(self, slide: str) -> SlideFiles | None:
        """The files of ``slide`` if they are on this machine without any fetching, else None."""
        return None

    def plan(self) -> "Plan | None":
        """What a download of all slides would transfer; None for sources that download nothing."""
        return None

    def check_access(self) -> None:
        """Raise FlagError where a download would be refused, with what to do about it."""

    @abstractmethod
    def fetch(self, slide: str, directory: Path) -> SlideFiles:
        """Bring the files of ``slide``: make, download into ``directory`` or just find them."""
