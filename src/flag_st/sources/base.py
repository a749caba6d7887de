"""What a source is: it knows its slides without any data, and provides their files on request."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from flag_st.data.slide_files import SlideFiles, SlideRow

if TYPE_CHECKING:
    from flag_st.transfer.store import DownloadPlan


class Source(ABC):
    """Where the slides of a cohort come from.

    Snakemake constructs sources while it plans, so their modules import nothing heavy at the top.
    """

    @abstractmethod
    def slides(self) -> list[SlideRow]:
        """The slide sheet; it must be known before any data are there."""

    def inputs(self, slide: str) -> list[Path]:
        """The local files that ``fetch`` reads; if one changes, the slide is retrieved again."""
        return []

    def local(self, slide: str) -> SlideFiles | None:
        """The files of ``slide`` if they are on this machine already, else None."""
        return None

    def plan(self) -> "DownloadPlan | None":
        """What a download of all slides would transfer; None if the source downloads nothing."""
        return None

    def check_access(self) -> None:
        """Raise FlagError, with a remedy, if the origin would refuse the download."""

    @abstractmethod
    def fetch(self, slide: str, directory: Path) -> SlideFiles:
        """Find, download or make the files of ``slide``; ``directory`` is where new files may go."""
