"""Whether to trust a prediction: verdicts on a slide, its regions, its spots and the panel's genes.

A spot is beyond the training slides if its features or its stain are farther from theirs than those of
99 in 100 spots of the validation slides, or if it is clearly less sharp than 99 in 100 spots of both.
One spot in a hundred is to be expected there; a slide or region is flagged and refused by the share of
its spots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.intervals.certificate import Certificate
from flag_st.slides.appearance import FOCUS, STAIN

if TYPE_CHECKING:
    import pandas

    from flag_st.exported.model import Exported

#: Share of spots beyond the training slides from which on a slide or region is flagged, or refused.
FLAGGED, REFUSED = 0.10, 0.50
#: The same for its pixels, in multiples of the coarsest that the model was trained with.
COARSE, TOO_COARSE = 1.25, 2.0
#: The same for the distance of its spots: methods that look at neighbours learned that of training.
NEAR, FAR = 0.8, 1.25
#: A patch is blurred if its focus is lower by this than that of 99 in 100 patches of training: a blur of
#: half a pixel. Smaller differences are between scans that a pathologist would call equally sharp.
BLUR = 0.1
#: Where one validation spot in a hundred is farther than this from the training spots (which are at
#: about 1), validation is so unlike training that hardly any slide can be told from it.
WIDE = 5.0
#: Edge of a region in µm, and the fewest spots of which one is judged.
REGION_UM, REGION_SPOTS = 1000.0, 10
LIKE, UNLIKE, REFUSE, FEW = "like training", "unlike training", "refused", "too few spots"
#: Column of the spots → what is said of a slide of which too many spots are beyond the limit.
REASONS = {
    "features": "to the encoder, {share:.0%} of the spots look unlike almost all spots of the validation slides",
    "stain": "{share:.0%} of the spots are stained unlike almost all spots of the validation slides",
    "focus": "{share:.0%} of the spots are blurred, other than those of training and validation slides",
}


@dataclass(frozen=True)
class Trust:
    """The verdicts on one slide.

    Attributes:
        verdict: ``LIKE``, ``UNLIKE`` or ``REFUSE``.
        reasons: why it is not ``LIKE``, as sentences; empty if it is.
        spots: one row per spot: ``feature_distance`` and ``stain_distance`` (about 1 on training
            slides), ``focus``, ``region`` and ``verdict``.
        regions: one row per square of 1 mm: spots, share beyond in each column, and ``verdict``.
        genes: one row per gene of the panel, as ``gene_verdicts`` returns them.
        certificate: the verdicts of these genes.
        shares: share of spots beyond the limit, by column of ``REASONS``.
    """

    verdict: str
    reasons: Sequence[str]
    spots: "pandas.DataFrame"
    regions: "pandas.DataFrame"
    genes: "pandas.DataFrame"
    certificate: Certificate
    shares: dict[str, float]

    def raise_if_refused(self) -> None:
        """Refuse to hand out a prediction of a slide that is too unlike the training slides.

        Raises:
            FlagError: naming the reasons and the limit.
        """
        if self.verdict == REFUSE:
            raise FlagError(
                f"it is too unlike the training slides: {'; '.join(self.reasons)} "
                f"(the limit is {REFUSED:.0%} of the spots, and pixels {TOO_COARSE:g} times as coarse)",
                remedy="export a model that was trained on such slides; with --force the slide is "
                "predicted all the same, and every file says so",
            )


def judge(
    model: "Exported",
    features: np.ndarray,
    appearance: np.ndarray,
    position: np.ndarray,
    pixel_um: float,
    pitch_um: float,
) -> Trust:
    """The verdicts on a slide.

    Args:
        model: whose training slides are compared with.
        features: (N, D) of the model's encoder.
        appearance: (N, 4), as ``slides.appearance.appearance`` returns it.
        position: (N, 2) in µm.
        pixel_um: µm per pixel of the image.
        pitch_um: distance of neighbouring spots.
    """
    import pandas as pd

    features_model, stain_model = model.features, model.stain
    feature, stain = (
        features_model.distance(features),
        stain_model.distance(appearance[:, STAIN]),
    )
    focus = appearance[:, FOCUS]
    beyond = pd.DataFrame(
        {
            "features": feature > features_model.limit,
            "stain": stain > stain_model.limit,
            "focus": focus < model.focus[1] - BLUR,  # glass, which is NaN, is not out of focus
        }
    )
    corners = np.floor(position / REGION_UM).astype(int)  # (N, 2)
    names = [f"x{x}y{y}" for x, y in corners]
    spots = pd.DataFrame(
        {
            "feature_distance": feature.astype(np.float32),
            "stain_distance": stain.astype(np.float32),
            "focus": focus.astype(np.float32),
            "region": names,
            "verdict": np.where(beyond.any(axis=1), UNLIKE, LIKE),
        }
    )
    shares = {name: float(share) for name, share in beyond.mean().items()}
    verdict, reasons = _slide(model, shares, pixel_um, pitch_um)
    genes = gene_verdicts(model), model.certificate
    return Trust(verdict, reasons, spots, _regions(beyond, names), *genes, shares)


def _slide(
    model: "Exported", shares: dict[str, float], pixel_um: float, pitch_um: float
) -> tuple[str, list[str]]:
    """The verdict on a whole slide, and why."""
    reasons = [REASONS[name].format(share=s) for name, s in shares.items() if s > FLAGGED]
    coarsest = coarsest_pixel(model)
    if (ratio := pixel_um / coarsest) > COARSE:
        reasons.append(
            f"its pixels are {pixel_um:g} µm wide, {ratio:.1f} times the {coarsest:g} µm of training"
        )
    usual = model.facts["platform"]["pitch_um"]
    if not NEAR <= pitch_um / usual <= FAR:
        reasons.append(f"its spots are {pitch_um:g} µm apart, those of training {usual:g} µm")
    reasons += lax(model)
    if max(shares.values()) > REFUSED or ratio > TOO_COARSE:
        return REFUSE, reasons
    return (UNLIKE if reasons else LIKE), reasons


def lax(model: "Exported") -> list[str]:
    """Why the comparison with the training slides says little, whatever the slide."""
    limits = {"features": model.features.limit, "stain": model.stain.limit}
    return [
        f"the model's validation slides are themselves far from its training slides by {name} "
        f"(at {limit:.0f} times the distance of a training spot), so that this test can hardly fail"
        for name, limit in limits.items()
        if limit > WIDE
    ]


def coarsest_pixel(model: "Exported") -> float:
    """µm per pixel that the training patches had at least; finer images are reduced to the patch's."""
    known = [value for value in model.facts["pixel_um"].values() if value == value]
    return max([model.facts["patches"]["um_per_px"], *known])


def _regions(beyond: "pandas.DataFrame", names: Sequence[str]) -> "pandas.DataFrame":
    """One row per region: its spots, the shares beyond the limits, and the verdict."""
    groups = beyond.groupby(np.asarray(names), sort=True)
    table = groups.mean()
    table.insert(0, "spots", groups.size())
    worst = table[list(REASONS)].max(axis=1)
    verdict = np.select(
        [table["spots"] < REGION_SPOTS, worst > REFUSED, worst > FLAGGED],
        [FEW, REFUSE, UNLIKE],
        LIKE,
    )
    return table.assign(verdict=verdict).rename_axis("region")


def gene_verdicts(model: "Exported") -> "pandas.DataFrame":
    """One row per gene: what the validation slides showed, and its verdict (``intervals.certificate``).

    No gene is left out.
    """
    import pandas as pd

    scores = {name: pd.DataFrame(values) for name, values in model.scores().items()}  # (V, G) each
    shown = model.certificate
    table = pd.DataFrame(
        {
            "validation_pcc": scores["pcc"].mean(),  # leaves out what is undefined
            "validation_pcc_lowest": scores["pcc"].min(),
            "validation_rmse": scores["rmse"].mean(),
            "validation_spread": scores["spread"].mean(),
            "pcc_at_least": shown.correlation[0],
            "explained_at_least": shown.explained[0],
            "neighbourhood_pcc_at_least": shown.correlation[1],
            "neighbourhood_explained_at_least": shown.explained[1],
            "verdict": shown.verdicts,
        }
    )
    return table.set_axis(pd.Index(model.genes, name="gene"))


def as_facts(trust: Trust) -> dict[str, Any]:
    """The verdict on the slide as plain values, for the files that hold the prediction."""
    return {
        "verdict": trust.verdict,
        "reasons": list(trust.reasons),
        "share_beyond": dict(trust.shares),
        "flagged_above": FLAGGED,
        "refused_above": REFUSED,
    }
