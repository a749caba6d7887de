"""Checks of the files that one stage made and another reads, before the job does any work.

Only headers are read, which takes milliseconds, and all faults are reported at once. If a file is
damaged, of another contract version or of another kind, the message names the stage that makes it
again.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flag_st.core.errors import Faults, FlagError
from flag_st.core.io import check_contract

#: What readers raise on damaged or foreign files.
UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        what: its name in messages.
        stage: the rule that makes it.
        keys: what it must contain: HDF5 paths, JSON keys or columns.
        contract: whether it names its contract version.
        check: looks further into an opened file and returns its faults.
    """

    what: str
    stage: str
    keys: tuple[str, ...] = ()
    contract: bool = True
    check: Callable[[Any], Iterable[str]] = lambda opened: ()

    @property
    def remedy(self) -> str:
        return f"delete it and run the same command again: {self.stage} makes it anew"


def check_inputs(files: Mapping[str, Any]) -> None:
    """Check the inputs of a job.

    Args:
        files: input names of a rule → path or paths; names without a kind are left alone.

    Raises:
        FlagError: all faults of all files.
    """
    faults = Faults()
    for name, value in files.items():
        paths = [value] if isinstance(value, str | Path) else list(value)
        for path in map(Path, paths):
            if kind := KINDS.get((name, path.suffix)):
                _look(kind, path, faults)
    faults.raise_if_any("inputs")


def _look(kind: Kind, path: Path, faults: Faults) -> None:
    """Check one file and add its faults."""

    def fault(text: str, remedy: str = kind.remedy) -> None:
        faults.add(f"{kind.what} {path} {text}", remedy=remedy)

    if path.is_dir():
        fault("is a directory", "put the file itself there, or remove it and run again")
    elif not path.exists():
        fault("does not exist", f"run the same command again: {kind.stage} makes it")
    elif not os.access(path, os.R_OK):
        fault("may not be read", "give permission to read it")
    elif not path.stat().st_size:
        fault("is empty")
    else:
        try:
            for text in READERS[path.suffix](kind, path):
                fault(text)
        except FlagError as error:  # another contract version: it names file and remedy itself
            faults.messages.append(str(error))
        except UNREADABLE as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            fault(f"is damaged or of another format ({reason[0][:160]})")


def _lacks(kind: Kind, known: Iterable[str]) -> list[str]:
    missing = sorted(set(kind.keys) - set(known))
    return [f"has no {', '.join(missing)}"] if missing else []


def _hdf5(kind: Kind, path: Path) -> list[str]:
    import h5py

    with h5py.File(path, "r") as file:
        if missing := _lacks(kind, [key for key in kind.keys if key in file]):
            return missing
        if kind.contract:
            known = file["uns/contract"][()] if "uns/contract" in file else None
            check_contract(file.attrs.get("contract", known), path, kind.what)
        return list(kind.check(file))


def _json(kind: Kind, path: Path) -> list[str]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        return [f"holds a {type(value).__name__} instead of an object"]
    if kind.contract:
        check_contract(value.get("contract"), path, kind.what)
    return _lacks(kind, value) or list(kind.check(value))


def _parquet(kind: Kind, path: Path) -> list[str]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            return _lacks(kind, file.schema_arrow.names) or list(kind.check(file))
    except ArrowException as error:
        raise ValueError(error) from None


READERS = {".h5ad": _hdf5, ".h5": _hdf5, ".json": _json, ".parquet": _parquet}


def _names(file: Any, axis: str) -> list[str]:
    group = file[axis]
    return list(group[group.attrs.get("_index", "_index")].asstr()[:])


def _spots(file: Any) -> Iterable[str]:
    """Check names, rows and positions of an AnnData with spots."""
    import numpy as np

    names = _names(file, "obs")
    position = np.asarray(file["obsm/spatial_um"])
    if not names:
        yield "holds no spot"
    elif len(set(names)) < len(names):
        yield f"names {len(names) - len(set(names))} spots twice"
    if position.shape != (len(names), 2) or not np.isfinite(position).all():
        yield "has positions that are not a finite (N, 2)"


def _draws(file: Any) -> Iterable[str]:
    draws = int(file["uns/draws"][()])
    missing = [f"draw_{k}" for k in range(draws) if f"layers/draw_{k}" not in file]
    if missing:
        yield f"says {draws} draws and has no {', '.join(missing)}"


def _patches(file: Any) -> Iterable[str]:
    """There must be one image, one place and one name per spot."""
    rows = {name: len(file[name]) for name in ("img", "coords", "barcode")}
    if len(set(rows.values())) > 1:
        yield f"has {', '.join(f'{n} {name}' for name, n in rows.items())}"
    elif file["img"].dtype != "uint8":
        yield f"has images of {file['img'].dtype}, wanted uint8"


def _targets(file: Any) -> Iterable[str]:
    n, g = len(file["spots"]), len(file["genes"])
    kind, shape = str(file.attrs.get("kind")), file["embedding"].shape
    wanted = {"static": (g,), "contextual": (n, g), "spot": (n,)}.get(kind)
    if wanted is None:
        yield f"is of kind {kind}"
    elif shape[:-1] != wanted or file["mask"].shape != (n, g):
        yield f"has an embedding {shape} for {n} spots and {g} genes"


def _genes(file: Any) -> Iterable[str]:
    genes = file.read(columns=["gene"])["gene"].to_pylist()
    if not genes:
        yield "holds no gene"
    elif len(set(genes)) < len(genes):
        yield f"names {len(genes) - len(set(genes))} genes twice"


def _parts(split: Mapping[str, Any]) -> Iterable[str]:
    chosen = [slide for part in ("train", "valid", "test") for slide in split[part]]
    if empty := [part for part in ("train", "valid", "test") if not split[part]]:
        yield f"has an empty part {', '.join(empty)}"
    if len(set(chosen)) < len(chosen):
        yield "puts a slide in more than one part"


def _manifest(value: Mapping[str, Any]) -> Iterable[str]:
    files = value["files"].values()
    if any(set(fact) < {"path", "sha256"} for fact in files):
        yield "has a file without path or sha256"
    for fact in files:
        if "path" in fact and not Path(fact["path"]).exists():
            yield f"names {fact['path']}, which does not exist"


def _run(value: Mapping[str, Any]) -> Iterable[str]:
    if not isinstance(value["config"], dict) or "use" not in value["config"]:
        yield "has a config without use"
    if not math.isfinite(float(value.get("seconds", "nan"))):
        yield "has no time (seconds)"


_SPOT_KEYS = ("X", "obs", "var", "obsm/spatial_um", "uns/slide", "uns/patient")
SPOTS = Kind("spot file", "prepare_slide", _SPOT_KEYS, check=_spots)
PREDICTION = Kind(
    "prediction",
    "predict",
    ("X", "obs", "var", "obsm/spatial", "uns/slide", "uns/unit", "uns/draws"),
    check=_draws,
)
MANIFEST = Kind("manifest", "retrieve", ("slide", "files"), check=_manifest)
SCORE_KEYS = ("cohort", "split", "panel", "method", "seed", "slide", "estimator", "metric", "value")
#: (name of a rule's input, suffix) → what the file must be.
KINDS = {
    ("manifest", ".json"): MANIFEST,
    ("manifests", ".json"): MANIFEST,
    ("spots", ".h5ad"): SPOTS,
    ("truth", ".h5ad"): SPOTS,
    ("corpus", ".h5ad"): Kind(
        "counts file",
        "prepare_counts or prepare_slide",
        ("X", "obs", "var", "uns/slide", "uns/patient"),
    ),
    ("slides", ".h5ad"): SPOTS,
    ("patches", ".h5"): Kind(
        "patch file",
        "prepare_slide or cut_patches",
        ("img", "coords", "barcode"),
        check=_patches,
    ),
    ("features", ".h5ad"): Kind("feature file", "encode_patches", _SPOT_KEYS, check=_spots),
    ("targets", ".h5"): Kind(
        "target file", "embed_genes", ("embedding", "mask", "spots", "genes"), check=_targets
    ),
    ("panel", ".parquet"): Kind("panel", "select_panel", ("gene",), False, _genes),
    ("split", ".json"): Kind("split", "make_split", ("train", "valid", "test"), check=_parts),
    ("predictions", ".h5ad"): PREDICTION,
    ("scores", ".parquet"): Kind(
        "score table", "evaluate or evaluate_downstream", SCORE_KEYS, False
    ),
    ("runs", ".json"): Kind("run record", "train", ("config",), check=_run),
    ("runs", ".parquet"): Kind("runs table", "collect_runs", SCORE_KEYS[:5], False),
}
