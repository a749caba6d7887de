"""Published labels of spots, joined to a slide by barcode."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.io import writing

#: Cortical layers from the surface inwards, then white matter (Maynard et al. 2021).
LAYERS = ("L1", "L2", "L3", "L4", "L5", "L6", "WM")
REPO = "LieberInstitute/HumanPilot"
COMMIT = "5dc52dc562893754c1db263479c573a3c3292609"
FILE = "10X/barcode_level_layer_map.tsv"


def fetch_layers(root: str | Path = "data/labels", **addresses: str) -> Path:
    """Download the layer labels of all twelve sections (1.4 MB), verified, once for ``root``.

    Args:
        addresses: ``api`` and ``raw`` of a GitHub other than the public one.
    """
    from flag_st.transfer.github import GitHub

    return GitHub(REPO, COMMIT, root, **addresses).fetch([FILE])[0]


def write_layers(path: str | Path, section: str | int, out: str | Path) -> None:
    """Layers of one DLPFC section as a label file.

    Args:
        path: what ``fetch_layers`` brings: barcode, section and layer, tab-separated, no header.
        section: section number, such as 151673 (column ``section`` of the slide sheet).

    Raises:
        FlagError: unreadable file, unknown section or layer, or a barcode labelled twice.
    """
    layers = _read_layers(Path(path))
    if (key := str(section)) not in layers:
        raise FlagError(f"{path} has no section {key}", choices=sorted(layers))
    rows = [f"{barcode}\t{layer}\n" for barcode, layer in sorted(layers[key].items())]
    with writing(out) as temporary:
        temporary.write_text("barcode\tlabel\n" + "".join(rows))


def read_labels(path: str | Path, barcodes: Sequence[str]) -> np.ndarray:
    """Label of each spot of one slide, from a tab-separated file of ``barcode`` and ``label``.

    Returns:
        (N,) array of names; "" where a spot has no label.

    Raises:
        FlagError: unreadable file, missing columns, a barcode labelled twice, or none in common.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FlagError(f"cannot read the label file {path} ({error})") from None
    known: dict[str, str] = {}
    for number, row in enumerate(csv.DictReader(text.splitlines(), delimiter="\t"), 2):
        barcode, label = row.get("barcode"), row.get("label")
        if barcode is None or label is None:
            raise FlagError(
                f"{path}, line {number}: no barcode and label",
                remedy="write a tab-separated table whose first line is: barcode, label",
            )
        if known.setdefault(barcode.strip(), label.strip()) != label.strip():
            raise FlagError(f"{path}, line {number}: {barcode} has two labels")
    labels = np.array([known.get(str(b), "") for b in barcodes], dtype=np.str_)
    if not (labels != "").any():
        raise FlagError(
            f"{path}: none of its {len(known)} barcodes is among the slide's {len(labels)} spots",
            remedy="check that labels and slide belong together",
        )
    return labels


def _read_layers(path: Path) -> dict[str, dict[str, str]]:
    """Section → barcode → layer."""
    sections: dict[str, dict[str, str]] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FlagError(
            f"cannot read the layer labels {path} ({error})",
            remedy="config/sources.tsv names the address of the file",
        ) from None
    for number, row in enumerate(csv.reader(text.splitlines(), delimiter="\t"), 1):
        if len(row) != 3 or row[2] not in LAYERS:
            raise FlagError(
                f"{path}, line {number}: not a barcode, a section and one of {', '.join(LAYERS)}"
            )
        barcode, section, layer = row
        if sections.setdefault(section, {}).setdefault(barcode, layer) != layer:
            raise FlagError(f"{path}, line {number}: {barcode} of {section} has two labels")
    return sections
