"""The tissue: smooth random fields in µm, from which both counts and picture are made.

Every field is a Gaussian process in three dimensions, (x, y) in the section and z across sections,
so that serial sections of one patient are slices through the same block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flag_st.core.seeds import numpy_generator

DOMAINS = ("tumour", "stroma", "immune", "fat")
#: Mean cells per mm² of each domain.
CELLS_PER_MM2 = np.array([4500.0, 1300.0, 8500.0, 350.0])
#: Offset of each domain's field, by which tumour and stroma are the most common.
PREVALENCE = np.array([0.55, 0.35, -0.25, -0.3])
#: Length scales of the fields of domains, of cell density and of the hidden programmes.
DOMAIN_UM, DENSITY_UM, HIDDEN_UM = 400.0, 260.0, 420.0
#: Number of programmes of expression that leave no trace in the morphology.
HIDDEN = 3
SECTION_STEP_UM = 60.0
PITCH_UM, SPOT_UM, MARGIN_UM = 200.0, 100.0, 300.0

Field = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Design:
    """A synthetic cohort.

    Attributes:
        patients, sections: number of donors, and of serial sections per donor.
        rows, columns: size of the grid of spots, which are 200 µm apart as on a legacy ST array.
        genes: number of measured genes.
        seed: the seed of everything random.
    """

    patients: int = 4
    sections: int = 2
    rows: int = 14
    columns: int = 14
    genes: int = 400
    seed: int = 0

    @property
    def size_um(self) -> np.ndarray:
        """(2,) width and height of the picture in µm."""
        return np.array([self.columns - 1, self.rows - 1]) * PITCH_UM + 2 * MARGIN_UM


@dataclass(frozen=True)
class Section:
    """One section of a design. Points are (M, 2) in µm from the top-left corner of its picture.

    Attributes:
        design: the cohort.
        patient, number: which patient, and which of the patient's sections; both count from 0.
    """

    design: Design
    patient: int
    number: int

    @property
    def name(self) -> str:
        """Slide id, such as P1S2."""
        return f"P{self.patient + 1}S{self.number + 1}"

    @property
    def donor(self) -> str:
        """Patient id, such as P1."""
        return f"P{self.patient + 1}"

    def generator(self, *names: str) -> np.random.Generator:
        """The random stream of this section for one purpose."""
        return numpy_generator(self.design.seed, "synthetic", self.name, *names)

    @cached_property
    def tissue(self) -> dict[str, list[Field]]:
        """Kind → fields of the patient's block of tissue."""
        rng = numpy_generator(self.design.seed, "synthetic", self.donor, "tissue")
        return {
            "domains": [gaussian_field(rng, DOMAIN_UM) for _ in DOMAINS],
            "density": [gaussian_field(rng, DENSITY_UM)],
            "hidden": [gaussian_field(rng, HIDDEN_UM) for _ in range(HIDDEN)],
            "fibres": [gaussian_field(rng, 350.0) for _ in range(2)],
            "outline": [gaussian_field(rng, 500.0)],
        }

    def fields(self, kind: str, points: np.ndarray) -> np.ndarray:
        """(M, F) values of the F fields of one kind, each standard normal."""
        block = self._to_block(points)
        return np.stack([field(block) for field in self.tissue[kind]], axis=1)

    def domains(self, points: np.ndarray) -> np.ndarray:
        """(M, 4) shares of the domains, which add up to 1."""
        return self.shares(self.fields("domains", points))

    @staticmethod
    def shares(fields: np.ndarray) -> np.ndarray:
        """(M, 4) softmax of the domains' fields, so steep that most places are of one domain."""
        logits = (fields + PREVALENCE) / 0.18
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    def density(self, points: np.ndarray) -> np.ndarray:
        """(M,) cells per mm²."""
        return self.domains(points) @ CELLS_PER_MM2 * self.crowding(points)

    def crowding(self, points: np.ndarray) -> np.ndarray:
        """(M,) ratio of the cell density to the mean density of the domain."""
        return np.exp(0.35 * self.fields("density", points)[:, 0])

    def inside(self, points: np.ndarray) -> np.ndarray:
        """(M,) approximate distance to the edge of the tissue in µm, negative outside."""
        half = (self.design.size_um - 2 * MARGIN_UM + PITCH_UM) / 2
        offset = (self._to_block(points)[:, :2] - self.design.size_um / 2) / half
        radius = (np.abs(offset) ** 3).sum(1) ** (1 / 3)
        return (0.95 + 0.05 * self.fields("outline", points)[:, 0] - radius) * half.min()

    def _to_block(self, points: np.ndarray) -> np.ndarray:
        """(M, 3) points within the block; a section lies slightly rotated and shifted on its slide."""
        rng = self.generator("placement")
        turn = np.deg2rad(rng.uniform(-8, 8))
        shift = rng.uniform(-80, 80, size=2)
        centre = self.design.size_um / 2
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        plane = (points - centre) @ rotation.T + centre + shift
        return np.column_stack([plane, np.full(len(plane), self.number * SECTION_STEP_UM)])


def gaussian_field(rng: np.random.Generator, length_um: float, waves: int = 64) -> Field:
    """A Gaussian process of unit variance and squared-exponential covariance.

    Made of random Fourier features (Rahimi and Recht 2007), so that it is defined everywhere.
    """
    frequency = rng.normal(scale=1 / length_um, size=(3, waves))
    phase = rng.uniform(0, 2 * np.pi, size=waves)
    weight = rng.normal(size=waves) * np.sqrt(2 / waves)
    return lambda points: np.cos(points @ frequency + phase) @ weight


def spot_grid(design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Array positions (M, 2) and centres (M, 2) in µm of all spots of the grid, x first."""
    column, row = np.meshgrid(np.arange(design.columns), np.arange(design.rows), indexing="ij")
    array = np.stack([column.ravel(), row.ravel()], axis=1)
    return array, array * PITCH_UM + MARGIN_UM


def over_spot(function: Field, centres: np.ndarray) -> np.ndarray:
    """Mean of ``function`` over the disc of each spot (N, 2), from 19 points of equal area."""
    rings = [(0.0, 1), (0.459, 6), (0.827, 12)]
    offsets = np.concatenate(
        [
            radius * SPOT_UM / 2 * np.stack([np.cos(a), np.sin(a)], axis=1)
            for radius, count in rings
            for a in [np.arange(count) * 2 * np.pi / count]
        ]
    )
    points = (centres[:, None] + offsets).reshape(-1, 2)
    values = function(points)
    return values.reshape(len(centres), len(offsets), *values.shape[1:]).mean(1)
