"""A serial section of the same patient, laid over the slide: a control that needs no image."""

import numpy as np
from scipy.spatial import cKDTree

from flag_st.core.io import pack_names, unpack_names
from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.data.spatial import pitch
from flag_st.methods.base import Method, Prediction, Run


class AdjacentSection(Method):
    """Expression of a training section of the same patient, at the same place.

    Each training section of the patient is turned and shifted onto the slide by the outline of its
    spots alone, and the one that covers the slide best is taken. If the patient has no training
    section, all spots get the training mean.

    Args:
        neighbours: how many spots around each place are averaged.
        width: width of their Gaussian weights, in spot pitches.
        rotation: the largest turn that is tried, in degrees either way. Sections of one block are
            usually mounted alike, and a wider search may turn a round outline half around.
    """

    def __init__(self, neighbours: int = 4, width: float = 0.7, rotation: float = 45.0):
        self.neighbours, self.width, self.rotation = neighbours, width, rotation

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        self.mean = train.expression.mean(0, dtype=np.float64)  # (G,)
        self.patients = [slide.patient for slide in train]
        self.ends = np.cumsum([len(slide) for slide in train])
        self.position = np.concatenate([slide.position for slide in train])  # (M, 2)
        self.expression = train.expression  # (M, G)

    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        sections = [i for i, p in enumerate(self.patients) if p and p == slide.patient]
        if not sections:
            return Prediction(np.tile(self.mean.astype(np.float32), (1, len(slide), 1)))
        own = [slice(self.ends[i - 1] if i else 0, self.ends[i]) for i in sections]
        laid = [overlay(self.position[s], slide.position, self.rotation) for s in own]
        best = min(range(len(own)), key=lambda i: laid[i][1])
        found = self._average(slide.position, laid[best][0], self.expression[own[best]])
        return Prediction(found[None])  # (1, N, G)

    def _average(self, at: np.ndarray, laid: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(N, G) Gaussian mean of the spots ``laid`` (M, 2) nearest to the places ``at``."""
        k = min(self.neighbours, len(laid))
        distance, index = (a.reshape(len(at), k) for a in cKDTree(laid).query(at, k))
        # Relative to the nearest spot, so that the weights do not vanish far from all spots.
        squared = (distance**2 - distance[:, :1] ** 2) / (self.width * pitch(laid)) ** 2
        weight = np.exp(-squared / 2)  # (N, k)
        weight /= weight.sum(1, keepdims=True)
        return np.einsum("nk,nkg->ng", weight, y[index]).astype(np.float32)  # (N, G)

    def arrays(self) -> dict[str, np.ndarray]:
        names = ("mean", "ends", "position", "expression")
        return {n: getattr(self, n) for n in names} | {"patients": pack_names(self.patients)}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        for name in ("mean", "ends", "position", "expression"):
            setattr(self, name, arrays[name])
        self.patients = unpack_names(arrays["patients"])


def overlay(moving: np.ndarray, fixed: np.ndarray, rotation: float) -> tuple[np.ndarray, float]:
    """Lay one cloud of spots on another: shift it to the same centre of mass and turn it.

    Args:
        moving: (M, 2). fixed: (N, 2), both in µm.
        rotation: largest turn in degrees; every 2° is tried, then every quarter around the best.

    Returns:
        ``moving`` in the frame of ``fixed``, and how far the spots of either lie outside the other
        on average, in pitches.
    """
    centred, target = moving - moving.mean(0), fixed - fixed.mean(0)  # (M, 2), (N, 2)
    tree, unit = cKDTree(target), pitch(fixed)

    def turned(degrees: float) -> np.ndarray:
        a = np.deg2rad(degrees)
        return centred @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])  # (M, 2)

    def distance(degrees: float) -> float:
        laid = turned(degrees)  # (M, 2)
        there, back = tree.query(laid)[0], cKDTree(laid).query(target)[0]
        # Within an array no place is farther than 0.71 pitches from a spot. Smaller distances count
        # as 0; otherwise the two arrays would be laid in register, and not the tissues.
        return float(np.mean([np.clip(d / unit - 0.75, 0, 2).mean() for d in (there, back)]))

    # From the smallest turn outwards, so that the smaller of two equally good ones is kept.
    coarse = sorted(np.arange(-rotation, rotation + 1e-9, 2.0), key=abs)
    best = min(coarse, key=distance)
    best = min(best + np.arange(-2, 2.01, 0.25), key=distance)
    return turned(best) + fixed.mean(0), distance(best)
