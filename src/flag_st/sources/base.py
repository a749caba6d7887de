"""What a source is: it knows its slides without data, and brings their files on request."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from flag_st.data.slide_files import SlideFiles, SlideRow

if TYPE_CHECKING:
    from flag_st.transfer.store import DownloadPlan


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

    def plan(self) -> "DownloadPlan | None":
        """What a download of all slides would transfer; None for sources that download nothing."""
        return None

    def check_access(self) -> None:
        """Raise FlagError where a download would be refused, with what to do about it."""

    @abstractmethod
    def fetch(self, slide: str, directory: Path) -> SlideFiles:
        """Bring the files of ``slide``: make, download into ``directory`` or just find them."""
