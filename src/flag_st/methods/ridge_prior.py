"""Ridge regression onto what a linear model learned of genes from a larger corpus.

It is the rival of HINGE that sees the same counts: whatever a frozen gene model adds must be more than the
principal components and the means of its corpus add to a linear map.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.io import pack_names, unpack_names
from flag_st.data.slide import Cohort, Slide
from flag_st.gene_models.columns import positions
from flag_st.gene_models.linear_prior import LinearPrior
from flag_st.methods.base import Run
from flag_st.methods.ridge import Ridge


class RidgePrior(Ridge):
    """Features → scores on the corpus's principal components → expression, recentred.

    As the map from scores to expression is linear, one ridge regression onto the training expression
    projected on the components is the same as one onto its scores.

    Args:
        backbone: the linear prior, as ``{use: …, params: {…}}``; the configuration puts there what the
            entry's key ``backbone`` names.
        scores: k, how many of its components are used.
        recentre: give the prediction of a slide the gene means of its patient in the corpus, where the
            corpus has that patient. It cannot change a correlation within a slide.
        more: arguments of ``Ridge``.

    Raises:
        FlagError: no backbone, or one of another class.
    """

    needs = frozenset({"backbone"})

    def __init__(
        self,
        backbone: Mapping[str, Any] | None = None,
        scores: int = 20,
        recentre: bool = True,
        **more: Any,
    ):
        super().__init__(**more)
        model = registry.build(backbone["use"], backbone.get("params")) if backbone else None
        if not isinstance(model, LinearPrior):
            raise FlagError(
                "ridge_prior has no linear prior to build on",
                remedy="name it in the method's entry, such as backbone: linear_prior",
            )
        self.prior, self.scores, self.recentre = model, scores, recentre

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        if run.backbone is None:
            raise FlagError("ridge_prior: its backbone was not fitted before it")
        self.prior.load(run.backbone)
        rows = positions(self.prior.panel, train.genes, "the linear prior")
        components = self.prior.components[rows]  # (G, K)
        if self.scores > components.shape[1]:
            raise FlagError(
                f"ridge_prior: scores is {self.scores}, but the prior has {components.shape[1]} components",
                remedy="lower scores, or raise the width of the entry that backbone names",
            )
        self.level, self.loadings = self.prior.mean[rows], components[:, : self.scores]
        self.patients, self.patient_means = self.prior.patients, self.prior.patient_means[:, rows]
        super().fit(train, valid, run)

    def _targets(self, train: Cohort) -> np.ndarray:
        """(M, G) the training expression as the components describe it."""
        basis = self.loadings  # (G, k)
        return self.level + (train.expression - self.level) @ basis @ basis.T  # (M, G)

    def _apply(self, slide: Slide, weights: np.ndarray) -> np.ndarray:
        out = super()._apply(slide, weights)  # (N, G)
        if not (self.recentre and slide.patient in self.patients):
            return out  # (N, G)
        own = self.patient_means[self.patients.index(slide.patient)]  # (G,)
        return out + np.where(np.isnan(own), 0, own - out.mean(0))  # (N, G)

    def arrays(self) -> dict[str, np.ndarray]:
        names = {"patients": pack_names(self.patients)}
        return super().arrays() | names | {"patient_means": self.patient_means}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        super().restore(arrays, device)
        self.patients = unpack_names(arrays["patients"])
