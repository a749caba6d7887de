"""One h5ad per section, in the convention of scanpy and squidpy for Visium."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import Faults, FlagError
from flag_st.sources.h5ad_files import (
    array_of,
    choose_counts,
    gene_names,
    library,
    positions,
    read_table,
    scale_factors,
    told_size,
    under_tissue,
)
from flag_st.sources.own_files import OwnFiles

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from scipy.sparse import csr_matrix

    from flag_st.slides.image import Picture
    from flag_st.sources.section import Section


@dataclass(frozen=True)
class Geometry:
    """Where the spots are, and what the file says about their scale.

    Attributes:
        position: (N, 2) x and y in pixels.
        pitch_px: pixels between neighbouring spots.
        hexagonal: whether the file's rows and columns are those of Visium's array.
        scales: the scale factors of the section's library; empty if there are none.
        size: width and height of the full-resolution image that the reduced picture tells, and the
            pixels by which they may be wrong.
    """

    position: "np.ndarray"
    pitch_px: float
    hexagonal: bool
    scales: dict[str, float]
    size: tuple[tuple[float, float] | None, float]


class AnnDataFiles(OwnFiles):
    """Sections as ``scanpy.read_visium`` and squidpy's readers return them.

    Raw counts, ``obsm['spatial']`` in pixels of the full-resolution image, and
    ``uns['spatial'][library]['scalefactors']``; symbols or Ensembl ids as names of the genes.

    Args:
        root: folder of the files ``<slide>.h5ad`` and of their images.
        sheet: as for ``OwnFiles``. The column ``file`` names the file of a section, if it is not called
            like the slide.
        pixel_um: µm per pixel of all images, where the user knows it.
        counts: where the raw counts are: ``X``, ``raw`` or ``layers/NAME``. None looks for them, and
            takes them only if one place alone holds counts.
        pitch_um: distance of neighbouring spots in µm.
        mirrored: whether the images were mirrored before Space Ranger saw them.
    """

    wanted = "files .h5ad"

    def __init__(
        self,
        root: str | Path | None = None,
        sheet: str | Path | None = None,
        pixel_um: float | None = None,
        counts: str | None = None,
        pitch_um: float = 100.0,
        mirrored: bool = False,
    ):
        super().__init__(root, sheet, pixel_um)
        self.counts_in, self.pitch_um, self.mirrored = counts, pitch_um, mirrored

    def found(self) -> list[str]:
        return [p.stem for p in self.root.glob("*.h5ad") if p.name[0] != "."]

    def files(self, slide: str) -> list[Path]:
        return [path] if (path := self.path(slide)).is_file() else []

    def path(self, slide: str) -> Path:
        return self.root / (self.line(slide).get("file") or f"{slide}.h5ad")

    def read(self, slide: str) -> "Section":
        faults, path = Faults(), self.path(slide)
        table = faults.attempt(read_table, path)
        image = faults.attempt(self.image, slide)
        user = faults.attempt(self.pixel_size, slide)
        faults.raise_if_any(f"slide {slide}")
        table, told = under_tissue(table, path)
        counts = faults.attempt(choose_counts, table, self.counts_in, path)
        geometry = faults.attempt(self._geometry, table, path)
        if geometry is not None:
            picture = faults.attempt(self._picture, geometry, image, user, path)
        faults.raise_if_any(f"slide {slide}")
        return self._section(table, counts, geometry, picture, told)

    def _section(
        self,
        table: Any,
        counts: tuple["csr_matrix", "pd.DataFrame"],
        geometry: Geometry,
        picture: "Picture",
        told: dict[str, Any],
    ) -> "Section":
        from flag_st.sources.section import Section

        spot_px = geometry.scales.get("spot_diameter_fullres", 0.55 * geometry.pitch_px)
        columns = [c for c in ("array_row", "array_col") if c in table.obs]
        return Section(
            counts=counts[0],
            spots=table.obs[columns],
            genes=gene_names(counts[1]),
            position=geometry.position,
            picture=picture,
            technology="Visium" if geometry.hexagonal else "array of spots",
            pitch_um=self.pitch_um,
            spot_um=min(spot_px * picture.pixel_um, self.pitch_um),
            told=told,
        )

    def _geometry(self, table: Any, path: Path) -> Geometry:
        """The positions, proved against the array and the scale factors as far as these are there."""
        import numpy as np

        from flag_st.data.spatial import pitch
        from flag_st.sources.printed_array import SPOT_PER_PITCH, check_axes, check_scale, fit_array

        where = f"{path}: obsm['spatial']"
        position, cells = positions(table, path), array_of(table)
        hexagonal = cells is not None and len(np.unique(cells.sum(1) % 2)) == 1
        if cells is None:
            pitch_px = pitch(position)
        else:
            fit = fit_array(cells, position, where)
            pitch_px = fit.pitch_px
            if hexagonal:
                # On square arrays it is not settled which of the two numbers is called the row: HEST
                # calls the horizontal one so, and Visium HD counts its rows from the bottom.
                check_axes(fit, where, -1.0 if self.mirrored else 1.0)
        if not pitch_px > 0:
            remedy = "give the place of each spot"
            raise FlagError(f"{where} puts most spots in one place", remedy=remedy)
        entry = library(table, path)
        scales = scale_factors(entry)
        if "spot_diameter_fullres" in scales:
            check_scale(pitch_px, scales, SPOT_PER_PITCH, where)
        return Geometry(position, pitch_px, hexagonal, scales, told_size(entry, scales))

    def _picture(self, own: Geometry, image: Path, user: float | None, path: Path) -> "Picture":
        """The image, whose pixel size and size agree with the positions.

        Raises:
            FlagError: they do not, or nothing in the file tells which image the positions refer to.
        """
        from flag_st.slides.image import look_at
        from flag_st.sources.section import check_place

        name = f"the spots' distance of {self.pitch_um:g} µm"
        stated = {name: self.pitch_um / own.pitch_px}
        if "microns_per_pixel" in own.scales:
            stated["microns_per_pixel of the scale factors"] = own.scales["microns_per_pixel"]
        picture = look_at(image, user, stated)
        if "spot_diameter_fullres" not in own.scales and len(picture.statements) == 1:
            raise FlagError(
                f"{path} has no scale factors (uns['spatial'][library]['scalefactors']), and neither the image "
                "nor the configuration states a pixel size: nothing shows that obsm['spatial'] is in pixels of "
                f"{image.name}",
                remedy="keep uns['spatial'] when you write the h5ad, or state pixel_um in the slide sheet",
            )
        check_place(picture, *own.size, own.position, f"{path}: obsm['spatial']")
        return picture
