"""The data contract: one tissue section as a method sees it.

A slide consists of three files, which are joined by spot id and never by row order:

* ``features.h5ad`` X = image features (N, D), ``obsm['spatial_um']``, ``uns['pixel_size_um']``;
  it holds no expression, so that prediction cannot see the truth;
* ``spots.h5ad``    X = raw counts (N, all genes), ``obsm['spatial']`` in pixels of level 0;
* ``targets.h5``    gene-model embeddings, of training slides only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.hdf5 import write_table
from flag_st.core.io import CONTRACT, check_contract
from flag_st.data.targets import Targets

#: Unit of a panel → function of raw counts (N, G) and of the spots' total counts (N, 1).
TRANSFORMS = {
    "log1p": lambda counts, depth: np.log1p(counts),
    "log2p1": lambda counts, depth: np.log2(counts + 1),
    "log1p_cp10k": lambda counts, depth: np.log1p(counts * (1e4 / np.maximum(depth, 1))),
    "counts": lambda counts, depth: counts,
}

#: Unit of a panel → its name in files for other tools, and how to return to counts.
UNITS = {
    "log1p": ("log1p counts", "exp(value) - 1 is counts per spot"),
    "log2p1": ("log2(counts + 1)", "2**value - 1 is counts per spot"),
    "log1p_cp10k": ("log1p CP10k", "exp(value) - 1 is counts per 10,000 counts of the spot"),
    "counts": ("counts", "the value is counts per spot"),
}

#: Logarithm → natural logarithm of its base.
LOGARITHMS = {"log1p": 1.0, "log2": float(np.log(2))}
#: Unit of a panel → its logarithm; counts have none.
LOGARITHM_OF = {"log1p": "log1p", "log2p1": "log2", "log1p_cp10k": "log1p"}


def in_logarithm(unit: str, wanted: str) -> float:
    """The number that values in ``unit`` are divided by to be in the logarithm ``wanted``.

    Args:
        unit: a key of ``TRANSFORMS``. wanted: a key of ``LOGARITHMS``.

    Raises:
        FlagError: the unit is no logarithm.
    """
    if unit not in LOGARITHM_OF:
        raise FlagError(
            f"a method wants {wanted} of the expression, but the panel is in {unit}",
            choices=LOGARITHM_OF,
            remedy="set the panel's transform to one of these, or the method's scaling to standard",
        )
    return LOGARITHMS[wanted] / LOGARITHMS[LOGARITHM_OF[unit]]


@dataclass(frozen=True)
class Slide:
    """N spots of one section.

    Attributes:
        id: name of the slide, unique in its cohort.
        patient: the donor; slides of one patient are not independent.
        spots: (N,) barcodes.
        position: (N, 2) spot centres, x then y, in µm from the image's top-left corner.
        features: (N, D) float32 features of the encoder.
        expression: (N, G) float32 in the panel's unit, or None where the truth must not be seen.
        targets: gene-model embeddings of a training slide, or None.
        pixel_um: µm per pixel of level 0, for settings that the paper gives in pixels; NaN if it
            is unknown.
        patches: path of the (N, 224, 224, 3) patch file, for methods that read pixels.
        unit: the panel's unit, a key of ``TRANSFORMS``.
    """

    id: str
    patient: str
    spots: np.ndarray
    position: np.ndarray
    features: np.ndarray
    expression: np.ndarray | None = None
    targets: Targets | None = None
    pixel_um: float = float("nan")
    patches: Path | None = None
    unit: str = "log1p"

    def __len__(self) -> int:
        return len(self.spots)

    @property
    def truth(self) -> np.ndarray:
        """``expression``, for code that may see it.

        Raises:
            FlagError: the slide was opened without it.
        """
        if self.expression is None:
            raise FlagError(f"slide {self.id}: its expression must not be seen here")
        return self.expression

    def without_truth(self) -> "Slide":
        """The same slide without expression and targets, as prediction sees it."""
        return replace(self, expression=None, targets=None)

    def subset(self, index: np.ndarray) -> "Slide":
        """The slide of the spots ``index`` (integers, in that order)."""
        return replace(
            self,
            spots=self.spots[index],
            position=self.position[index],
            features=self.features[index],
            expression=None if self.expression is None else self.expression[index],
            targets=None if self.targets is None else self.targets.subset(index),
        )


def pixel_of(slide: Slide) -> float:
    """µm per pixel, for settings in pixels.

    Raises:
        FlagError: the slide's feature file does not state it.
    """
    if not np.isfinite(slide.pixel_um):
        raise FlagError(
            f"slide {slide.id}: its pixel size is unknown, and a setting is in pixels",
            remedy="run encode_patches again, or set sigma_px: null and tiling.shape: nearest",
        )
    return slide.pixel_um


class Cohort(Sequence):
    """The ordered slides of one part of a split."""

    def __init__(self, slides: Sequence[Slide], genes: Sequence[str]):
        self.slides, self.genes = list(slides), tuple(genes)

    def __len__(self) -> int:
        return len(self.slides)

    def __getitem__(self, index):
        return self.slides[index]

    def __iter__(self) -> Iterator[Slide]:
        return iter(self.slides)

    @property
    def unit(self) -> str:
        """The unit of the expression, which is the same on all slides."""
        return self.slides[0].unit

    @property
    def expression(self) -> np.ndarray:
        """(sum of N, G) of all slides, in slide order."""
        return np.concatenate([s.truth for s in self.slides])  # (M, G)

    @property
    def features(self) -> np.ndarray:
        """(sum of N, D) of all slides, in slide order."""
        return np.concatenate([s.features for s in self.slides])  # (M, D)


def read_slide(
    features: str | Path,
    spots: str | Path | None = None,
    genes: Sequence[str] = (),
    transform: str = "log1p",
    targets: str | Path | None = None,
    patches: str | Path | None = None,
) -> Slide:
    """Join the files of one slide; ``spots`` is given only where the truth may be seen.

    Raises:
        FlagError: features are NaN or infinite, or a file lacks spots or genes of another.
    """
    import anndata

    table = anndata.read_h5ad(features)
    check_contract(table.uns.get("contract"), features, "feature file")
    matrix = np.asarray(table.X, dtype=np.float32)
    if not np.isfinite(matrix).all():
        bad = int((~np.isfinite(matrix)).any(1).sum())
        raise FlagError(
            f"{features}: NaN or infinite features in {bad} of {len(matrix)} spots",
            remedy="delete the file and run encode_patches again; if it returns, check the encoder",
        )
    names = table.obs_names.to_numpy().astype(str)
    expression = None if spots is None else read_expression(spots, names, genes, transform)
    return Slide(
        id=str(table.uns["slide"]),
        patient=str(table.uns["patient"]),
        spots=names,
        position=np.asarray(table.obsm["spatial_um"], dtype=np.float64),
        features=matrix,
        expression=expression,
        targets=None if targets is None else Targets.open(targets, names, genes),
        pixel_um=float(table.uns.get("pixel_size_um", np.nan)),
        patches=None if patches is None else Path(patches),
        unit=transform,
    )


def read_expression(
    path: str | Path, spots: np.ndarray, genes: Sequence[str], transform: str
) -> np.ndarray:
    """(N, G) float32 expression of ``spots`` and ``genes``, in that order.

    Args:
        path: a ``spots.h5ad``.
        transform: the unit, a key of ``TRANSFORMS``.

    Raises:
        FlagError: the file lacks some of the spots or genes.
    """
    import anndata

    table = anndata.read_h5ad(path)
    check_contract(table.uns.get("contract"), path, "spot file")
    rows, columns = table.obs_names.get_indexer(spots), table.var_names.get_indexer(genes)
    for what, index, wanted in (("spots", rows, spots), ("genes", columns, genes)):
        if (index < 0).any():
            missing = [str(n) for n in np.asarray(wanted)[index < 0][:3]]
            raise FlagError(
                f"{path} lacks {int((index < 0).sum())} {what}, such as {', '.join(missing)}",
                remedy="delete the file and run the same command again",
            )
    counts = table.X[rows]
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).reshape(-1, 1)  # (N, 1)
    counts = counts[:, columns]
    counts = counts.toarray() if hasattr(counts, "toarray") else np.asarray(counts)
    return TRANSFORMS[transform](counts.astype(np.float64), depth).astype(np.float32)  # (N, G)


def check_slide_id(slide: Slide, name: str, path: str | Path) -> None:
    """Refuse features of another slide.

    Raises:
        FlagError: ``slide`` is not ``name``; the message names the file and both slides.
    """
    if slide.id != name:
        raise FlagError(
            f"{path} holds slide {slide.id}, expected {name}",
            remedy="delete it and run the same command again: encode_patches makes it anew",
        )


def open_parts(
    files, split: dict[str, list[str]], genes: Sequence[str], transform: str
) -> tuple[Cohort, Cohort]:
    """The training and the validation slides of a job.

    Args:
        files: inputs of the job: lists ``features`` and ``spots`` of both parts in split order,
            ``targets`` of the training slides or none, and ``patches`` of both parts or none.
        split: slide ids of the parts ``train`` and ``valid``.
        genes: the G genes of the panel.
        transform: unit of the expression, a key of ``TRANSFORMS``.

    Raises:
        FlagError: a file is of another slide, or the slides differ in their number of features.
    """
    names = split["train"] + split["valid"]
    optional = {
        "targets": list(files.get("targets") or []),
        "patches": list(files.get("patches") or []),
    }
    slides: list[Slide] = []
    for i, name in enumerate(names):
        more = {key: paths[i] if i < len(paths) else None for key, paths in optional.items()}
        slide = read_slide(files.features[i], files.spots[i], genes, transform, **more)
        check_slide_id(slide, name, files.features[i])
        if slides and slide.features.shape[1] != slides[0].features.shape[1]:
            raise FlagError(
                f"{files.features[i]} has {slide.features.shape[1]} features, "
                f"{files.features[0]} has {slides[0].features.shape[1]}",
                remedy="delete both and run the same command again",
            )
        slides.append(slide)
    cut = len(split["train"])
    return Cohort(slides[:cut], genes), Cohort(slides[cut:], genes)


def write_prediction(path: str | Path, slide: Slide, prediction, facts: dict) -> None:
    """Write ``prediction_table``.

    Raises:
        FlagError: as ``prediction_table``.
    """
    table = prediction_table(slide, prediction, facts)
    write_table(path, table)


def prediction_table(slide: Slide, prediction, facts: dict):
    """A prediction as AnnData: X is the point estimate, ``layers['draw_k']`` are the draws.

    With two or more draws, ``layers['spread']`` is their standard deviation per spot and gene.

    Raises:
        FlagError: a shape does not fit the slide, or values are NaN or infinite.
    """
    import anndata
    import pandas as pd

    shape = (len(slide), len(facts["genes"]))
    samples, point = prediction.samples, prediction.point
    if samples.shape[1:] != shape or point.shape != shape:
        raise FlagError(
            f"{facts['method']} predicted draws {samples.shape} and a point estimate {point.shape} for "
            f"slide {slide.id} of {shape[0]} spots and {shape[1]} genes",
            remedy=f"Prediction takes draws (S, {shape[0]}, {shape[1]}), with S = 1 where all are the same",
        )
    if not (np.isfinite(samples).all() and np.isfinite(point).all()):
        raise FlagError(
            f"{facts['method']} predicted NaN or infinite values on slide {slide.id}",
            remedy="look at the run's history.csv; lower its learning rate or change the seed",
        )
    layers = {f"draw_{k}": draw.astype(np.float32) for k, draw in enumerate(samples)}
    if len(samples) > 1:
        layers["spread"] = samples.std(0, ddof=1, dtype=np.float64).astype(np.float32)
    return anndata.AnnData(
        point.astype(np.float32),
        obs=pd.DataFrame(index=pd.Index(slide.spots)),
        var=pd.DataFrame(index=pd.Index(facts["genes"])),
        obsm={"spatial": slide.position},
        layers=layers,
        uns={
            "contract": CONTRACT,
            "slide": slide.id,
            "patient": slide.patient,
            "draws": len(samples),
            **{k: facts[k] for k in ("method", "unit", "seed")},
        },
    )
