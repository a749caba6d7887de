"""Sections of legacy Spatial Transcriptomics (spots 100 µm wide, 200 µm apart) in HEST layout.

The spot files give each spot its array position (integers ``x``, ``y``), the position refined on the
image (``new_x``, ``new_y``) and the pixel, which is a linear function of the refined position. The
images of HER2ST are 32 steps of the array wide and 34 high.
"""

import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.hdf5 import write_table
from flag_st.core.io import digest, read_json, write_json
from flag_st.data.hest_layout import new_paths, section_metadata, spatial_entry
from flag_st.data.pyramid import write_pyramid

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

PITCH_UM, SPOT_UM = 200.0, 100.0
STEPS = np.array([32.0, 34.0])  # array steps along the image's width and height
THUMBNAIL = 1000  # px
#: Lossless levels, each half as wide as the one before.
PYRAMID: dict[str, Any] = dict(factor=2, smallest=256, compression="lzw", predictor=True)
SELECTION = ("x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected")
#: The two sides of a pixel are equal if they differ by less. An array is printed no better than that: the sides
#: that are fitted to sections of HER2ST differ by up to 0.7 %.
SQUARE = 0.01
#: To be raised when the conversion changes, so that existing slides are converted again.
VERSION = 3


@dataclass(frozen=True)
class PublishedSection:
    """The published files of one section.

    Attributes:
        counts: ``.tsv.gz`` of spots (such as "10x13") by genes.
        selection: table of the spots under tissue.
        image: H&E image as JPEG, PNG or TIFF.
        labels: the pathologist's label of each spot, if published.
    """

    counts: Path
    selection: Path
    image: Path
    labels: Path | None = None

    def digests(self) -> dict[str, str]:
        return {kind: digest(path) for kind, path in vars(self).items() if path is not None}


@dataclass(frozen=True)
class Frame:
    """How steps of the array map to pixels of the given image.

    Attributes:
        scale: (2,) image pixels per published pixel, x and y; 1 for the full-resolution image.
        um_per_px: (2,) µm per pixel along x and y.
    """

    scale: np.ndarray
    um_per_px: np.ndarray

    @property
    def pixel_size(self) -> float:
        return float(self.um_per_px.mean())

    def squared(self, size: tuple[int, int]) -> "tuple[Frame, tuple[int, int]]":
        """The frame and the size of the image once its pixels are square, as wide as their shorter side was.

        So the image keeps its pixels along one axis and gets more of them along the other; nothing of it is lost.

        Args:
            size: width and height of the image.
        """
        wider = self.um_per_px / self.um_per_px.min()  # (2,)
        if wider.max() < 1 + SQUARE:
            return self, size
        width, height = (round(side * factor) for side, factor in zip(size, wider, strict=True))
        # Sides are whole numbers of pixels, so that the factors are not exactly `wider`.
        factors = np.divide((width, height), size)
        return Frame(self.scale * factors, self.um_per_px / factors), (width, height)


def convert(
    section: PublishedSection, root: Path, slide: str, facts: Mapping[str, object]
) -> dict[str, Path]:
    """Write counts, slide image and metadata of ``slide`` below ``root``, unless up to date.

    Args:
        section: the published files.
        root: folder in HEST-1k layout.
        slide: id of the slide.
        facts: further metadata, by HEST's names.

    Returns:
        Kind → path, as the fields of ``SlideFiles``.

    Raises:
        FlagError: a file is unreadable, or the files are not of the same section.
    """
    paths = new_paths(root, slide)
    made_from = {"version": VERSION, **section.digests()}
    if all(p.exists() for p in paths.values()):
        known = read_json(paths["metadata"])
        if known.get("id") == slide and known.get("local", {}).get("made_from") == made_from:
            return paths
    counts, spots = read_counts(section.counts), read_selection(section.selection)
    image = read_image(section.image)
    frame, size = fit_frame(spots, image.size, section.selection).squared(image.size)
    image = resampled(image, size)
    # Some selected spots have no counts; they are left out and listed in the metadata.
    without = [b for b in spots.index if b not in counts.index]
    counts = counts.loc[[b for b in counts.index if b in spots.index]]
    if counts.empty:
        raise FlagError(f"{section.selection} selects no spot of {section.counts}")
    spots = spots.loc[counts.index]
    if section.labels is not None:
        spots["pathologist_label"] = read_labels(section.labels, spots)
    write_spots(paths["st"], counts, spots, image, frame)
    write_pyramid(paths["wsi"], image, tuple(frame.um_per_px), **PYRAMID)
    local = {
        "made_from": made_from,
        "pixel_size_um_xy": frame.um_per_px.tolist(),
        "image_scale_vs_fullres": frame.scale.tolist(),
        "selected_spots_without_counts": without,
    }
    known = section_metadata(slide, frame.pixel_size, image.size, counts.shape, PITCH_UM, SPOT_UM)
    # HEST-1k states these twice.
    known |= {"fullres_width": image.width, "fullres_height": image.height}
    known |= {"adata_nb_col": counts.shape[1]}
    write_json(paths["metadata"], {**known, **facts, "local": local})
    return paths


def read_counts(path: Path) -> "pd.DataFrame":
    """Raw counts (spots, genes); the index holds barcodes such as "10x13".

    Raises:
        FlagError: the file is unreadable, or does not hold counts of spots.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t", index_col=0)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise FlagError(f"{path} is no readable count matrix ({error})") from None
    names = table.index.astype(str).str.extract(r"^0*(\d+)x0*(\d+)$")  # without leading zeros
    if (strange := names.isna().any(axis=1).to_numpy()).any():
        turned = table.columns.astype(str).str.fullmatch(r"\d+x\d+").any()
        raise FlagError(
            f"{path}: rows are not spots such as 10x13: {strange.sum()} have other names, such as "
            f"{table.index[strange][0]}",
            remedy="write the spots as rows and the genes as columns"
            if turned
            else "name each row by the spot's place on the array, x first",
        )
    table.index = pd.Index(names[0] + "x" + names[1])
    numeric = all(kind.kind in "iuf" for kind in table.dtypes)
    if table.empty or not numeric or not _whole(table.to_numpy()):
        raise FlagError(f"{path} does not hold counts (whole numbers from zero up)")
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()]
        raise FlagError(f"{path} names {len(set(twice))} spots twice, such as {twice[0]}")
    return table


def read_selection(path: Path) -> "pd.DataFrame":
    """The selected spots by barcode, with the columns of ``SELECTION``.

    Raises:
        FlagError: the file is unreadable, lacks a column, holds something other than numbers, selects no
            spot, or lists one twice.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t", float_precision="round_trip")
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise FlagError(f"{path} is no readable spot file ({error})") from None
    if missing := [c for c in SELECTION if c not in table]:
        raise FlagError(f"{path} lacks the column {', '.join(missing)}", choices=list(table))
    numbers = table[list(SELECTION)].apply(pd.to_numeric, errors="coerce")
    _refuse(table["selected"], numbers["selected"].isin([0, 1]), path)
    chosen = numbers["selected"] == 1
    for column in SELECTION:
        sound = np.isfinite(numbers[column]) & (
            column not in ("x", "y") or numbers[column] % 1 == 0
        )
        _refuse(table[column], sound | ~chosen, path)
    if not chosen.any():
        raise FlagError(f"{path} selects no spot", remedy="write 1 into the column selected")
    table = numbers[chosen].astype({"x": int, "y": int, "selected": int})
    table.index = table["x"].astype(str) + "x" + table["y"].astype(str)
    if not table.index.is_unique:
        raise FlagError(f"{path} lists a spot twice")
    return table


def read_labels(path: Path, spots: "pd.DataFrame") -> list[str]:
    """The pathologist's label of each spot, or "" if it has none.

    The label files identify a spot only by its refined position, to three decimals.

    Raises:
        FlagError: the file labels none of the spots.
    """
    import pandas as pd

    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    known = {_key(r.x, r.y): str(r.label) for r in table.itertuples()}
    labels = [known.get(_key(r.new_x, r.new_y), "") for r in spots.itertuples()]
    if not any(labels):
        raise FlagError(f"{path} labels no spot of this section")
    return labels


def read_image(path: Path) -> "Image":
    """The H&E image in RGB.

    Raises:
        FlagError: the file is unreadable.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Whole slides are large on purpose; Pillow still refuses images of twice its limit.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path).convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise FlagError(
            f"{path} is no readable image ({error})", remedy="fetch the file again"
        ) from None


def resampled(image: "Image", size: tuple[int, int]) -> "Image":
    """The image with another width and height, bicubically; the same image if it has these."""
    from PIL import Image

    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def fit_steps(spots: "pd.DataFrame", path: Path) -> np.ndarray:
    """(2,) pixels per step of the array along x and y, by a straight line through all spots.

    Args:
        spots: as ``read_selection`` returns them.
        path: their file, for messages.

    Raises:
        FlagError: the spots lie on one line, or the pixel is no linear function of the refined position.
    """
    return np.array([_slope(spots, axis, path) for axis in "xy"])


def fit_frame(spots: "pd.DataFrame", size: tuple[int, int], path: Path) -> Frame:
    """The frame of a section of HER2ST, whose image is cut along the outer steps of the array.

    Args:
        spots: as ``read_selection`` returns them.
        size: width and height of the given image, which may be a reduced copy.
        path: file of the spots, for messages.

    Raises:
        FlagError: the spots lie on one line, the relation is not linear, or the image has another
            shape than the array.
    """
    pitch = fit_steps(spots, path)  # published pixels per step
    scale = np.asarray(size) / (STEPS * pitch)
    if abs(scale[0] / scale[1] - 1) > 0.01:
        raise FlagError(
            f"{path}: the spots span {32 * pitch[0]:.0f} x {34 * pitch[1]:.0f} px, the image has "
            f"{size[0]} x {size[1]}: another shape",
            remedy="use the image of the same section, neither cropped nor turned",
        )
    scale = np.where(abs(scale - 1) < 2e-3, 1.0, scale)
    return Frame(scale, PITCH_UM / (pitch * scale))


def _slope(spots: "pd.DataFrame", axis: str, path: Path) -> float:
    step = spots[f"new_{axis}"].to_numpy(np.float64)
    pixel = spots[f"pixel_{axis}"].to_numpy(np.float64)
    if np.ptp(step, axis=None) < 1:
        raise FlagError(f"{path}: spots in one line only; their pitch cannot be fitted")
    slope, offset = np.polyfit(step, pixel, 1)
    rms = float(np.sqrt(np.mean((slope * step + offset - pixel) ** 2)))
    if rms > 0.02 * abs(slope):
        raise FlagError(
            f"{path}: pixel_{axis} is no linear function of new_{axis} (rms {rms:.1f} px)",
            remedy=f"give in each line the pixel and the place of one spot; pixel_{axis} belongs to new_{axis}",
        )
    if slope < 0:
        raise FlagError(
            f"{path}: pixel_{axis} falls while new_{axis} rises",
            remedy="give pixels of the image as its file holds it, neither turned nor mirrored",
        )
    return float(slope)


def write_spots(
    path: Path, counts: "pd.DataFrame", spots: "pd.DataFrame", image: "Image", frame: Frame
) -> None:
    """Write the h5ad of a slide: raw counts, spot centres in pixels of the image, and a thumbnail."""
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    pixels = spots[["pixel_x", "pixel_y"]].to_numpy(np.float64) * frame.scale  # (N, 2)
    shrink = min(1.0, THUMBNAIL / max(image.size))
    small = image.resize([max(1, round(s * shrink)) for s in image.size])
    obs = {
        "in_tissue": True,
        # On legacy arrays HEST calls the first number of the barcode, which is horizontal, the row.
        "array_row": spots["x"],
        "array_col": spots["y"],
        "array_x_refined": spots["new_x"],
        "array_y_refined": spots["new_y"],
        "pxl_col_in_fullres": pixels[:, 0],
        "pxl_row_in_fullres": pixels[:, 1],
        "total_counts": counts.sum(axis=1),
    }
    if "pathologist_label" in spots:
        obs["pathologist_label"] = spots["pathologist_label"].astype("category")
    table = anndata.AnnData(
        csr_matrix(counts.to_numpy(np.float32)),
        obs=pd.DataFrame(obs, index=spots.index),
        var=pd.DataFrame(index=counts.columns.astype(str)),
        obsm={"spatial": pixels},
    )
    table.obs_names = [f"{x:03d}x{y:03d}" for x, y in zip(spots["x"], spots["y"], strict=True)]
    table.uns["spatial"] = spatial_entry(np.asarray(small), image.width, SPOT_UM / frame.pixel_size)
    write_table(path, table, "gzip")


def _refuse(given: "pd.Series", sound: "pd.Series", path: Path) -> None:
    """Raise FlagError with the first value of a column that is not sound."""
    if sound.all():
        return
    line = int(np.argmin(sound.to_numpy()))
    what = {"selected": "0 or 1", "x": "a whole number", "y": "a whole number"}
    raise FlagError(
        f"{path}, line {line + 2}: {given.name} is {given.iloc[line]}, which is not "
        f"{what.get(str(given.name), 'a number')}",
        remedy="correct the line, or take it out",
    )


def _whole(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values % 1 == 0).all())


def _key(x: float, y: float) -> tuple[int, int]:
    return round(float(x) * 1000), round(float(y) * 1000)
