"""HER2ST without a login, from the authors' public repository, converted to HEST-1k's layout.

Andersson et al., Nature Communications 12, 6012 (2021). The repository states no licence; HEST-1k
lists the sections as CC BY 4.0. Slides keep their HEST names, so that a cohort can change its
source and nothing else. There are two differences from HEST-1k: the pixel size is fitted to all
spots of a section instead of two, and no patches are provided.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from flag_st.core.errors import FlagError
from flag_st.data.slide_files import SlideFiles, SlideRow
from flag_st.slides.suffixes import SUFFIXES
from flag_st.sources.base import Source
from flag_st.sources.folder import locate, read_sheet
from flag_st.sources.hest import restrict

REPO = "almaan/her2st"
COMMIT = "85df7411b987a7dec3feff9718b869a7a82091ec"
TITLE = (
    "Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type "
    "interactions"
)


class Her2stOpen(Source):
    """The sections of a sheet, from a clone of the repository or downloaded file by file.

    Args:
        root: folder of the converted slides and, below ``raw/``, of the downloaded files.
        sheet: slide sheet, whose patient and section together name the published section ("A1").
        checkout: a clone (``git clone https://github.com/almaan/her2st``) or unpacked archive;
            None downloads the files of each slide.
        commit: the version to download.
        slides: the slides to use; None uses all of the sheet.
        api, raw: addresses of GitHub's list of files and of the files.
    """

    listed = "HER2ST"

    def __init__(
        self,
        root: str | Path = "data/her2st_open",
        sheet: str | Path = "config/cohorts/her2st.tsv",
        checkout: str | Path | None = None,
        commit: str = COMMIT,
        slides: Sequence[str] | None = None,
        api: str = "https://api.github.com",
        raw: str = "https://raw.githubusercontent.com",
    ):
        self.root, self.sheet, self.only = Path(root), locate(sheet), slides
        self.checkout = None if checkout is None else Path(checkout)
        self.commit, self.api, self.raw = commit, api, raw

    def slides(self) -> list[SlideRow]:
        return restrict(read_sheet(self.sheet), self.only, self.sheet)

    def inputs(self, slide: str) -> list[Path]:
        """The files of ``slide`` that a local clone has; empty without a clone."""
        if self.checkout is None:
            return []
        row = self._row(slide)
        names = published(row, _local_files(self.checkout, row))
        return [self.checkout / name for name in names.values()]

    def fetch(self, slide: str, directory: Path) -> SlideFiles:
        """Convert ``slide`` into ``root``, once for all cohorts; nothing is written to ``directory``.

        Raises:
            FlagError: the slide is unknown, a file of it is missing or damaged, or a download fails.
        """
        from flag_st.sources.legacy_st import PublishedSection, convert

        row = self._row(slide)
        if self.checkout is not None:
            names, base = published(row, _local_files(self.checkout, row)), self.checkout
        else:
            hub = self._github()
            names, base = published(row, list(hub.tree())), self.root / "raw"
        if missing := [k for k in ("counts", "selection", "image") if k not in names]:
            raise FlagError(
                f"{self.checkout or REPO} has no {', '.join(missing)} of section {section_name(row)}",
                remedy="complete the clone, or take the slide out of the sheet",
            )
        if self.checkout is None:
            hub.fetch(list(names.values()))
        files = PublishedSection(**{kind: base / name for kind, name in names.items()})
        return SlideFiles(**convert(files, self.root, slide, _facts(row)))

    def _github(self):
        from flag_st.transfer.github import GitHub

        return GitHub(REPO, self.commit, self.root / "raw", self.api, self.raw)

    def _row(self, slide: str) -> SlideRow:
        rows = {row.id: row for row in self.slides()}
        if slide not in rows:
            raise FlagError(f"{self.sheet} has no slide {slide}", choices=rows)
        return rows[slide]


def _local_files(checkout: Path, row: SlideRow) -> list[str]:
    """The files of a clone that may belong to ``row``, as paths within the repository."""
    images = checkout / "data" / "ST-imgs" / row.patient / section_name(row)
    there = [p for p in images.glob("*") if p.is_file()]
    there += [checkout / name for name in _tables(row).values()]
    return [p.relative_to(checkout).as_posix() for p in there if p.is_file()]


def section_name(row: SlideRow) -> str:
    """The published name of a section: the patient's letter and the number of the section."""
    return f"{row.patient}{row.section}"


def published(row: SlideRow, files: Sequence[str]) -> dict[str, str]:
    """Kind → path of those of ``files`` that belong to ``row``.

    Raises:
        FlagError: there is more than one image.
    """
    there = set(files)
    found = {kind: name for kind, name in _tables(row).items() if name in there}
    folder = PurePosixPath("data/ST-imgs") / row.patient / section_name(row)
    images = sorted(
        f for f in files if PurePosixPath(f).parent == folder and f.lower().endswith(SUFFIXES)
    )
    if len(images) > 1:
        raise FlagError(
            f"section {section_name(row)} has {len(images)} images: {', '.join(images)}",
            remedy="clone the repository, keep one of them, and set `checkout`",
        )
    return {**found, "image": images[0]} if images else found


def _tables(row: SlideRow) -> dict[str, str]:
    name = section_name(row)
    return {
        "counts": f"data/ST-cnts/{name}.tsv.gz",
        "selection": f"data/ST-spotfiles/{name}_selection.tsv",
        "labels": f"data/ST-pat/lbl/{name}_labeled_coordinates.tsv",
    }


def _facts(row: SlideRow) -> dict[str, object]:
    return {
        "dataset_title": TITLE,
        "subseries": section_name(row),
        "patient": f"Patient {row.patient}",
        "organ": "Breast",
        "tissue": "Breast",
        "oncotree_code": "IDC",
        "disease_state": "Cancer",
        "species": "Homo sapiens",
        "download_page_link1": f"https://github.com/{REPO}",
        "license": "none stated in the repository; HEST-1k lists CC BY 4.0",
    }
