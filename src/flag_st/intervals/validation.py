"""Predictions of the validation slides, on which intervals are calibrated and genes are judged."""

from collections.abc import Callable, Iterable

from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort
from flag_st.intervals.conformal import Seen
from flag_st.methods.base import Method

Progress = Callable[..., Iterable]


def predict_validation(
    method: Method,
    valid: Cohort,
    samples: int,
    seed: int,
    progress: Progress = lambda items, **_: items,
) -> list[Seen]:
    """Each slide predicted without its truth, as ``predict`` does with test slides.

    Args:
        method: trained on other slides.
        valid: with truth.
        samples: draws of a stochastic method; one is made of any other.
        seed: of the run.
    """
    count = samples if method.stochastic else 1
    return [
        Seen(
            slide.patient,
            slide.truth,
            method.predict(slide.without_truth(), count, Draws(seed, slide.id)),
            slide.position,
        )
        for slide in progress(valid, desc="validation slides")
    ]
