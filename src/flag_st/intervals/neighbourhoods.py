"""The coarser scale: means over a spot and its neighbours in the array."""

from typing import TYPE_CHECKING

import numpy as np

from flag_st.data.lattice import steps_apart
from flag_st.methods.base import Prediction

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def neighbourhoods(position: np.ndarray) -> "csr_array":
    """(N, N) weights of the means over each spot and those one step of the array away from it.

    These are up to five spots on a square array and up to seven on a hexagonal one, which weigh the same;
    at the margin of the tissue there are fewer.

    Args:
        position: (N, 2) in any unit.
    """
    from scipy.sparse import csr_array, eye_array

    (one, other), _ = steps_apart(position, 1)
    count = len(position)
    links = csr_array((np.ones(len(one)), (one, other)), shape=(count, count)) + eye_array(count)
    return csr_array(links / links.sum(1)[:, None])


def averaged(prediction: Prediction, weights: "csr_array") -> Prediction:
    """The R means of a prediction of N spots, of each draw and of the point estimate.

    Args:
        weights: (R, N), rows of ``neighbourhoods``.
    """
    samples = np.stack([weights @ draw for draw in prediction.samples])  # (S, R, G)
    return Prediction(samples, weights @ prediction.point)
