"""One folder per slide, whole or not at all; a slide that is there is not predicted again."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flag_st.core.errors import FlagError
from flag_st.core.io import digest, read_json, write_json, writing
from flag_st.outputs import explorer, geojson, h5ad, ome_tiff, page, spatialdata_zarr, table
from flag_st.slides.origin import RECORD, is_from, origin_of
from flag_st.slides.predict import Predictor
from flag_st.slides.predicted import Predicted
from flag_st.slides.request import Request
from flag_st.slides.trust import as_facts

MAPS = "maps.png"
#: Who writes a file, and what it is for.
File = tuple[Callable[[Predicted, Path], None], str]
FILES: dict[str, File] = {
    "prediction.h5ad": (h5ad.write, "all genes, draws and verdicts, for scanpy"),
    "spots.geojson": (geojson.write, "spots of the shown genes, for QuPath"),
    "genes.ome.tif": (
        ome_tiff.write,
        "maps of the shown genes over the slide, for QuPath and napari",
    ),
    MAPS: (page.write_maps, "the maps of the shown genes, as a picture"),
    table.NAME: (table.write, "one row per gene and gene set, to be joined to other tables"),
    explorer.NAME: (explorer.write, "the slide for explorer.html, which lies beside its folder"),
}
#: The same for what is written only if it is asked for.
MORE = {spatialdata_zarr.NAME: (spatialdata_zarr.write, "picture, spots and table as SpatialData")}
PAGE = "summary.html"


def files_of(request: Request) -> dict[str, File]:
    """The files of a slide but for the page and the record."""
    return FILES | (MORE if request.spatialdata else {})


def is_made(folder: Path, request: Request, origin: dict[str, Any]) -> bool:
    """Whether the folder holds all files of a slide, made from the same things."""
    whole = all((folder / name).exists() for name in (*files_of(request), PAGE))
    return whole and is_from(folder, origin)


def make(
    predictor: Predictor,
    request: Request,
    folder: str | Path,
    progress: Callable[..., Iterable] = lambda items, **_: items,
) -> str:
    """Predict a slide into ``folder``, unless it is there already; returns the verdict on it.

    Raises:
        FlagError: as ``Predictor.predict``; the folder is then as it was.
    """
    folder = Path(folder)
    origin = origin_of(request, predictor.model)
    if is_made(folder, request, origin):
        return str(read_json(folder / RECORD)["trust"]["verdict"])
    with writing(folder) as temporary:
        temporary.mkdir()
        try:
            made = predictor.predict(request, temporary, origin, progress)
        except FlagError as error:
            raise FlagError(f"slide {request.name}: {error}") from None
        write_files(made, temporary, files_of(request), origin)
    return made.trust.verdict


def write_files(
    made: Predicted, folder: Path, files: Mapping[str, File], origin: Mapping[str, Any]
) -> None:
    """Write ``files``, the page and the record of a predicted slide into ``folder``."""
    for name, (write, _) in files.items():
        write(made, folder / name)
    about = {name: text for name, (_, text) in files.items()}
    page.write(made, folder / PAGE, about, (folder / MAPS).read_bytes())
    digests = {name: digest(folder / name) for name in (*files, PAGE)}
    facts = {"origin": dict(origin), "trust": as_facts(made.trust), "files": digests}
    write_json(folder / RECORD, facts)
