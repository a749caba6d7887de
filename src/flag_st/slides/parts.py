"""Prediction of a large slide in parts, so that memory does not grow with it."""

from collections.abc import Iterator

import numpy as np
from scipy.spatial import cKDTree

from flag_st.core.seeds import Draws
from flag_st.data.slide import Slide
from flag_st.data.spatial import compact_tiles, pitch
from flag_st.methods.base import Method, Prediction

#: Up to so many spots are predicted at once. The largest Visium array has 14,336.
SPOTS = 16_384
#: Spots within so many pitches of a part are seen with it. The 255 nearest spots, which are the farthest
#: that a spot of FLAG attends to, are within 9.
MARGIN = 10.0


def predict_in_parts(method: Method, slide: Slide, samples: int, seed: int) -> Prediction:
    """What ``method`` predicts for a slide of any size.

    A slide of more than ``SPOTS`` spots is cut into compact parts. Each is predicted together with the
    spots around it, which are then left out, and has random streams of its own. Where a method looks no
    farther than ``MARGIN``, only the noise of its draws tells where a part ends.

    Args:
        samples: S, the number of draws.
        seed: of the run.
    """
    if len(slide) <= SPOTS:
        return method.predict(slide, samples, Draws(seed, slide.id))
    whole: Prediction | None = None
    for number, (own, seen) in enumerate(parts(slide.position)):
        streams = Draws(seed, f"{slide.id}/part {number}")
        made = method.predict(slide.subset(seen), samples, streams)
        if whole is None:
            count, _, genes = made.samples.shape
            whole = Prediction(
                np.empty((count, len(slide), genes), made.samples.dtype),
                np.empty((len(slide), genes), made.point.dtype),
            )
        inside = np.searchsorted(seen, own)
        whole.samples[:, own], whole.point[own] = made.samples[:, inside], made.point[inside]
    assert whole is not None
    return whole


def parts(position: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The parts of a slide of spots (N, 2): those that belong to it, and those that are seen with them.

    Both are ascending indices. Each spot belongs to one part.
    """
    reach = MARGIN * pitch(position)
    for own in compact_tiles(position, SPOTS):
        distance, _ = cKDTree(position[own]).query(position, distance_upper_bound=reach)
        yield np.sort(own), np.flatnonzero(np.isfinite(distance))
