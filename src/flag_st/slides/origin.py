"""What the folder of a predicted slide was made from, so that it is made again only if that changes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flag_st
from flag_st.core.io import CONTRACT, digest, read_json
from flag_st.slides.request import Request

if TYPE_CHECKING:
    from flag_st.exported.model import Exported

#: The file that says so, beside the outputs.
RECORD = "run.json"


def origin_of(request: Request, model: "Exported") -> dict[str, Any]:
    """Everything that decides the files of a slide. The image is known by its size and time.

    Args:
        model: its path and header are read, and none of its arrays.
    """
    state = request.path.stat()
    return {
        "model": model.path.name,
        "model_sha256": digest(model.path),
        "slide": request.path.name,
        "slide_bytes": state.st_size,
        "slide_modified": state.st_mtime_ns,
        "at_sha256": digest(request.at) if request.at else "",
        "gene_sets_sha256": digest(request.gene_sets) if request.gene_sets else "",
        "mask": request.mask_file.name if request.mask_file else request.mask or "by colour",
        "mask_sha256": digest(request.mask_file) if request.mask_file else "",
        "name": request.name,
        "patient": request.patient,
        "pixel_um": request.pixel_um or "as stated in the file",
        "pitch_um": request.pitch_um or "as in training",
        "genes": list(request.genes),
        "draws": request.draws or model.facts["samples"],
        "forced": request.force,
        "flag_st": flag_st.__version__,
        "contract": CONTRACT,
    }


def is_from(folder: Path, origin: dict[str, Any]) -> bool:
    """Whether the record of ``folder`` states this origin."""
    record = folder / RECORD
    return record.exists() and read_json(record)["origin"] == json.loads(json.dumps(origin))
