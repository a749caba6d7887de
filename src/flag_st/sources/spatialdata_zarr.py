"""SpatialData stores: arrays of spots or bins, or transcripts, over an H&E image.

Every element says by transformations where it lies in named coordinate systems. The spots are carried into
pixels of the image through such a system, so that an image that was turned, scaled or aligned needs no
preparation. The image is copied into a pyramidal TIFF without loss, for which it is read in bands.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import Faults, FlagError
from flag_st.sources.own_files import OwnFiles
from flag_st.sources.spaceranger_files import BINS
from flag_st.sources.spatialdata_files import elements, is_store, opened

if TYPE_CHECKING:
    from flag_st.sources.section import Section

#: Ends of the names that spatialdata-io gives to the reduced pictures of Space Ranger.
REDUCED = ("_hires_image", "_lowres_image")
#: Parameter → the folder of such elements.
KINDS = {"image": "images", "table": "tables", "shapes": "shapes", "points": "points"}
#: What a store lacks, for messages.
MISSING = {
    "image": "the H&E image at full resolution",
    "table": "a table of raw counts that annotates the spots",
    "points": "the transcripts",
}


def bins_of(table: str) -> float | None:
    """The size in µm of the bins of a table of Visium HD, by its name; None for other tables."""
    return float(found[1]) if (found := BINS.fullmatch(table)) else None


class SpatialDataZarr(OwnFiles):
    """Sections as stores of spatialdata, one each: Visium, Visium HD, and Xenium in bins.

    Elements are named by the parameters or, for one section, by the columns ``image``, ``table``, ``shapes``
    and ``points`` of the sheet; of a kind that the store has once, none need be named.

    Args:
        root: folder of the stores ``<slide>.zarr``.
        sheet: as for ``OwnFiles``, but for the column ``image``. The column ``file`` names the store of a
            section, if it is not called like the slide.
        pixel_um: µm per pixel of all images, where the user knows it.
        image: the H&E image at full resolution.
        table: the table of counts, whose shapes are the spots.
        shapes: the spots, where the table annotates several elements.
        points: transcripts, which are counted in bins of ``bin_um`` instead of reading a table.
        system: the coordinate system in which both lie over each other.
        unit_um: µm per unit of that system, where the user knows it.
        bin_um: size of the bins in µm; for a store of Visium HD, it chooses the table ``square_016um``.
        pitch_um: distance of neighbouring spots in µm; 100 on a hexagonal array, the size of the bins of
            Visium HD, and to be stated otherwise.
        counts: where the raw counts of the table are: ``X``, ``raw`` or ``layers/NAME``; None looks for them.
        min_qv: lowest quality of Xenium's transcripts; None counts all.
        mirrored: whether the image was mirrored before Space Ranger saw it.
    """

    wanted = "SpatialData stores (folders NAME.zarr)"

    def __init__(
        self,
        root: str | Path | None = None,
        sheet: str | Path | None = None,
        pixel_um: float | None = None,
        image: str | None = None,
        table: str | None = None,
        shapes: str | None = None,
        points: str | None = None,
        system: str | None = None,
        unit_um: float | None = None,
        bin_um: float | None = None,
        pitch_um: float | None = None,
        counts: str | None = None,
        min_qv: float | None = 20.0,
        mirrored: bool = False,
    ):
        super().__init__(root, sheet, pixel_um)
        self.names = {"image": image, "table": table, "shapes": shapes, "points": points}
        self.system, self.unit_um = system, unit_um
        self.bin_um, self.pitch_um = bin_um, pitch_um
        self.counts_in, self.min_qv, self.mirrored = counts, min_qv, mirrored

    # Which files ---------------------------------------------------------------------------------

    def found(self) -> list[str]:
        stores = (p for p in self.root.glob("*.zarr") if p.name[0] != "." and is_store(p))
        return [p.name.removesuffix(".zarr") for p in stores]

    def store(self, slide: str) -> Path:
        """The folder of the store.

        Raises:
            FlagError: it is not there, or no store.
        """
        path = self.root / (self.line(slide).get("file") or f"{slide}.zarr")
        if not is_store(path):
            raise FlagError(
                f"slide {slide}: {path} is no SpatialData store",
                remedy="correct the column file of the slide sheet, or write the store with sdata.write",
            )
        return path

    def images(self, slide: str) -> list[Path]:
        """None: the image is an element of the store."""
        return []

    def files(self, slide: str) -> list[Path]:
        """All files of the elements: two arrays of one shape differ in nothing but their chunks."""
        found = (path for folder in self.evidence(slide) for path in folder.rglob("*"))
        return sorted(path for path in found if path.is_file())

    def evidence(self, slide: str) -> list[Path]:
        """The folders of the elements that are read; which of the shapes these are, the table says."""
        try:
            store, chosen = self.store(slide), self.chosen(slide)
        except FlagError:
            return []  # `check` and `fetch` say what is missing
        folders = [store / KINDS[kind] / name for kind, name in chosen.items()]
        shapes = [] if "points" in chosen else [store / "shapes"]
        return [*folders, *(folder for folder in shapes if folder.is_dir())]

    def named(self, slide: str, kind: str) -> str | None:
        """The element of a kind that the user names: in the sheet, else in the configuration."""
        return self.line(slide).get(kind) or self.names[kind]

    def chosen(self, slide: str) -> dict[str, str]:
        """The image, and the table or the points, by name.

        Raises:
            FlagError: there is none, or more than one, and the user names none; all faults are told.
        """
        faults = Faults()
        found = self._chosen(slide, faults)
        faults.raise_if_any(f"slide {slide}")
        return found

    def _chosen(self, slide: str, faults: Faults) -> dict[str, str]:
        """``chosen`` as far as the faults allow, which are added to ``faults``."""
        if (store := faults.attempt(self.store, slide)) is None:
            return {}
        full = [name for name in elements(store, "images") if not name.endswith(REDUCED)]
        image = faults.attempt(self._choose, slide, "image", full)
        kind, among = self._counted(slide)
        other = faults.attempt(self._choose, slide, kind, among)
        faults.attempt(self._check_bins, store, kind, other)
        return {"image": image, kind: other}

    def _check_bins(self, store: Path, kind: str, name: str | None) -> None:
        if kind == "points" and not (self.bin_um or 0) > 0:
            raise FlagError(
                f"the transcripts of {store} are to be counted in bins",
                remedy="set bin_um in the cohort's params, such as bin_um: 100",
            )
        if kind == "table" and name is not None and self.bin_um not in (None, bins_of(name)):
            raise FlagError(
                f"table {name} of {store} has no bins of {self.bin_um:g} µm, which bin_um asks for",
                choices=[t for t in elements(store, "tables") if bins_of(t)],
                remedy="correct bin_um or table, or leave bin_um out for other technologies than Visium HD",
            )

    def _counted(self, slide: str) -> tuple[str, list[str]]:
        """Whether a table or points are counted, and the elements to choose from."""
        store, named = self.store(slide), {k: self.named(slide, k) for k in ("table", "points")}
        tables, points = (elements(store, kind) for kind in ("tables", "points"))
        if named["points"] or (not named["table"] and not tables):
            return "points", points
        if self.bin_um is None or named["table"]:
            return "table", tables
        sized = [name for name in tables if bins_of(name) == self.bin_um]
        if sized or not points:
            return "table", sized or tables
        return "points", points

    def _choose(self, slide: str, kind: str, among: list[str]) -> str:
        store, named = self.store(slide), self.named(slide, kind)
        known = elements(store, KINDS[kind])
        if found := _one(f"{store} has", kind, named, known, among):
            return found
        fault = f"{store} has no {kind}"
        if kind == "image" and known:
            what = "is a reduced copy" if len(known) == 1 else "are reduced copies"
            fault += f" at full resolution; {', '.join(known)} {what}"
        raise FlagError(fault, remedy=f"add {MISSING[kind]} to the store, and write it again")

    # What they hold ------------------------------------------------------------------------------

    def read(self, slide: str) -> "Section":
        from flag_st.sources.spatialdata_image import Asked

        faults = Faults()
        user = faults.attempt(self.pixel_size, slide)
        chosen = self._chosen(slide, faults)
        faults.raise_if_any(f"slide {slide}")
        store = self.store(slide)
        asked = Asked(store, chosen["image"], self.system, self.unit_um, user)
        if "points" in chosen:
            from flag_st.sources.spatialdata_points import read_points

            with opened(store, {KINDS[kind]: name for kind, name in chosen.items()}) as made:
                return read_points(
                    asked, made, chosen["points"], float(self.bin_um or 0), self.min_qv
                )
        with opened(store, {"tables": chosen["table"]}) as made:
            shapes = self._annotated(slide, made.tables[chosen["table"]], chosen["table"])
        wanted = {"images": chosen["image"], "tables": chosen["table"], "shapes": shapes}
        with opened(store, wanted) as made:
            from flag_st.sources.spatialdata_table import read_table

            options = (self.counts_in, self.pitch_um, self.mirrored)
            return read_table(asked, made, chosen["table"], shapes, *options)

    def _annotated(self, slide: str, table: Any, name: str) -> str:
        """The shapes that the table ``name`` annotates.

        Raises:
            FlagError: there are none in the store, or several, or others than those that are named.
        """
        store, named = self.store(slide), self.named(slide, "shapes")
        where = store / "tables" / name
        region = table.uns.get("spatialdata_attrs", {}).get("region")
        regions = [region] if isinstance(region, str) else [str(r) for r in region or ()]
        known = [name for name in elements(store, "shapes") if name in regions]
        if found := _one(f"{where} annotates", "shapes", named, known, known):
            return found
        raise FlagError(
            f"{where} annotates {', '.join(regions) or 'nothing'}, which are no shapes of the store",
            remedy="join the table to its spots: TableModel.parse(table, region=SHAPES, region_key=…, instance_key=…)",
        )


def _one(
    start: str, kind: str, named: str | None, known: list[str], among: list[str]
) -> str | None:
    """The element of a kind that is named, or the only one to choose from; None if there is none.

    Args:
        start: how a message begins, such as "STORE has".
        named: by the user.
        known: what may be named.
        among: what is chosen from if nothing is named.

    Raises:
        FlagError: the named one is not known, or there are several.
    """
    if named is not None and named not in known:
        raise FlagError(f"{start} no {kind} {named}", choices=known)
    if named is not None or len(among) == 1:
        return named or among[0]
    if among:
        raise FlagError(
            f"{start} {len(among)} {KINDS[kind]}",
            choices=among,
            remedy=f"name one: {kind}: NAME in the cohort's params, or in the column {kind} of the slide sheet",
        )
    return None
