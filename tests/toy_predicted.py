"""A predicted toy slide with verdicts, for tests of trust and of the output files."""

from pathlib import Path

import numpy as np
from toy_slides import GENES, toy_slide

from flag_st.exported.model import Exported
from flag_st.intervals.calibration import Calibration
from flag_st.intervals.certificate import Certificate
from flag_st.intervals.conformal import Seen
from flag_st.methods.base import Prediction
from flag_st.slides.likeness import Likeness
from flag_st.slides.predicted import Predicted
from flag_st.slides.trust import judge

NAMES = [f"g{i}" for i in range(GENES)]
PIXEL_UM = 0.5


def toy_appearance(spots: int, seed: int = 0) -> np.ndarray:
    """(N, 4) stain and focus of usual patches."""
    rng = np.random.default_rng(seed)
    return rng.normal([0.1, 0.05, 0.02, -2.0], [0.02, 0.01, 0.005, 0.1], (spots, 4))


def toy_validation() -> list[Seen]:
    """Slides of two patients, predicted with three draws."""
    rng = np.random.default_rng(4)
    slides = []
    for patient in "AB":
        truth = rng.uniform(0, 4, (60, GENES))
        samples = truth + rng.normal(0, 1, (3, 60, GENES))
        slides.append(Seen(patient, truth, Prediction(samples), toy_slide(patient, 60).position))
    return slides


def toy_certificate() -> Certificate:
    """The first gene of twelve cannot be trusted, the next four at a coarser scale only."""
    ranks = np.clip((np.arange(GENES) + 3) // 4, 0, 2)
    shown = np.stack([ranks > 1, ranks > 0])
    return Certificate(np.where(shown, 0.6, 0.3), np.where(shown, 0.3, -0.1), patients=2)


def toy_model(pcc: np.ndarray | None = None) -> Exported:
    """An exported model whose reference are toy slides; it predicts nothing."""
    train = np.concatenate([toy_slide(f"T{i}", 200).features for i in range(3)])
    valid = np.concatenate([toy_slide(f"V{i}", 200).features for i in range(2)])
    stain, held = toy_appearance(600, 1), toy_appearance(400, 2)
    likeness = {
        "features": Likeness.fit(train, valid),
        "stain": Likeness.fit(stain[:, :3], held[:, :3]),
    }
    arrays = {
        f"{name}.{key}": array
        for name, one in likeness.items()
        for key, array in one.arrays().items()
    }
    arrays["focus.quantiles"] = np.percentile(held[:, 3], np.arange(101))
    scores = np.tile(np.linspace(0.0, 0.9, GENES), (2, 1)) if pcc is None else pcc
    arrays |= {"validation.pcc": scores, "validation.rmse": np.ones((2, GENES))}
    arrays |= {"validation.spread": np.full((2, GENES), 0.5)}
    arrays |= {f"intervals.{k}": v for k, v in Calibration.fit(toy_validation()).arrays().items()}
    arrays |= {f"certificate.{k}": v for k, v in toy_certificate().arrays().items()}
    facts = {
        "genes": NAMES,
        "pixel_um": {"T0": 0.5},
        "patches": {"size": 224, "um_per_px": 0.5},
        "platform": {"pitch_um": 200.0, "spot_um": 100.0, "layout": "square"},
    }
    return Exported(Path("model.flag"), facts, arrays)


def toy_predicted(spots: int = 49, draws: int = 3, unit: str = "log1p", **more) -> Predicted:
    """Spots 200 µm apart on an image of half a µm per pixel."""
    slide = toy_slide("New", spots).without_truth()
    trust = judge(
        toy_model(), slide.features, toy_appearance(spots), slide.position, PIXEL_UM, 200.0
    )
    rng = np.random.default_rng(3)
    samples = rng.uniform(0, 4, (draws, spots, GENES)).astype(np.float32)
    side = int(np.ceil((slide.position.max() + 400) / PIXEL_UM))
    known = {
        "slide": slide,
        "prediction": Prediction(samples),
        "facts": {"method": "toy", "unit": unit, "seed": 0, "genes": NAMES},
        "shown": NAMES[:2],
        "trust": trust,
        "intervals": Calibration.fit(toy_validation()),
        "array": np.round(slide.position[:, ::-1] / 200).astype(int),
        "pitch_um": 200.0,
        "spot_um": 100.0,
        "pixel_um": PIXEL_UM,
        "size": (side, side),
        "qupath_origin": (0, 0),
        "picture": np.full((100, 100, 3), 230, np.uint8),
        "origin": {"model": "model.flag", "sha256": "0" * 64},
    }
    return Predicted(**{**known, **more})
