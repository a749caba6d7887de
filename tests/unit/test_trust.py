"""Verdicts: usual slides pass, unusual ones are flagged for the right reason, hopeless ones refused."""

from dataclasses import replace

import numpy as np
import pytest
from toy_predicted import NAMES, toy_appearance, toy_model
from toy_slides import toy_slide

from flag_st.core.errors import FlagError
from flag_st.intervals.certificate import COARSER, DO_NOT, TRUST
from flag_st.slides.appearance import COLUMNS, FOCUS, appearance
from flag_st.slides.likeness import Likeness
from flag_st.slides.trust import (
    FEW,
    LIKE,
    REFUSE,
    UNLIKE,
    gene_verdicts,
    judge,
    lax,
)

SPOTS = 400


def verdict(features=None, looks=None, pixel_um=0.5, position=None, pitch_um=200.0):
    slide = toy_slide("New", SPOTS)
    return judge(
        toy_model(),
        slide.features if features is None else features(slide.features.copy()),
        toy_appearance(SPOTS) if looks is None else looks(toy_appearance(SPOTS)),
        slide.position if position is None else position,
        pixel_um,
        pitch_um,
    )


def test_a_slide_like_those_of_training_passes():
    trust = verdict()
    assert trust.verdict == LIKE
    assert trust.reasons == []
    assert max(trust.shares.values()) < 0.06
    trust.raise_if_refused()
    assert trust.spots["feature_distance"].median() == pytest.approx(1, abs=0.3)


def shift(rows, column, by):
    def change(table):
        table[rows, column] += by
        return table

    return change


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"features": shift(slice(0, 100), slice(None), 30)}, "encoder"),
        ({"looks": shift(slice(0, 100), 0, 0.2)}, "stained"),
        ({"looks": shift(slice(0, 100), FOCUS, -2)}, "blurred"),
        ({"pixel_um": 0.8}, "pixels"),
        ({"pitch_um": 100.0}, "apart"),
    ],
)
def test_an_unusual_slide_is_flagged_for_the_reason_alone(changes, word):
    trust = verdict(**changes)
    assert trust.verdict == UNLIKE
    assert len(trust.reasons) == 1
    assert word in trust.reasons[0]
    trust.raise_if_refused()


@pytest.mark.parametrize(
    "changes",
    [
        {"features": shift(slice(0, 300), slice(None), 30)},
        {"looks": shift(slice(0, 300), 1, 0.2)},
        {"looks": shift(slice(0, 300), FOCUS, -2)},
        {"pixel_um": 1.2},
    ],
)
def test_a_hopeless_slide_is_refused(changes):
    trust = verdict(**changes)
    assert trust.verdict == REFUSE
    with pytest.raises(FlagError, match="too unlike the training slides") as error:
        trust.raise_if_refused()
    assert trust.reasons[0] in str(error.value)
    assert "--force" in str(error.value)


def test_a_model_whose_validation_is_unlike_its_training_says_so():
    """Its limits are so wide that every slide would pass."""
    model = toy_model()
    quantiles = model.arrays["features.quantiles"] * 20
    wide = replace(model, arrays={**model.arrays, "features.quantiles": quantiles})
    slide = toy_slide("New", SPOTS)
    trust = judge(wide, slide.features, toy_appearance(SPOTS), slide.position, 0.5, 200.0)
    assert trust.verdict == UNLIKE
    assert "can hardly fail" in trust.reasons[0]
    assert lax(model) == []


def test_finer_pixels_and_glass_are_no_fault():
    assert verdict(pixel_um=0.12).verdict == LIKE
    assert verdict(looks=shift(slice(None), FOCUS, np.nan)).verdict == LIKE


def test_a_bad_corner_is_a_verdict_on_its_region_alone():
    slide = toy_slide("New", SPOTS)
    corner = (slide.position < 950).all(1)
    trust = verdict(features=shift(corner, slice(None), 30))
    bad = trust.regions[trust.regions["verdict"] == REFUSE]
    assert list(bad.index) == ["x0y0"]
    assert bad["spots"].sum() == trust.spots["region"].eq("x0y0").sum()
    assert trust.verdict == LIKE  # 25 of 400 spots
    assert set(trust.spots["verdict"][corner]) == {UNLIKE}
    few = verdict(position=np.column_stack([np.arange(SPOTS) * 1000.0, np.zeros(SPOTS)]))
    assert set(few.regions["verdict"]) == {FEW}


def test_genes_are_marked_and_none_is_hidden():
    pcc = np.full((2, len(NAMES)), 0.5)
    pcc[:, 0], pcc[:, 1], pcc[0, 2] = np.nan, [-0.2, 0.3], np.nan
    table = gene_verdicts(toy_model(pcc))
    assert list(table.index) == NAMES
    assert table["verdict"].tolist() == [DO_NOT] + 4 * [COARSER] + 7 * [TRUST]
    assert table["validation_pcc_lowest"].iloc[1] == -0.2
    assert np.isnan(table["validation_pcc"].iloc[0])


def test_distances_follow_the_law_of_a_gaussian():
    """Where the model is true, one held-out spot in a hundred is beyond the limit."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(40, 40))

    def draw(spots):
        return rng.normal(size=(spots, 40)) @ mix + 5

    likeness = Likeness.fit(draw(20_000), draw(20_000))
    assert np.mean(likeness.distance(draw(20_000)) > likeness.limit) == pytest.approx(
        0.01, abs=0.004
    )
    assert (likeness.distance(draw(20_000)) ** 2).mean() == pytest.approx(1, abs=0.05)


def test_constant_columns_and_few_spots_give_finite_distances():
    x = np.zeros((12, 30))
    x[:, 0] = np.arange(12)
    likeness = Likeness.fit(x, x)
    assert len(likeness.variance) == 1
    assert np.isfinite(likeness.distance(x)).all()
    moved = x + np.eye(30)[5]  # a column that never varied
    assert (likeness.distance(moved) > 10 * likeness.distance(x)).all()
    again = Likeness.restore(likeness.arrays())
    assert np.array_equal(again.distance(moved), likeness.distance(moved))


def patch(blur: float = 0.0, stain: float = 0.4, seed: int = 0) -> np.ndarray:
    """A purple field of dark grains."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    grain = gaussian_filter(rng.normal(size=(224, 224)), 1.0)
    grain = gaussian_filter(grain, blur) if blur else grain
    density = np.clip(stain * (1 + grain / 0.28 / 2), 0, None)[..., None] * [0.65, 0.70, 0.29]
    return (255 * 10 ** (-density)).astype(np.uint8)


def test_appearance_tells_stain_and_blur():
    usual, blurred, darker = patch(), patch(blur=3), patch(stain=0.8)
    glass = np.full((224, 224, 3), 245, np.uint8)
    table = appearance(np.stack([usual, blurred, darker, glass]))
    assert table.shape == (4, len(COLUMNS))
    haematoxylin, focus = table[:, 0], table[:, FOCUS]
    assert haematoxylin[2] == pytest.approx(2 * haematoxylin[0], rel=0.1)
    assert focus[1] < focus[0] - 0.5
    assert focus[2] == pytest.approx(focus[0], abs=0.3)  # the stain is no blur
    assert np.isnan(focus[3])
    assert haematoxylin[3] < 0.1 * haematoxylin[0]
