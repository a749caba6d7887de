"""Synthetic sections: to try the pipeline, to test it, and to check methods against a truth."""

from collections.abc import Sequence
from pathlib import Path

from flag_st.core.errors import FlagError
from flag_st.data.slide_files import SlideFiles, SlideRow
from flag_st.sources.base import Source


class Synthetic(Source):
    """Synthetic breast sections in HEST-1k layout, named P1S1, P1S2, P2S1 and so on.

    Counts are negative binomial and depend on tissue domains, on cell density and on hidden
    programmes; the H&E image is painted from domains and density alone, so that it does not show
    the hidden programmes. Sections of one patient are slices of one block of tissue.

    Args:
        patients, sections: number of donors, and of serial sections per donor.
        spots: rows and columns of the spot grid (200 µm pitch), of which about three quarters lie
            on tissue.
        genes: number of measured genes: breast markers first, then anonymous genes.
        seed: the seed of the whole cohort.
    """

    def __init__(
        self,
        patients: int = 4,
        sections: int = 2,
        spots: Sequence[int] = (14, 14),
        genes: int = 400,
        seed: int = 0,
    ):
        sizes = {"patients": patients, "sections": sections, "genes": genes}
        if isinstance(spots, int | str) or len(spots) != 2:
            raise FlagError(f"synthetic cohort: spots is {spots!r}, wanted [rows, columns]")
        sizes |= {"rows of spots": spots[0], "columns of spots": spots[1]}
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise FlagError(f"synthetic cohort: {name} is {value!r}, wanted an integer ≥ 1")
        self.patients, self.sections, self.genes, self.seed = patients, sections, genes, seed
        self.rows, self.columns = spots

    def slides(self) -> list[SlideRow]:
        return [
            SlideRow(f"P{p}S{s}", f"P{p}", str(s))
            for p in range(1, self.patients + 1)
            for s in range(1, self.sections + 1)
        ]

    def fetch(self, slide: str, directory: Path) -> SlideFiles:
        """Make the files of ``slide`` in ``directory``."""
        from flag_st.synthetic.files import write_slide

        return write_slide(self.section(slide), directory)

    def unmeasured(self) -> str:
        """The name of a section of one more donor, of which there is an image and nothing else."""
        return f"P{self.patients + 1}S1"

    def paint(self, slide: str, path: Path) -> None:
        """Paint the image of the section ``unmeasured``, which is in no split and has no counts.

        Raises:
            FlagError: it has another name.
        """
        from flag_st.synthetic.files import write_image
        from flag_st.synthetic.tissue import Design, Section

        if slide != self.unmeasured():
            raise FlagError(
                f"the synthetic cohort cannot paint {slide!r}", choices=[self.unmeasured()]
            )
        more = self.patients + 1
        design = Design(more, self.sections, self.rows, self.columns, self.genes, self.seed)
        write_image(Section(design, self.patients, 0), path)

    def section(self, slide: str):
        """The ``flag_st.synthetic.Section`` of a slide name, which knows its truth."""
        from flag_st.synthetic.tissue import Design, Section

        names = [row.id for row in self.slides()]
        if slide not in names:
            raise FlagError(f"the synthetic cohort has no slide {slide!r}", choices=names)
        design = Design(
            self.patients, self.sections, self.rows, self.columns, self.genes, self.seed
        )
        return Section(design, *divmod(names.index(slide), self.sections))
