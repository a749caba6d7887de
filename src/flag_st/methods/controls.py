"""Controls. Together with the means they bound every metric from both sides."""

import numpy as np

from flag_st.core.io import pack_names, unpack_names
from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Method, Prediction, Run


class ShuffledProfiles(Method):
    """Each spot gets the profile of a random training spot, of the same patient if there is one.

    It is blind to the image, but real profiles have real gene-gene correlations. It thus shows
    which level of GSC says nothing about a method.
    """

    stochastic: bool = True

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        self.profiles = train.expression  # (M, G)
        self.patients = sorted({s.patient for s in train})
        codes = [np.full(len(s), self.patients.index(s.patient)) for s in train]
        self.codes = np.concatenate(codes).astype(np.int32)  # (M,)

    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        pool = np.arange(len(self.profiles))
        if slide.patient and slide.patient in self.patients:
            pool = np.flatnonzero(self.codes == self.patients.index(slide.patient))
        chosen = [draws.numpy(k).choice(pool, len(slide)) for k in range(samples)]
        return Prediction(self.profiles[np.stack(chosen)])  # (S, N, G)

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "profiles": self.profiles,
            "codes": self.codes,
            "patients": pack_names(self.patients),
        }

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        self.profiles, self.codes = arrays["profiles"], arrays["codes"]
        self.patients = unpack_names(arrays["patients"])


class Oracle(Method):
    """Returns the truth, and so shows every metric at its best; it declares that it needs truth."""

    needs: frozenset[str] = frozenset({"truth"})

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        """Nothing to learn."""

    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        return Prediction(slide.truth[None])  # (1, N, G)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"none": np.zeros(1, dtype=np.float32)}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        """Nothing to restore."""
