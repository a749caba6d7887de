"""Spots for QuPath: a GeoJSON file of detections with measurements.

QuPath 0.4 and later reads it by dragging the file onto the open slide. Coordinates are pixels of level 0
from the corner that QuPath counts from, which for some formats is that of the scanned area; each object has a UUID, an ``objectType``, a
``classification`` and ``measurements`` as a mapping of numbers.
"""

import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flag_st.core.io import writing
from flag_st.slides.predicted import Predicted
from flag_st.slides.trust import LIKE, UNLIKE

#: Corners of the polygon that stands for a round spot, since GeoJSON knows no circle.
CORNERS = 24
COLOURS = {LIKE: [0, 114, 178], UNLIKE: [213, 94, 0]}
#: Names of spots become UUIDs within this one, so that equal predictions give equal files.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "flag-st/spots")


def write(made: Predicted, path: str | Path) -> None:
    """One feature per spot, with the shown genes, their spread and verdict, and the distances as measurements."""
    head = {
        "type": "FeatureCollection",
        "unit": made.unit,
        "unit_to_counts": made.back,
        "verdict": made.trust.verdict,
        "reasons": list(made.trust.reasons),
        "pixel_size_um": made.pixel_um,
    }
    with writing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "features": [\n')
        for i, feature in enumerate(features(made)):
            text = json.dumps(feature, ensure_ascii=False, allow_nan=False)
            file.write((",\n" if i else "") + text)
        file.write("\n]}\n")


def features(made: Predicted) -> Iterator[dict[str, Any]]:
    """The spots as GeoJSON features, in the order of the slide."""
    angle = np.linspace(0, 2 * np.pi, CORNERS + 1)
    circle = made.spot_um / 2 * np.column_stack([np.cos(angle), np.sin(angle)])  # (C, 2) µm
    circle[-1] = circle[0]  # a ring must end where it begins
    verdicts = made.trust.spots["verdict"]
    for i, (name, found) in enumerate(zip(made.slide.spots, measurements(made), strict=True)):
        ring = (made.slide.position[i] + circle) / made.pixel_um - made.qupath_origin  # (C, 2) px
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(NAMESPACE, f"{made.slide.id}/{name}")),
            "geometry": {"type": "Polygon", "coordinates": [ring.round(2).tolist()]},
            "properties": {
                "objectType": "detection",
                "name": str(name),
                "classification": {"name": verdicts[i], "color": COLOURS[verdicts[i]]},
                "measurements": found,
            },
        }


def measurements(made: Predicted) -> Iterator[dict[str, float]]:
    """Name → number of each spot; what is undefined is left out, because JSON has no NaN."""
    table: dict[str, np.ndarray] = {}
    point, spread = made.point, made.spread
    for gene, column in zip(made.shown, made.columns(), strict=True):
        table[f"{gene} ({made.unit})"] = point[:, column]
        if spread is not None:
            table[f"{gene} spread ({made.unit})"] = spread[:, column]
        if made.ranks is not None:
            table[f"{gene} verdict (0 to 2)"] = made.ranks[:, column]
    for name in ("feature_distance", "stain_distance", "focus"):
        table[name.replace("_", " ")] = made.trust.spots[name].to_numpy()
    for row in zip(*(values.astype(np.float64).tolist() for values in table.values()), strict=True):
        known = zip(table, row, strict=True)
        yield {name: round(value, 5) for name, value in known if math.isfinite(value)}
