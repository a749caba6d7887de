"""Predictors that never look at the image: other scores are measured against theirs."""

import numpy as np

from flag_st.core.io import pack_names, unpack_names
from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Method, Prediction, Run


class TrainingMean(Method):
    """Every spot gets the mean of all training spots."""

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        self.mean = train.expression.mean(0, dtype=np.float64)  # (G,)

    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        return Prediction(np.tile(self.mean.astype(np.float32), (1, len(slide), 1)))  # (1, N, G)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        self.mean = arrays["mean"]


class PatientMean(TrainingMean):
    """Every spot gets the mean of its patient's training spots, or of all spots if there are none.

    It needs no image. Still, if slides of one patient are on both sides of a split, it beats
    published models on pooled scores, because much of the variance is between slides.
    """

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        super().fit(train, valid, run)
        self.patients = sorted({s.patient for s in train} - {""})
        groups = [[s.truth for s in train if s.patient == p] for p in self.patients]
        self.means = np.stack(
            [np.concatenate(g).mean(0, dtype=np.float64) for g in groups] or [self.mean]
        )  # (P, G)

    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        known = slide.patient in self.patients
        mean = self.means[self.patients.index(slide.patient)] if known else self.mean
        return Prediction(np.tile(mean.astype(np.float32), (1, len(slide), 1)))  # (1, N, G)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "means": self.means, "patients": pack_names(self.patients)}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        self.mean, self.means = arrays["mean"], arrays["means"]
        self.patients = unpack_names(arrays["patients"])
