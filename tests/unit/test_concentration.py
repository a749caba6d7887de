"""Correlations of spots: by chance alone they concentrate as 1/√G; shared tissue keeps them apart."""

import numpy as np

from flag_st.paper.figures.concentration import between_spots, spot_correlations
from flag_st.paper.tissue import Tissue

SIZES = [50, 100, 200, 400, 800]


def tissue(strength: float) -> Tissue:
    """80 spots of two kinds, 800 genes; kinds differ in every gene by ``strength``."""
    rng = np.random.default_rng(0)
    kind = np.arange(80)[:, None] % 2
    truth = np.tile([1.0, 3.0], 400) + strength * kind * rng.choice([-1, 1], 800)
    truth = truth + 0.5 * rng.normal(size=(80, 800))
    return Tissue(
        slide="A1",
        image=np.zeros((2, 2, 3), np.uint8),
        extent=(0, 1, 1, 0),
        spots=np.arange(80).astype(str),
        position=np.zeros((80, 2)),
        diameter=1.0,
        genes=tuple(f"g{i}" for i in range(800)),
        truth=truth,
        unit="log1p",
    )


def slope(values) -> float:
    return float(np.polyfit(np.log(SIZES), np.log(values), 1)[0])


def test_chance_alone_concentrates_with_the_root_of_genes():
    table = spot_correlations([({"cohort": "toy"}, tissue(0.0))], SIZES)
    assert abs(slope(table["sd"]) + 0.5) < 0.06
    assert abs(slope(table["sd_shuffled"]) + 0.5) < 0.06


def test_tissue_does_not_concentrate_and_its_simulation_does():
    table = spot_correlations([({"cohort": "toy"}, tissue(1.0))], SIZES)
    assert slope(table["sd"]) > -0.1
    assert abs(slope(table["sd_shuffled"]) + 0.5) < 0.06


def test_constant_spots_are_left_out():
    y = np.vstack([np.zeros(5), np.random.default_rng(0).normal(size=(3, 5))])
    assert len(between_spots(y)) == 3
