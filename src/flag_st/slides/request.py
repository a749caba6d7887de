"""What a user asks for: slides to predict, and everything that is wrong with them, told at once."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import Faults, FlagError
from flag_st.core.extras import extra
from flag_st.data.field import SIZE
from flag_st.slides.gene_sets import GeneSets, read_gene_sets
from flag_st.slides.given_mask import LAZYSLIDE, check_given
from flag_st.slides.image import SlideImage, open_image
from flag_st.slides.places import Places, read_places

if TYPE_CHECKING:
    from flag_st.exported.model import Exported

#: Columns of a sheet; only the first is needed.
COLUMNS = (
    *("slide", "name", "patient", "pixel_um", "pitch_um", "at"),
    *("mask", "genes", "draws", "force", "spatialdata", "gene_sets"),
)
#: Fields of a request that are paths.
PATHS = ("path", "at", "gene_sets")
#: Names of slides, which become names of folders.
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
#: What lies beside the folders of slides, so that none may have this name.
BESIDE = ("checked.json", "cohort.tsv", "explorer.html")
YES, NO = ("yes", "true", "1"), ("", "no", "false", "0")


@dataclass(frozen=True)
class Request:
    """One slide to predict.

    Attributes:
        path: the image.
        name: of the slide, which names its folder and decides its random streams.
        patient: the donor, or "" if unknown.
        pixel_um: µm per pixel of level 0 as the user states it, or None.
        pitch_um: distance of the spots of the grid in µm; None takes that of the training slides.
        at: file of the spots to predict, instead of a grid over the tissue.
        mask: where tissue is (``given_mask.mask_of``); "" finds it by colour.
        genes: to be shown; empty takes those that validation showed to be best.
        draws: of a generative method; None takes the model's number.
        force: predict even if the slide is refused.
        spatialdata: write a SpatialData store, too.
        gene_sets: GMT file of gene sets to be scored, or None.
    """

    path: Path
    name: str
    patient: str = ""
    pixel_um: float | None = None
    pitch_um: float | None = None
    at: Path | None = None
    mask: str = ""
    genes: tuple[str, ...] = ()
    draws: int | None = None
    force: bool = False
    spatialdata: bool = False
    gene_sets: Path | None = None

    def as_params(self) -> dict[str, Any]:
        """The request as plain values, which Snakemake compares with those of the last run."""
        texts = {key: str(getattr(self, key)) for key in PATHS if getattr(self, key) is not None}
        return {**vars(self), **texts, "genes": list(self.genes)}

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Request":
        """The inverse of ``as_params``."""
        paths = {key: Path(params[key]) for key in PATHS if params[key] is not None}
        return cls(**{**params, **paths, "genes": tuple(params["genes"])})

    @property
    def mask_file(self) -> Path | None:
        """The file of the mask, if it is one."""
        return Path(self.mask) if self.mask not in ("", LAZYSLIDE) else None

    def places(self) -> Places | None:
        """The spots of ``at``, or None if a grid is to be laid."""
        return read_places(self.at) if self.at else None

    def sets(self, genes: Sequence[str]) -> GeneSets | None:
        """The gene sets on the panel ``genes``, or None if none are to be scored."""
        return read_gene_sets(self.gene_sets, genes) if self.gene_sets else None

    def open(self, places: Places | None) -> SlideImage:
        """The image, its pixel size compared with that of the file of spots.

        Raises:
            FlagError: it cannot be read, or its pixel size is unknown or contradictory.
        """
        stated = {f"{self.at}": places.pixel_um} if places and places.pixel_um else {}
        return open_image(self.path, self.pixel_um, stated)


def name_of(path: Path) -> str:
    """The name of a slide from its file: without endings, and with ``_`` for unusual characters."""
    stem = re.sub(r"(\.ome)?\.[A-Za-z0-9]+$", "", path.name)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("_.") or "slide"


def read_sheet(path: str | Path) -> list[Request]:
    """The requests of a tab-separated sheet with the columns ``COLUMNS``.

    Paths are relative to the folder of the sheet.

    Raises:
        FlagError: it cannot be read, has other columns, or a value is none; all faults are named.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            rows, heads = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FlagError(f"cannot read the sheet {path} ({error})") from None
    if "slide" not in heads or (unknown := sorted(set(heads) - set(COLUMNS))):
        lacks = (
            f"has unknown columns {', '.join(unknown)}"
            if "slide" in heads
            else "has no column slide"
        )
        raise FlagError(
            f"the sheet {path} {lacks}", choices=COLUMNS, remedy="separate columns by tabs"
        )
    faults, found = Faults(), []
    for number, row in enumerate(rows, 2):
        try:
            found.append(_request(row, path.parent))
        except FlagError as error:
            faults.add(f"line {number}: {error}")
    if not rows:
        faults.add("it has no rows")
    for text in _repeated(found):
        faults.add(text)
    faults.raise_if_any(f"the sheet {path}")
    return found


def _request(row: dict[str, str | None], folder: Path) -> Request:
    values = {key: (value or "").strip() for key, value in row.items() if key is not None}
    if None in row:
        raise FlagError("it has more values than there are columns")
    if not values["slide"]:
        raise FlagError("the column slide is empty")
    image = folder / values["slide"]
    name = values.get("name") or name_of(image)
    if fault := _of_name(name):
        raise FlagError(f"name is {name!r}, which {fault}")
    return Request(
        path=image,
        name=name,
        patient=values.get("patient", ""),
        pixel_um=_number(values, "pixel_um"),
        pitch_um=_number(values, "pitch_um"),
        at=folder / values["at"] if values.get("at") else None,
        mask=_mask(values.get("mask", ""), folder),
        genes=tuple(re.split(r"[\s,]+", values["genes"])) if values.get("genes") else (),
        draws=_whole(values, "draws"),
        force=_yes(values, "force"),
        spatialdata=_yes(values, "spatialdata"),
        gene_sets=folder / values["gene_sets"] if values.get("gene_sets") else None,
    )


def _of_name(name: str) -> str:
    """What is wrong with the name of a slide; empty if nothing is."""
    if name in BESIDE:
        return "is that of a file which is written beside the folders of slides"
    return "" if NAME.fullmatch(name) else "may hold letters, digits and . _ - only"


def _mask(text: str, folder: Path) -> str:
    return text if text in ("", LAZYSLIDE) else str(folder / text)


def _yes(values: dict[str, str], key: str) -> bool:
    text = values.get(key, "").lower()
    if text not in YES + NO:
        raise FlagError(f"{key} is {text!r}", choices=("yes", "no"))
    return text in YES


def _whole(values: dict[str, str], key: str) -> int | None:
    if not (text := values.get(key, "")):
        return None
    if not text.isdecimal() or int(text) < 1:
        raise FlagError(f"{key} is {text!r}, which is no whole number of at least 1")
    return int(text)


def _number(values: dict[str, str], key: str) -> float | None:
    if not (text := values.get(key, "")):
        return None
    try:
        return float(text)
    except ValueError:
        raise FlagError(f"{key} is {text!r}, which is no number") from None


def check(requests: Sequence[Request], model: "Exported") -> None:
    """Tell all faults of all slides, before the first is predicted; nothing expensive is read.

    Raises:
        FlagError: naming every fault.
    """
    faults = Faults()
    wanted = {gene for request in requests for gene in request.genes}
    if unknown := sorted(wanted - set(model.genes)):
        known = {gene.upper(): gene for gene in model.genes}
        meant = [known[gene.upper()] for gene in unknown if gene.upper() in known]
        faults.add(
            f"{model.path} does not predict {', '.join(unknown)}",
            choices=model.genes,
            remedy=f"write {', '.join(meant)}" if meant else None,
        )
    if (size := model.facts["patches"]["size"]) != SIZE:
        faults.add(
            f"{model.path} reads patches of {size} px, and slides are cut to patches of {SIZE} px",
            remedy="export a run of this version",
        )
    if any(request.spatialdata for request in requests):
        try:
            extra("spatialdata", "slides")
        except FlagError as error:
            faults.add(str(error))
    for file in sorted({request.gene_sets for request in requests if request.gene_sets}):
        faults.attempt(read_gene_sets, file, model.genes)
    for text in _repeated(requests):
        faults.add(text, remedy="give names in a sheet")
    for request in requests:
        for text in _faults(request):
            faults.add(f"slide {request.name}: {text}")
    faults.raise_if_any(f"{len(requests)} slide{'s' * (len(requests) != 1)}")


def _repeated(requests: Sequence[Request]) -> list[str]:
    """Names that several slides have, whose folders would be one."""
    names = [request.name for request in requests]
    repeated = sorted({name for name in names if names.count(name) > 1})
    return [f"{names.count(name)} slides are called {name}" for name in repeated]


def _faults(request: Request) -> list[str]:
    found = []
    if fault := _of_name(request.name):
        found.append(f"its name {fault}")
    for key in ("pixel_um", "pitch_um"):
        value = getattr(request, key)
        if value is not None and not (np.isfinite(value) and value > 0):
            found.append(f"{key} must be a number above 0, not {value:g}")
    if request.mask and request.at:
        found.append(f"the spots of {request.at} need no mask, and {request.mask} is given")
    if found:
        return found
    try:
        check_given(request.mask)
        places = request.places()
        with request.open(places) as image:
            if places is not None and (outside := places.outside(image)):
                found.append(
                    f"{outside} of {len(places.names)} spots of {request.at} are outside the image, "
                    f"which is {image.size[0]} × {image.size[1]} px of {image.pixel_um:g} µm"
                )
    except FlagError as error:
        found.append(str(error))
    return found
