"""What a source is: it knows its slides without any data, and provides their files on request."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from flag_st.core.errors import FlagError
from flag_st.data.slide_files import SlideFiles, SlideRow

if TYPE_CHECKING:
    from flag_st.transfer.store import DownloadPlan


class Source(ABC):
    """Where the slides of a cohort come from.

    Snakemake constructs sources while it plans, so their modules import nothing heavy at the top.

    Class attributes:
        listed: the name under which ``config/sources.tsv`` lists the licence of its slides; "" where
            the slides are the user's own or made here.
    """

    listed: ClassVar[str] = ""

    @abstractmethod
    def slides(self) -> list[SlideRow]:
        """The slide sheet; it must be known before any data are there."""

    def inputs(self, slide: str) -> list[Path]:
        """The local files that ``fetch`` reads; if one changes, the slide is retrieved again."""
        return []

    def local(self, slide: str) -> SlideFiles | None:
        """The files of ``slide`` if they are on this machine already, else None."""
        return None

    def check(self, slide: str) -> None:
        """Look at the local files of ``slide`` as ``fetch`` would, without writing anything.

        Raises:
            FlagError: ``fetch`` would refuse the slide; all faults are named.
        """

    def plan(self) -> "DownloadPlan | None":
        """What a download of all slides would transfer; None if the source downloads nothing."""
        return None

    def check_access(self) -> None:
        """Raise FlagError, with a remedy, if the origin would refuse the download."""

    def counts_only(self) -> list[SlideRow]:
        """Sections with counts and no image, from which a gene model may learn; they are no slides."""
        return []

    def counts(self, slide: str) -> Path:
        """The file of counts of a section of ``counts_only``, in the layout of ``st/<id>.h5ad``.

        Raises:
            FlagError: there is no such section, or its file is not there.
        """
        raise FlagError(f"{type(self).__name__} has no section {slide} with counts and no image")

    @abstractmethod
    def fetch(self, slide: str, directory: Path) -> SlideFiles:
        """Find, download or make the files of ``slide``; ``directory`` is where new files may go."""
