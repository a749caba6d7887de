"""Slides of HEST-1k, a gated dataset on Hugging Face, by exact name and at one commit.

Jaume et al., NeurIPS 2024 (arXiv 2406.16192); data CC BY-NC-SA 4.0. The whole dataset is about
1.85 TB; only the files of the sheet's slides in the folders asked for are ever transferred.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flag_st.core.errors import FlagError
from flag_st.data import hest_layout
from flag_st.data.slide_files import SlideFiles, SlideRow
from flag_st.sources.base import Source
from flag_st.sources.folder import locate, read_sheet

if TYPE_CHECKING:
    from flag_st.transfer.hub import Hub
    from flag_st.transfer.store import DownloadPlan

#: Folder of HEST-1k → field of ``SlideFiles``.
FOLDERS = {hest_layout.FOLDERS[kind][0]: kind for kind in ("st", "metadata", "patches", "wsi")}


class Hest(Source):
    """The slides of a sheet, downloaded once into a folder that all cohorts share.

    Args:
        sheet: slide sheet; a relative path is looked up in the working directory, then in the
            project folder.
        root: folder that the files are downloaded to, in the layout of HEST-1k.
        repo: the dataset's name on the hub.
        revision: commit (best), tag or branch. A tag or branch is resolved once per ``root`` and
            then kept, so that all files there are of one commit, which reports of runs name.
        folders: folders to download: ``st`` and ``metadata``, and ``patches`` or ``wsis`` or both.
        slides: the slides to use; None uses all of the sheet.
        endpoint: address of another hub, such as a mirror.
        layers: for DLPFC, the folder of the cortical layers, which are downloaded from their
            public repository and looked up by the sheet's ``section``; None for other cohorts.
    """

    listed = "HEST-1k"

    def __init__(
        self,
        sheet: str | Path,
        root: str | Path = "data/hest",
        repo: str = "MahmoodLab/hest",
        revision: str = "main",
        folders: Sequence[str] = ("st", "metadata", "patches"),
        slides: Sequence[str] | None = None,
        endpoint: str | None = None,
        layers: str | Path | None = None,
    ):
        if unknown := [f for f in folders if f not in FOLDERS]:
            raise FlagError(f"HEST folders: unknown {', '.join(unknown)}", choices=FOLDERS)
        if not {"st", "metadata"} <= set(folders) or not {"patches", "wsis"} & set(folders):
            raise FlagError(
                f"HEST folders {', '.join(folders) or '(none)'} do not make a slide",
                remedy="name st, metadata and at least one of patches and wsis",
            )
        self.sheet, self.root = locate(sheet), Path(root)
        self.repo, self.revision, self.endpoint = repo, revision, endpoint
        self.folders, self.only = tuple(folders), slides
        self.layers = None if layers is None else Path(layers)

    def slides(self) -> list[SlideRow]:
        return restrict(read_sheet(self.sheet), self.only, self.sheet)

    def fetch(self, slide: str, directory: Path) -> SlideFiles:
        """Download the missing files of ``slide`` to ``root``; nothing is written to ``directory``.

        Raises:
            FlagError: the slide is not in the sheet, or ``Hub.fetch`` fails.
        """
        names = self._names(slide)
        paths = self.hub.fetch(list(names.values()))
        found = dict(zip(names, paths, strict=True))
        if self.layers is not None:
            from flag_st.sources.dlpfc import fetch_layers, write_layers

            section = next(row.section for row in self.slides() if row.id == slide)
            found["labels"] = self.layers / f"{slide}.tsv"
            write_layers(fetch_layers(self.layers), section, found["labels"])
        return SlideFiles(**found)

    def plan(self) -> "DownloadPlan":
        """What a download of all slides would transfer; nothing is transferred."""
        names = [n for row in self.slides() for n in self._names(row.id).values()]
        return self.hub.plan(names)

    def check_access(self) -> None:
        self.hub.check_access()

    @property
    def hub(self) -> "Hub":
        from flag_st.transfer.hub import Hub

        return Hub(self.repo, self.root, "dataset", self.revision, self.endpoint)

    def _names(self, slide: str) -> dict[str, str]:
        known = [row.id for row in self.slides()]
        if slide not in known:
            raise FlagError(f"{self.sheet} has no slide {slide}", choices=known)
        kinds = [FOLDERS[folder] for folder in self.folders]
        return {kind: hest_layout.names(kind, slide)[0] for kind in kinds}


def restrict(rows: list[SlideRow], only: Sequence[str] | None, sheet: str | Path) -> list[SlideRow]:
    """The rows of the slides ``only`` in the order of the sheet; all rows if it is None.

    Raises:
        FlagError: an id is not in the sheet.
    """
    if only is None:
        return rows
    known = [row.id for row in rows]
    if unknown := [s for s in only if s not in known]:
        raise FlagError(f"{sheet} has no slide {', '.join(unknown)}", choices=known)
    return [row for row in rows if row.id in set(only)]
