"""Folders of legacy Spatial Transcriptomics: an image and two tables per section, as the lab wrote them.

The table of places says for each spot of the array where it lies in the image. The size of a pixel follows
from it, since the distance of the spots is printed. It is fitted along x and along y, because the images of
such folders are often resized to a shape that their tables need, and their pixels are then not square.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import Faults, FlagError
from flag_st.sources.own_files import OwnFiles

if TYPE_CHECKING:
    import pandas as pd

    from flag_st.slides.image import Picture
    from flag_st.sources.section import Section

#: Column of the sheet → what the file is called where the sheet does not say; ``.gz`` may follow.
TABLES = {"counts": "{}.tsv", "spots": "alignment_table_{}.tsv"}
#: The sides of a pixel may differ by this factor. A larger one shows axes that are not counted alike.
LONGEST = 1.5


class LegacySTFolder(OwnFiles):
    """Sections of legacy Spatial Transcriptomics.

    For each section ``root`` holds ``SLIDE.jpg`` (or another image), ``SLIDE.tsv`` with raw counts of spots
    ("10x13") by genes, and ``alignment_table_SLIDE.tsv`` with the columns ``x``, ``y``, ``new_x``, ``new_y``,
    ``pixel_x``, ``pixel_y`` and ``selected``; ``legacy_st`` says what they mean. Spots of which ``selected``
    is 0 are left out. Where pixels are not square, the image is resampled (``Frame.squared``).

    Args:
        root: the folder.
        sheet: as for ``OwnFiles``. The columns ``counts`` and ``spots`` name tables that are called otherwise.
        pixel_um: µm per pixel of all images, where the user knows it; it is compared with the fit.
        pitch_um: distance in µm of neighbouring spots along the axes of the array. On the dense arrays every
            other place is empty, so that two steps of the array are so long.
        spot_um: diameter of the spots in µm.
    """

    wanted = "tables alignment_table_SLIDE.tsv"

    def __init__(
        self,
        root: str | Path | None = None,
        sheet: str | Path | None = None,
        pixel_um: float | None = None,
        pitch_um: float = 200.0,
        spot_um: float = 100.0,
    ):
        super().__init__(root, sheet, pixel_um)
        self.pitch_um, self.spot_um = pitch_um, spot_um

    def found(self) -> list[str]:
        start, end = TABLES["spots"].split("{}")
        names = {p.name.removesuffix(".gz") for p in self.root.glob(f"{start}*{end}*")}
        return [n[len(start) : -len(end)] for n in names if n.endswith(end)]

    def files(self, slide: str) -> list[Path]:
        return [p for kind in TABLES if (p := self._place(slide, kind)).is_file()]

    def table(self, slide: str, kind: str) -> Path:
        """The file of counts or of places of a section.

        Raises:
            FlagError: it does not exist.
        """
        if (path := self._place(slide, kind)).is_file():
            return path
        raise FlagError(
            f"slide {slide}: no file {path} with its {kind}",
            remedy=f"put it there, or name another one in the column {kind} of a slide sheet",
        )

    def _place(self, slide: str, kind: str) -> Path:
        if name := self.line(slide).get(kind):
            return self.root / name
        plain = self.root / TABLES[kind].format(slide)
        packed = plain.with_name(f"{plain.name}.gz")
        return packed if packed.is_file() and not plain.is_file() else plain

    def read(self, slide: str) -> "Section":
        from flag_st.sources.legacy_st import read_counts, read_selection

        faults = Faults()
        paths = {kind: faults.attempt(self.table, slide, kind) for kind in TABLES}
        tables = {
            kind: faults.attempt(reader, paths[kind])
            for kind, reader in {"counts": read_counts, "spots": read_selection}.items()
            if paths[kind] is not None
        }
        image = faults.attempt(self.image, slide)
        user = faults.attempt(self.pixel_size, slide)
        faults.raise_if_any(f"slide {slide}")
        um = faults.attempt(um_per_px, tables["spots"], self.pitch_um, paths["spots"])
        told: dict[str, Any] = {}
        counts = faults.attempt(join, tables["counts"], tables["spots"], paths["spots"], told)
        if um is not None:
            picture = faults.attempt(
                self._picture, image, user, um, tables["spots"], paths["spots"]
            )
        faults.raise_if_any(f"slide {slide}")
        return self._section(counts, tables["spots"].loc[counts.index], picture, um, told)

    def _picture(
        self,
        image: Path,
        user: float | None,
        um: np.ndarray,
        spots: "pd.DataFrame",
        path: Path,
    ) -> "Picture":
        """The image as it is, with a pixel size by which all statements agree and with all spots on it."""
        from flag_st.slides.image import look_at
        from flag_st.sources.section import check_place

        name = f"the spots' distance of {self.pitch_um:g} µm"
        picture = look_at(image, user, {name: (float(um[0]), float(um[1]))})
        check_place(picture, None, 0.0, spots[["pixel_x", "pixel_y"]].to_numpy(float), str(path))
        return picture

    def _section(
        self,
        counts: "pd.DataFrame",
        spots: "pd.DataFrame",
        picture: "Picture",
        um: np.ndarray,
        told: dict[str, Any],
    ) -> "Section":
        import pandas as pd
        from scipy.sparse import csr_matrix

        from flag_st.sources.h5ad_files import gene_names
        from flag_st.sources.legacy_st import Frame
        from flag_st.sources.section import Section

        frame, size = Frame(np.ones(2), um).squared(picture.size)
        paint = None
        if size != picture.size:
            told[f"pixels of {um[0]:.4g} x {um[1]:.4g} µm, resampled to squares of"] = (
                f"{frame.pixel_size:.4g} µm"
            )
            paint = partial(paint_squares, picture.path, size, frame.pixel_size)
            picture = replace(picture, size=size, pixel_um=frame.pixel_size)
        # On legacy arrays HEST calls the first number of the barcode, which is horizontal, the row.
        array = {"array_row": spots["x"], "array_col": spots["y"]}
        return Section(
            counts=csr_matrix(counts.to_numpy(np.float32)),
            spots=pd.DataFrame(array, index=spots.index),
            genes=gene_names(pd.DataFrame(index=counts.columns)),
            position=spots[["pixel_x", "pixel_y"]].to_numpy(np.float64) * frame.scale,
            picture=picture,
            technology="Spatial Transcriptomics",
            pitch_um=self.pitch_um,
            spot_um=self.spot_um,
            told=told,
            paint=paint,
        )


def um_per_px(spots: "pd.DataFrame", pitch_um: float, path: Path) -> np.ndarray:
    """(2,) µm per pixel along x and y, fitted to the distance of the spots.

    Args:
        spots: as ``legacy_st.read_selection`` returns them.
        pitch_um: distance of neighbouring spots along the axes of the array.
        path: their file, for messages.

    Raises:
        FlagError: the distance cannot be fitted, the refined positions are of other spots, or the two sides
            of a pixel would differ by more than ``LONGEST``.
    """
    from flag_st.sources.legacy_st import fit_steps

    steps = fit_steps(spots, path)  # (2,) pixels
    off = np.abs(spots[["new_x", "new_y"]].to_numpy() - spots[["x", "y"]].to_numpy()).max(1)  # (N,)
    if off.max() >= 1:
        raise FlagError(
            f"{path}: new_x and new_y of spot {spots.index[off.argmax()]} lie {off.max():.3g} steps of the array "
            "from its place x, y",
            remedy="give x before y in both, and the refined positions of the same spots",
        )
    # On dense arrays x + y is even for every spot: along an axis, every other place is empty.
    apart = 2 if len(np.unique(spots[["x", "y"]].sum(axis=1) % 2)) == 1 else 1
    um = pitch_um / (apart * steps)
    if um.max() > LONGEST * um.min():
        raise FlagError(
            f"{path}: neighbouring spots are {apart * steps[0]:.1f} px apart along x and {apart * steps[1]:.1f} px "
            f"along y, and no image is stretched by {um.max() / um.min():.3g}",
            remedy="count the places of the array alike along both axes",
        )
    return um


def join(
    counts: "pd.DataFrame", spots: "pd.DataFrame", path: Path, told: dict[str, Any]
) -> "pd.DataFrame":
    """The counts of the selected spots that have some.

    Args:
        counts, spots: as ``legacy_st`` reads them.
        path: the file of the spots, for messages.
        told: receives the numbers of spots that are left out.

    Raises:
        FlagError: no selected spot has counts.
    """
    shared = counts.index[counts.index.isin(spots.index)]
    if shared.empty:
        raise FlagError(
            f"{path} selects no spot that has counts ({counts.index[0]} there, {spots.index[0]} here)",
            remedy="use tables of the same section",
        )
    left_out = {
        "spots with counts that are not selected": len(counts) - len(shared),
        "selected spots without counts": len(spots) - len(shared),
    }
    told.update({what: number for what, number in left_out.items() if number})
    return counts.loc[shared]


def paint_squares(image: Path, size: tuple[int, int], pixel_um: float, path: Path) -> None:
    """Write an image as a pyramidal TIFF of another width and height.

    Args:
        image: its file.
        size: width and height of the TIFF.
        pixel_um: µm per pixel of the TIFF.
        path: where it is written.
    """
    from flag_st.data.pyramid import write_pyramid
    from flag_st.slides.files import open_reader
    from flag_st.sources.legacy_st import PYRAMID, resampled

    with open_reader(image) as reader:
        whole = reader.region((0, 0), 0, reader.size)
    write_pyramid(path, resampled(whole, size), (pixel_um, pixel_um), **PYRAMID)
