"""What the sources for a user's own sections share: root, slide sheet, images, and the conversion."""

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError
from flag_st.core.io import digest
from flag_st.data.slide_files import SlideFiles, SlideRow
from flag_st.slides.suffixes import SUFFIXES
from flag_st.sources.base import Source
from flag_st.sources.folder import check_id, check_ids, locate, read_records, read_sheet

if TYPE_CHECKING:
    from flag_st.sources.section import Section


class OwnFiles(Source):
    """Sections on this machine that are converted to HEST-1k layout when a run retrieves them.

    Args:
        root: folder of the sections. Paths in the sheet are relative to it.
        sheet: tab-separated table with the column ``slide`` and, where they are needed, ``patient``,
            ``section``, ``fold``, ``image`` (the image at full resolution) and ``pixel_um`` (its µm per
            pixel). Without a sheet the folder is searched, and the patients are unknown.
        pixel_um: µm per pixel of all images, where the user knows it.
    """

    #: What ``root`` must hold, for messages.
    wanted = "sections"

    def __init__(
        self,
        root: str | Path | None = None,
        sheet: str | Path | None = None,
        pixel_um: float | None = None,
    ):
        self.given_root = None if root is None else Path(root)
        self.sheet = None if sheet is None else locate(sheet)
        self.pixel_um = pixel_um

    @abstractmethod
    def found(self) -> list[str]:
        """The names of the sections below ``root``, where there is no sheet."""

    @abstractmethod
    def files(self, slide: str) -> list[Path]:
        """The files that ``read`` reads besides the image; only those that exist."""

    @abstractmethod
    def read(self, slide: str) -> "Section":
        """Read and check a section.

        Raises:
            FlagError: the section has faults; all that could be looked for are named.
        """

    @property
    def root(self) -> Path:
        """The folder of the sections.

        Raises:
            FlagError: it is not given or does not exist.
        """
        name, root = type(self).__name__, self.given_root
        if root is None:
            raise FlagError(
                f"the source {name} has no root",
                remedy="give it on the command line: --config root=DIR",
            )
        if not root.is_dir():
            raise FlagError(
                f"root {root} is not a directory",
                remedy=f"give the folder that holds {self.wanted}: --config root=DIR",
            )
        return root

    def slides(self) -> list[SlideRow]:
        """The rows of the sheet or, without one, the sections that are found below ``root``."""
        if self.sheet is not None:
            return read_sheet(self.sheet)
        if not (names := self.found()):
            raise FlagError(
                f"{self.root} holds none of {self.wanted}",
                remedy="correct root, or name the sections in a slide sheet: params: {sheet: FILE}",
            )
        return [SlideRow(name) for name in check_ids(sorted(names), self.root)]

    def inputs(self, slide: str) -> list[Path]:
        """The files of ``slide`` that exist, the image among them."""
        return [*self.files(slide), *self.images(slide)]

    def check(self, slide: str) -> None:
        # A missing folder is one fault of all slides, which is told once, and not one of every file.
        _ = self.root
        self.read(slide)

    def fetch(self, slide: str, directory: Path) -> SlideFiles:
        """Convert ``slide`` into ``directory``, unless an earlier conversion is up to date."""
        from flag_st.sources.section import VERSION, write_section, written

        made_from = {"version": VERSION, "settings": self.settings(slide)}
        made_from |= {"files": [[p.name, digest(p)] for p in self.evidence(slide)]}
        if known := written(directory, slide, made_from):
            return known
        patient = self.line(slide).get("patient", "")
        facts = {"patient": patient} if patient else {}
        return write_section(self.read(slide), directory, slide, made_from, facts)

    def evidence(self, slide: str) -> list[Path]:
        """The files and folders whose content decides what a conversion gives."""
        return self.inputs(slide)

    def settings(self, slide: str) -> dict[str, Any]:
        """What a conversion depends on besides files."""
        known = {k: v for k, v in vars(self).items() if k not in ("given_root", "sheet")}
        return {**known, "line": self.line(slide)}

    def line(self, slide: str) -> dict[str, str]:
        """The line of ``slide`` in the sheet, as column → text; the slide alone without a sheet.

        Raises:
            FlagError: the sheet has no such slide.
        """
        if self.sheet is None:
            return {"slide": check_id(slide, self.root)}
        lines = {line["slide"]: line for line in read_records(self.sheet)}
        if slide not in lines:
            raise FlagError(f"{self.sheet} has no slide {slide}", choices=lines)
        return lines[slide]

    def pixel_size(self, slide: str) -> float | None:
        """What the user says of the size of a pixel in µm: in the sheet, else in the configuration.

        Raises:
            FlagError: the sheet holds something other than a number.
        """
        text = self.line(slide).get("pixel_um", "")
        try:
            return float(text) if text else self.pixel_um
        except ValueError:
            raise FlagError(
                f"{self.sheet}: pixel_um of slide {slide} is {text!r}",
                remedy="write a number of µm, such as 0.2738, or leave it empty",
            ) from None

    def image(self, slide: str) -> Path:
        """The image at full resolution: as the sheet says, else beside the section's files.

        Beside them it is called like the slide, or its name ends with ``image`` (10x Genomics names the
        images of its data sets so).

        Raises:
            FlagError: there is none, or more than one.
        """
        near, name = self.images(slide), self.line(slide).get("image", "")
        if name and not near:
            raise FlagError(
                f"slide {slide}: no image {self.root / name}",
                remedy=f"correct the column image of {self.sheet}; paths are relative to root",
            )
        if len(near) == 1:
            return near[0]
        if near:
            fault = f"slide {slide} has {len(near)} images: {', '.join(map(str, near))}"
        else:
            fault = f"slide {slide} has no image at full resolution{self.why_not(slide)}"
        raise FlagError(
            fault,
            remedy=f"put it beside the data as {slide}.tif, or name it in the column image of a slide sheet",
        )

    def images(self, slide: str) -> list[Path]:
        """The file that the sheet names, if it exists; without a name, all images beside the data."""
        if name := self.line(slide).get("image", ""):
            return [path] if (path := self.root / name).is_file() else []
        return sorted(set(self.beside(slide)))

    def why_not(self, slide: str) -> str:
        """What to add to the message that there is no image at full resolution."""
        return ""

    def beside(self, slide: str) -> Iterable[Path]:
        """The images at full resolution that lie beside the files of ``slide``."""
        return images_in(self.root, slide)


def images_in(folder: Path, slide: str, own: bool = False) -> list[Path]:
    """The images in ``folder`` that are called like ``slide``.

    Args:
        folder: where to look.
        slide: its id.
        own: whether the folder is of this slide alone, so that ``*image.tif`` is its image, too.
    """
    return [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and path.name[0] != "."
        and (path.stem == slide or (own and path.stem.lower().endswith("image")))
    ]
