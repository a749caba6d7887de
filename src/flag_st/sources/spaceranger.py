"""Output folders of Space Ranger 1 to 4: Visium v1, v2 and CytAssist, and bins of Visium HD.

Positions are in pixels of the image that Space Ranger was given, which it does not copy into its output.
That they are is proved, because positions of another image shift the patches of every spot in silence:
by the printed array, by the diameter of the spots, by the size that the reduced pictures tell, and by
every statement of the pixel size.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import Faults, FlagError
from flag_st.sources.own_files import OwnFiles, images_in
from flag_st.sources.spaceranger_files import (
    HIRES,
    Run,
    find_run,
    is_run,
    read_matrix,
    read_positions,
    read_scales,
    size_of,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from flag_st.sources.printed_array import ArrayFit
    from flag_st.sources.section import Section

#: Distance and diameter of Visium's spots in µm.
PITCH_UM, SPOT_UM = 100.0, 55.0


class SpaceRanger(OwnFiles):
    """Sections as Space Ranger leaves them.

    Args:
        root: folder of the sections; each is a subfolder that holds ``outs/`` or its contents.
        sheet: as for ``OwnFiles``. The column ``folder`` names the folder of a section, if it is not
            called like the slide.
        pixel_um: µm per pixel of all images, where the user knows it.
        bin_um: size of the bins of Visium HD in µm; None for other technologies.
        pitch_um: distance of neighbouring spots in µm. For Visium HD it is the size of the bins.
        mirrored: whether the images were mirrored before Space Ranger saw them.
    """

    wanted = "folders with outs/ or spatial/ of Space Ranger"

    def __init__(
        self,
        root: str | Path | None = None,
        sheet: str | Path | None = None,
        pixel_um: float | None = None,
        bin_um: int | None = None,
        pitch_um: float = PITCH_UM,
        mirrored: bool = False,
    ):
        super().__init__(root, sheet, pixel_um)
        self.bin_um, self.pitch_um, self.mirrored = bin_um, pitch_um, mirrored

    def found(self) -> list[str]:
        return [p.name for p in self.root.iterdir() if p.name[0] != "." and is_run(p)]

    def files(self, slide: str) -> list[Path]:
        try:
            return self.run(slide).files()
        except FlagError:
            return []  # `check` and `fetch` say what is missing

    def run(self, slide: str) -> Run:
        """The files of a section.

        Raises:
            FlagError: some are missing.
        """
        return find_run(self.root / (self.line(slide).get("folder") or slide), self.bin_um)

    def beside(self, slide: str) -> Iterable[Path]:
        found = images_in(self.root, slide)
        try:
            home = self.run(slide).folder
        except FlagError:
            return found
        folders = {home, home.parent if home.name == "outs" else home} - {self.root}
        return [*found, *(p for folder in folders for p in images_in(folder, slide, own=True))]

    def why_not(self, slide: str) -> str:
        """Why the reduced picture of Space Ranger cannot take the place of the image."""
        try:
            run = self.run(slide)
            positions, scales = read_positions(run.positions), read_scales(run.scales)
            um = self._by_pitch(self._fit(positions, run), scales) / scales[f"{HIRES}_scalef"]
        except FlagError:
            return ""  # what is wrong with these files is told beside this
        if not run.hires.is_file():
            return ""
        return (
            f"; {run.hires.name} cannot take its place: its pixels are {um:.1f} µm wide, and patches need "
            "0.5 µm"
        )

    def read(self, slide: str) -> "Section":
        run = self.run(slide)
        faults = Faults()
        table = faults.attempt(read_matrix, run.matrix)
        positions = faults.attempt(read_positions, run.positions)
        scales = faults.attempt(read_scales, run.scales)
        image = faults.attempt(self.image, slide)
        user = faults.attempt(self.pixel_size, slide)
        faults.raise_if_any(f"slide {slide}")
        return self._section(run, table, positions, scales, image, user)

    def _section(
        self,
        run: Run,
        table: Any,
        positions: "pd.DataFrame",
        scales: dict[str, float],
        image: Path,
        user: float | None,
    ) -> "Section":
        """Join counts and positions, and prove the latter against the array and the image."""
        from flag_st.slides.image import look_at
        from flag_st.sources.section import Section, check_place, count_faults

        faults = Faults()
        table, told = genes_only(table, run.matrix)
        faults.extend(count_faults(table.X.data, str(run.matrix)))
        faults.attempt(self._check_bins, scales, run)
        spots = faults.attempt(join, table.obs_names, positions, run, told)
        fit = faults.attempt(self._fit, positions, run)
        if fit is not None:
            faults.attempt(self._check_fit, fit, scales, run)
            stated = self._statements(fit, scales)
            picture = faults.attempt(look_at, image, user, stated)
            if picture is not None:
                size = told_size(run.hires, scales)
                faults.attempt(
                    check_place,
                    picture,
                    *size,
                    None if spots is None else pixels(spots),
                    str(run.positions),
                )
        faults.raise_if_any(str(run.folder))
        hd = "bin_size_um" in scales
        return Section(
            counts=table[spots.index].X,
            spots=spots[["array_row", "array_col"]].astype(int),
            genes=table.var[["gene_ids"]],
            position=pixels(spots),
            picture=picture,
            technology="Visium HD" if hd else "Visium",
            pitch_um=self._pitch_um(scales),
            spot_um=scales.get("bin_size_um", SPOT_UM * self.pitch_um / PITCH_UM),
            told=told,
        )

    def _check_bins(self, scales: dict[str, float], run: Run) -> None:
        if self.bin_um is not None and scales.get("bin_size_um") != self.bin_um:
            raise FlagError(
                f"{run.scales} has no bin_size_um of {self.bin_um}, which bin_um asks for",
                remedy="leave bin_um out for other technologies than Visium HD, and give them a cohort of their own",
            )

    def _fit(self, positions: "pd.DataFrame", run: Run) -> "ArrayFit":
        from flag_st.sources.printed_array import fit_array

        cells = positions[["array_row", "array_col"]].to_numpy()
        return fit_array(cells, pixels(positions), str(run.positions))

    def _check_fit(self, fit: "ArrayFit", scales: dict[str, float], run: Run) -> None:
        from flag_st.sources.printed_array import SPOT_PER_PITCH, check_axes, check_scale

        where, hd = str(run.positions), "bin_size_um" in scales
        check_axes(fit, where, -1.0 if hd != self.mirrored else 1.0)
        check_scale(fit.pitch_px, scales, 1.0 if hd else SPOT_PER_PITCH, where)

    def _pitch_um(self, scales: dict[str, float]) -> float:
        return scales.get("bin_size_um", self.pitch_um)

    def _by_pitch(self, fit: "ArrayFit", scales: dict[str, float]) -> float:
        return self._pitch_um(scales) / fit.pitch_px

    def _statements(self, fit: "ArrayFit", scales: dict[str, float]) -> dict[str, float]:
        """The pixel sizes that the files state, the best one first.

        The distance of the spots is printed exactly and fitted over the whole array. The diameter of a
        spot is computed from it by Space Ranger and states nothing new.
        """
        stated = {}
        if "microns_per_pixel" in scales:
            stated["microns_per_pixel of the scale factors"] = scales["microns_per_pixel"]
        name = f"the spots' distance of {self._pitch_um(scales):g} µm"
        return stated | {name: self._by_pitch(fit, scales)}


def pixels(positions: "pd.DataFrame") -> "np.ndarray":
    """(N, 2) x and y in pixels. Space Ranger writes the row, which is y, first."""
    return positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(float)


def genes_only(table: Any, path: Path) -> tuple[Any, dict[str, Any]]:
    """The genes of a table (N, F), and how many features of other types were left out.

    Raises:
        FlagError: the table holds no gene.
    """
    from scipy.sparse import csr_matrix

    types = table.var["feature_types"].astype(str)
    genes = (types == "Gene Expression").to_numpy()
    if not genes.any():
        raise FlagError(
            f"{path} holds no feature of the type Gene Expression", choices=sorted(set(types))
        )
    others = types[~genes].value_counts().to_dict()
    told = {f"features left out, {kind}": int(number) for kind, number in others.items()}
    table = table[:, genes].copy()
    table.X = csr_matrix(table.X)
    return table, told


def join(
    barcodes: "pd.Index", positions: "pd.DataFrame", run: Run, told: dict[str, Any]
) -> "pd.DataFrame":
    """The positions of the spots under tissue that have counts, in the order of the counts.

    Args:
        barcodes: (N,) those of the counts.
        positions: of the whole array.
        run: the files, for messages.
        told: receives the numbers of spots that are left out.

    Raises:
        FlagError: no spot has both counts and a place under tissue.
    """
    tissue = positions[positions["in_tissue"] == 1]
    known = barcodes[barcodes.isin(positions.index)]
    shared = barcodes[barcodes.isin(tissue.index)]
    if len(shared):
        left_out = {
            "barcodes of the counts without a position": len(barcodes) - len(known),
            "spots with counts beside the tissue (in_tissue 0)": len(known) - len(shared),
            "spots under tissue without counts": len(tissue) - len(shared),
        }
        told.update({what: number for what, number in left_out.items() if number})
        return tissue.loc[shared]
    if len(known):
        fault = f"{run.positions}: in_tissue is 0 for every spot that has counts"
        raise FlagError(fault, remedy="run Space Ranger's tissue detection again, or mend the file")
    some = f"{barcodes[0] if len(barcodes) else 'nothing'} there, {positions.index[0]} here"
    fault = f"{run.positions} shares no barcode with {run.matrix} ({some})"
    if set(barcodes.str.split("-").str[0]) & set(positions.index.str.split("-").str[0]):
        remedy = "they differ in what follows the sequence: spell the barcodes in one way"
    else:
        remedy = "use files of the same section"
    raise FlagError(fault, remedy=remedy)


def told_size(hires: Path, scales: dict[str, float]) -> tuple[tuple[float, float] | None, float]:
    """Width and height of the full-resolution image that the reduced picture tells, and their error.

    Returns:
        The size in pixels (None without the picture), and the pixels by which it may be wrong: the sides of
        the reduced picture are whole numbers.
    """
    if not hires.is_file():
        return None, 0.0
    scale = scales[f"{HIRES}_scalef"]
    width, height = size_of(hires)
    return (width / scale, height / scale), 2 / scale
