"""Names of spots as different files spell them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from flag_st.core.errors import Faults

GRID_BARCODE = re.compile(r"\d+x\d+")
#: What aggregation adds to a barcode of 10x Genomics, once or more often.
SUFFIX = re.compile(r"(-\d+)+$")


def plain(barcodes: Iterable[str]) -> list[str]:
    """Barcodes in one spelling, since "10x13" and "010x013" name the same spot of legacy ST."""
    return [
        "x".join(str(int(n)) for n in b.split("x")) if GRID_BARCODE.fullmatch(b) else b
        for b in (str(b).strip() for b in barcodes)
    ]


def check_suffixes(
    path: Path, barcodes: Sequence[str], spots: Sequence[str], faults: Faults
) -> None:
    """Add a fault if names of a file would be names of spots, were it not for their suffix.

    Such names are joined to nothing, and their rows would be lost.

    Args:
        path: the file of ``barcodes``, for the message.
        barcodes, spots: names in the file, and those of the counts.
    """
    known = set(plain(spots))
    lost = [b for b in plain(barcodes) if b not in known]
    bare = {SUFFIX.sub("", s): s for s in sorted(known - set(plain(barcodes)))}
    near = [b for b in lost if SUFFIX.sub("", b) in bare]
    if near:
        faults.add(
            f"{path}: {len(near)} of {len(barcodes)} barcodes differ from those of the counts in their "
            f"suffix alone, such as {near[0]} for {bare[SUFFIX.sub('', near[0])]}",
            remedy="spell the barcodes as the counts do",
        )
