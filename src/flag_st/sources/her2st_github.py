"""HER2ST without a login: the authors' public repository, converted to the layout of HEST-1k.

Andersson et al., Nature Communications 12, 6012 (2021). The repository states no licence; HEST-1k
lists the sections as CC BY 4.0. Slides keep their HEST names, so a cohort can change its source
and nothing else. Differences from HEST-1k: the pixel size is fitted over all spots of a section
instead of two, and no ready-made patches are there.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from flag_st.core.errors import FlagError
from flag_st.data.slide_files import SlideFiles, SlideRow
from flag_st.sources.base import Source
from flag_st.sources.folder import read_sheet
from flag_st.sources.hest import locate, restrict

REPO = "almaan/her2st"
COMMIT = "85df7411b987a7dec3feff9718b869a7a82091ec"
TITLE = (
    "Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type "
    "interactions"
)
IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


class Her2stOpen(Source):
    """The sections of a sheet from a clone of the repository, or fetched from it file by file.

    Args:
        root: where raw files (``raw/``) and the converted slides go.
        sheet: slide sheet; patient and section together name the published section ("A1").
        checkout: a clone (``git clone https://github.com/almaan/her2st``) or unpacked archive;
            None fetches the files of each slide.
        commit: which version to fetch.
        slides: ids to restrict the sheet to; None takes all.
        api, raw: addresses of GitHub's file list and files.
    """

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
        """The files of a local clone; none where they are fetched or the clone is incomplete."""
        if self.checkout is None:
            return []
        row = self._row(slide)
        names = published(row, _local_files(self.checkout, row))
        return [self.checkout / name for name in names.values()]

    def fetch(self, slide: str, directory: Path) -> SlideFiles:
        """Convert ``slide`` into ``root``, once for all cohorts; ``directory`` stays empty.

        Raises:
            FlagError: unknown slide, a file of the section is absent or damaged, GitHub fails.
        """
        from flag_st.sources.legacy_st import Section, convert

        row = self._row(slide)
        if self.checkout is not None:
            names, base = published(row, _local_files(self.checkout, row)), self.checkout
        else:
            hub = self._github()
            names, base = published(row, list(hub.tree())), self.root / "raw"
        if missing := [k for k in ("counts", "selection", "image") if k not in names]:
            raise FlagError(
                f"{self.checkout or REPO} has no {', '.join(missing)} of section {section(row)}",
                remedy="complete the clone, or take the slide out of the sheet",
            )
        if self.checkout is None:
            hub.fetch(list(names.values()))
        files = Section(**{kind: base / name for kind, name in names.items()})
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
    """Files of the clone that may belong to ``row``."""
    images = checkout / "data" / "ST-imgs" / row.patient / section(row)
    there = [p for p in images.glob("*") if p.is_file()]
    there += [checkout / name for name in _tables(row).values()]
    return [p.relative_to(checkout).as_posix() for p in there if p.is_file()]


def section(row: SlideRow) -> str:
    """The published name: patient letter and section number."""
    return f"{row.patient}{row.section}"


def published(row: SlideRow, files: Sequence[str]) -> dict[str, str]:
    """Kind → path of the files of ``row`` among ``files``.

    Raises:
        FlagError: more than one image.
    """
    there = set(files)
    found = {kind: name for kind, name in _tables(row).items() if name in there}
    folder = PurePosixPath("data/ST-imgs") / row.patient / section(row)
    images = sorted(
        f for f in files if PurePosixPath(f).parent == folder and f.lower().endswith(IMAGES)
    )
    if len(images) > 1:
        raise FlagError(
            f"section {section(row)} has {len(images)} images: {', '.join(images)}",
            remedy="clone the repository, keep one of them, and set `checkout`",
        )
    return {**found, "image": images[0]} if images else found


def _tables(row: SlideRow) -> dict[str, str]:
    name = section(row)
    return {
        "counts": f"data/ST-cnts/{name}.tsv.gz",
        "selection": f"data/ST-spotfiles/{name}_selection.tsv",
        "labels": f"data/ST-pat/lbl/{name}_labeled_coordinates.tsv",
    }


def _facts(row: SlideRow) -> dict[str, object]:
    return {
        "dataset_title": TITLE,
        "subseries": section(row),
        "patient": f"Patient {row.patient}",
        "organ": "Breast",
        "tissue": "Breast",
        "oncotree_code": "IDC",
        "disease_state": "Cancer",
        "species": "Homo sapiens",
        "download_page_link1": f"https://github.com/{REPO}",
        "license": "none stated in the repository; HEST-1k lists CC BY 4.0",
    }
