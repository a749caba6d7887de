"""A local folder in HEST-1k layout, and the slide sheets that all sources read."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from flag_st.core.code import ROOT
from flag_st.core.errors import FlagError
from flag_st.core.io import read_json
from flag_st.data.hest_layout import COUNTS, FOLDERS, names
from flag_st.data.patients import patient_of
from flag_st.data.slide_files import SlideFiles, SlideRow
from flag_st.sources.base import Source

#: A leading dot would make a hidden file; a leading dash would look like an option of a command.
SLIDE_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._-]*")


class Folder(Source):
    """A directory in HEST-1k layout.

    Args:
        root: the directory. For each slide it holds ``st/<id>.h5ad``, ``metadata/<id>.json`` and
            ``wsis/<id>.tif`` (or another of ``slides.suffixes``) or ``patches/<id>.h5`` or both, and
            ``labels/<id>.tsv`` if experts assigned its spots to domains.
        sheet: tab-separated table with the column ``slide`` and, if known, ``patient``,
            ``section`` and ``fold``. Without a sheet every file of ``st/`` is a slide, whose
            patient is the key ``patient`` of its metadata.
        counts_sheet: the same for sections of which there is ``counts/<id>.h5ad`` and no image. Without
            it, they are the files of ``counts/`` that are no slides.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        sheet: str | Path | None = None,
        counts_sheet: str | Path | None = None,
    ):
        self.root = None if root is None else Path(root)
        self.sheet = None if sheet is None else locate(sheet)
        self.counts_sheet = None if counts_sheet is None else locate(counts_sheet)

    def slides(self) -> list[SlideRow]:
        """The rows of the sheet or, without one, the files of ``st/`` by name.

        Raises:
            FlagError: neither sheet nor folder is there, or a slide id cannot be a file name.
        """
        if self.sheet is not None:
            return read_sheet(self.sheet)
        root = self._root()
        if not (rows := _found(root, names("st", "*")[0])):
            raise FlagError(
                f"{root}/st holds no .h5ad file",
                remedy="point root at a folder in HEST-1k layout: st/, metadata/, wsis/, patches/",
            )
        return rows

    def counts_only(self) -> list[SlideRow]:
        """The rows of ``counts_sheet`` or, without one, the files of ``counts/`` that are no slides."""
        if self.counts_sheet is not None:
            return read_sheet(self.counts_sheet)
        slides = {row.id for row in self.slides()}
        return [row for row in _found(self._root(), COUNTS.format("*")) if row.id not in slides]

    def counts(self, slide: str) -> Path:
        path = self._root() / COUNTS.format(
            check_id(slide, self.counts_sheet or "the list of sections")
        )
        if not path.is_file():
            raise FlagError(
                f"section {slide}: no file {path}",
                remedy="add it, or leave the section out of the sheet of sections with counts alone",
            )
        return path

    def inputs(self, slide: str) -> list[Path]:
        """Those files of ``slide`` that exist."""
        return [p for paths in self._candidates(slide).values() for p in paths if p.is_file()]

    def fetch(self, slide: str, directory: Path) -> SlideFiles:
        """Find the files of ``slide``; nothing is written to ``directory``.

        Raises:
            FlagError: counts or metadata are missing, or both slide image and patches are.
        """
        found = {
            kind: there[0]
            for kind, paths in self._candidates(slide).items()
            if (there := [p for p in paths if p.exists()])
        }
        places = {kind: paths[0] for kind, paths in self._candidates(slide).items()}
        missing = [str(places[kind]) for kind in ("st", "metadata") if kind not in found]
        if "wsi" not in found and "patches" not in found:
            missing.append(f"{places['wsi']} (or {places['patches']})")
        if missing:
            raise FlagError(
                f"slide {slide}: no file {', '.join(missing)}",
                remedy="add the files, or leave the slide out: the cohort's key `slides` lists those to use",
            )
        return SlideFiles(**found)

    def local(self, slide: str) -> SlideFiles:
        """The same as ``fetch``, which only looks for the files."""
        return self.fetch(slide, self._root())

    def _candidates(self, slide: str) -> dict[str, list[Path]]:
        root, slide = self._root(), check_id(slide, self.sheet or "the slide list")
        return {kind: [root / name for name in names(kind, slide)] for kind in FOLDERS}

    def _root(self) -> Path:
        if self.root is None:
            raise FlagError(
                "the folder source has no root",
                remedy="give it on the command line: --config root=DIR",
            )
        if not self.root.is_dir():
            raise FlagError(
                f"root {self.root} is not a directory",
                remedy="give the folder that holds st/ and metadata/: --config root=DIR",
            )
        return self.root


def _found(root: Path, pattern: str) -> list[SlideRow]:
    """The files of a folder by name, with the patients that the metadata name."""
    # File managers and interrupted copies leave hidden files behind, which are not slides.
    files = sorted(path for path in root.glob(pattern) if path.name[0] != ".")
    ids = check_ids([path.stem for path in files], root / Path(pattern).parent)
    return [SlideRow(slide, _patient(root, slide)) for slide in ids]


def _patient(root: Path, slide: str) -> str:
    path = root / names("metadata", slide)[0]
    if not path.is_file():
        return ""
    try:
        return patient_of(read_json(path))
    except FlagError:
        return ""  # the check of the slide reports it, together with all other faults


def locate(sheet: str | Path) -> Path:
    """``sheet`` as given if it exists, else within the project's folder if it exists there."""
    sheet = Path(sheet)
    return sheet if sheet.exists() or not (ROOT / sheet).exists() else ROOT / sheet


def check_id(slide: str, where: str | Path) -> str:
    """Return ``slide`` if it is safe as a file name.

    Raises:
        FlagError: it has characters other than letters, digits, ``.``, ``_`` and ``-``.
    """
    return check_ids([slide], where)[0]


def check_ids(slides: Sequence[str], where: str | Path) -> list[str]:
    """The same for several, of which all that are not safe are named at once."""
    if wrong := sorted({repr(slide) for slide in slides if not SLIDE_ID.fullmatch(slide)}):
        them = "slide id" if len(wrong) == 1 else "slide ids"
        names = "a file name" if len(wrong) == 1 else "file names"
        raise FlagError(
            f"{where}: {them} {', '.join(wrong)} cannot be {names}",
            remedy="use letters, digits, '_', '-' and single '.'; begin with a letter or digit",
        )
    return list(slides)


def read_sheet(path: str | Path) -> list[SlideRow]:
    """Read a tab-separated slide sheet; columns that ``SlideRow`` does not have are ignored.

    Raises:
        FlagError: as ``read_records``.
    """
    return [
        SlideRow(
            r["slide"],
            patient_of({"patient": r.get("patient", "")}),
            r.get("section", ""),
            r.get("fold", ""),
        )
        for r in read_records(path)
    ]


def read_records(path: str | Path) -> list[dict[str, str]]:
    """The lines of a tab-separated slide sheet, each as column → text.

    Raises:
        FlagError: the file is unreadable, has no column ``slide`` or no row, or an id is unsafe
            or repeated.
    """
    try:
        # utf-8-sig, since spreadsheets put a byte-order mark before the first column name.
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FlagError(f"cannot read the slide sheet {path} ({error})") from None
    table = csv.DictReader(text.splitlines(), delimiter="\t")
    columns = [name.strip() for name in table.fieldnames or []]
    if "slide" not in columns:
        raise FlagError(
            f"{path} has no column 'slide'; it has: {', '.join(columns) or 'nothing'}",
            remedy="write a tab-separated table whose first line names its columns",
        )
    table.fieldnames = columns
    records = [{k: (v or "").strip() for k, v in r.items() if k in columns} for r in table]
    records = [r for r in records if any(r.values())]
    ids = check_ids([r["slide"] for r in records], path)
    repeated = sorted({i for i in ids if ids.count(i) > 1})
    if repeated or not records:
        fault = f"repeats slide {', '.join(repeated)}" if repeated else "holds no slide"
        raise FlagError(f"{path} {fault}", remedy="one line for each slide")
    return records
