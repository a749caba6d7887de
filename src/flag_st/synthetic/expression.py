"""Counts of synthetic sections, from domains, gene modules, hidden programmes, donor and depth."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

import numpy as np

from flag_st.core.seeds import numpy_generator
from flag_st.synthetic.tissue import DOMAINS, HIDDEN, Design, Section, over_spot, spot_grid

#: Breast markers by the domain in which they are high; all other genes are anonymous.
MARKERS = {
    "tumour": "ERBB2 GRB7 ESR1 EPCAM KRT8 KRT18 KRT19 CDH1 MUC1 GATA3 FOXA1 TFF3 MKI67",
    "stroma": "COL1A1 COL1A2 COL3A1 FN1 VIM SPARC DCN LUM POSTN ACTA2 TAGLN BGN",
    "immune": "CD74 IGKC IGHG1 CD3E PTPRC CD8A MS4A1 HLA-DRA CCL5 JCHAIN TRAC",
    "fat": "ADIPOQ FABP4 PLIN1 PLIN4 LPL CD36 G0S2 ADH1B",
}
MODULES = 12
#: Mean total count of a spot of mean density, before the effects of donor, section and spot.
DEPTH = 4000.0
#: Share of anonymous genes that a slide lacks, because the genes of real sections differ too.
ABSENT = 0.01


@dataclass(frozen=True)
class Programme:
    """How the genes of a cohort respond to the tissue.

    Attributes:
        symbols: (G,) names.
        module: (G,) module of each gene; genes of one module prefer the same domains.
        profile: (4, G) mean expression in each domain, on the natural scale.
        hidden: (3, G) log effects of the programmes that the picture does not show.
        density: (G,) log effects of crowding.
        dispersion: (G,) of the negative binomial: variance = mean + dispersion * mean².
    """

    symbols: np.ndarray
    module: np.ndarray
    profile: np.ndarray
    hidden: np.ndarray
    density: np.ndarray
    dispersion: np.ndarray


@dataclass(frozen=True)
class Truth:
    """What is known about the N spots of a synthetic section.

    Attributes:
        array: (N, 2) position in the grid, horizontal first.
        centre: (N, 2) centres in µm from the top-left corner of the picture.
        domains: (N, 4) shares of the domains within the spot.
        density: (N,) cells per mm².
        hidden: (N, 3) programmes that the picture does not show.
        expected: (N, G) expected counts of all genes of the cohort.
        genes: (G,) symbols.
        measured: (G,) whether this slide has the gene.
    """

    array: np.ndarray
    centre: np.ndarray
    domains: np.ndarray
    density: np.ndarray
    hidden: np.ndarray
    expected: np.ndarray
    genes: np.ndarray
    measured: np.ndarray


@lru_cache(maxsize=4)
def programme(genes: int, seed: int) -> Programme:
    """The programme of a cohort, which all its patients share."""
    rng = numpy_generator(seed, "synthetic", "genes")
    # In turns, so that even a few genes have markers of every domain.
    turns = zip_longest(*(text.split() for text in MARKERS.values()))
    named = [(s, d) for turn in turns for d, s in enumerate(turn) if s][:genes]
    anonymous = genes - len(named)
    symbols = [s for s, _ in named] + [f"GENE{i + 1:04d}" for i in range(anonymous)]

    # A module has one main domain, sometimes two; anonymous genes follow it more or less closely.
    main = rng.integers(len(DOMAINS), size=MODULES)
    pattern = rng.normal(scale=0.35, size=(MODULES, len(DOMAINS)))
    pattern[np.arange(MODULES), main] += rng.uniform(0.8, 1.6, size=MODULES)
    module = rng.integers(MODULES, size=genes)
    closeness = rng.beta(0.8, 1.2, size=genes)  # many genes near 0: weak signal
    effect = closeness[:, None] * pattern[module]  # (G, 4)
    for gene, (_, domain) in enumerate(named):
        module[gene] = MODULES + domain
        effect[gene] = rng.normal(scale=0.2, size=len(DOMAINS))
        effect[gene, domain] += rng.uniform(1.6, 2.6)
    level = rng.normal(scale=1.3, size=genes)
    level[: len(named)] += 1.0
    hidden = rng.normal(scale=0.9, size=(HIDDEN, genes)) * (rng.random((HIDDEN, genes)) < 0.15)
    hidden[:, : len(named)] *= 0.3
    return Programme(
        symbols=np.array(symbols, dtype=object),
        module=module,
        profile=np.exp(level + effect.T),
        hidden=hidden,
        density=rng.normal(scale=0.5, size=genes) * (rng.random(genes) < 0.2),
        dispersion=rng.gamma(2.0, 0.08, size=genes) + 0.02,
    )


def truth(design: Design, patient: int, number: int) -> Truth:
    """Domains, density, hidden programmes and expected counts of the spots of one section."""
    section = Section(design, patient, number)
    array, centre = spot_grid(design)
    under_tissue = section.inside(centre) > 0
    if not under_tissue.any():  # a tiny grid may miss the tissue altogether
        under_tissue[:] = True
    array, centre = array[under_tissue], centre[under_tissue]
    domains = over_spot(section.domains, centre)  # (N, 4)
    density = over_spot(section.density, centre)  # (N,)
    hidden = over_spot(lambda p: section.fields("hidden", p), centre)  # (N, 3)
    crowding = np.log(over_spot(section.crowding, centre))  # (N,)

    genes = programme(design.genes, design.seed)
    donor = numpy_generator(design.seed, "synthetic", section.donor, "expression")
    effect = donor.normal(scale=0.35, size=design.genes)  # (G,)
    log_weight = hidden @ genes.hidden + crowding[:, None] * genes.density + effect  # (N, G)
    weight = domains @ genes.profile * np.exp(log_weight)  # (N, G)
    depth = _depth(section, density) * np.exp(donor.normal(scale=0.3))  # (N,)
    absent = section.generator("absent").random(design.genes) < ABSENT
    anonymous = np.array([s.startswith("GENE") for s in genes.symbols])
    return Truth(
        array=array,
        centre=centre,
        domains=domains,
        density=density,
        hidden=hidden,
        expected=depth[:, None] * weight / weight.sum(1, keepdims=True),
        genes=genes.symbols,
        measured=~(absent & anonymous),
    )


def _depth(section: Section, density: np.ndarray) -> np.ndarray:
    """(N,) expected total count: it follows cell density, with noise per section and per spot."""
    rng = section.generator("depth")
    noise = rng.normal(scale=0.15) + rng.normal(scale=0.25, size=len(density))
    return DEPTH * (density / 3000) ** 0.8 * np.exp(noise)


def draw_counts(section: Section, known: Truth) -> np.ndarray:
    """(N, measured genes) integer counts, negative binomial with mean ``known.expected``."""
    rng = section.generator("counts")
    shape = 1 / programme(section.design.genes, section.design.seed).dispersion
    rate = rng.gamma(shape, known.expected / shape)  # (N, G)
    return rng.poisson(rate)[:, known.measured]
