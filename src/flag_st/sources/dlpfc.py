"""Cortical layers of the twelve DLPFC sections, as their authors publish them.

Maynard et al., Nature Neuroscience 24, 425 (2021); the labels come from the repository of the
study, the slides themselves from HEST-1k.
"""

import csv
from pathlib import Path

from flag_st.core.errors import FlagError
from flag_st.core.io import writing

#: The layers from the surface inwards, then white matter.
LAYERS = ("L1", "L2", "L3", "L4", "L5", "L6", "WM")
REPO = "LieberInstitute/HumanPilot"
COMMIT = "5dc52dc562893754c1db263479c573a3c3292609"
FILE = "10X/barcode_level_layer_map.tsv"


def fetch_layers(root: str | Path = "data/labels", **addresses: str) -> Path:
    """Download the layers of all twelve sections (1.4 MB) into ``root``, once, and verify them.

    Args:
        root: folder of the file.
        addresses: ``api`` and ``raw`` of a GitHub other than the public one.
    """
    from flag_st.transfer.github import GitHub

    return GitHub(REPO, COMMIT, root, **addresses).fetch([FILE])[0]


def write_layers(path: str | Path, section: str | int, out: str | Path) -> None:
    """Write the layers of one section as a label file.

    Args:
        path: the file from ``fetch_layers``: barcode, section and layer, tab-separated, no header.
        section: number of the section, such as 151673 (column ``section`` of the slide sheet).
        out: the label file, which ``flag_st.data.labels.read_labels`` reads.

    Raises:
        FlagError: the file is unreadable, names an unknown layer, lacks the section, or gives a
            barcode two labels.
    """
    layers = _read_layers(Path(path))
    if (key := str(section)) not in layers:
        raise FlagError(f"{path} has no section {key}", choices=sorted(layers))
    rows = [f"{barcode}\t{layer}\n" for barcode, layer in sorted(layers[key].items())]
    with writing(out) as temporary:
        temporary.write_text("barcode\tlabel\n" + "".join(rows), encoding="utf-8")


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
