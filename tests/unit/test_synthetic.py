"""The synthetic cohort: its truth, its files, and that the picture knows nothing of the counts."""

import dataclasses
import json

import anndata
import numpy as np
import openslide
import pytest
from scipy.stats import spearmanr

from flag_st.core.errors import FlagError
from flag_st.core.io import digest
from flag_st.core.seeds import numpy_generator
from flag_st.sources.synthetic import Synthetic
from flag_st.synthetic import DOMAINS, Design, Section, truth
from flag_st.synthetic.expression import MARKERS, draw_counts, programme
from flag_st.synthetic.histology import paint
from flag_st.synthetic.tissue import (
    CELLS_PER_MM2,
    HIDDEN,
    PITCH_UM,
    SECTION_STEP_UM,
    SPOT_UM,
    gaussian_field,
    over_spot,
)

SMALL = {"patients": 2, "sections": 2, "spots": (5, 6), "genes": 60}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return folder, Synthetic(**SMALL).fetch("P1S2", folder)


@pytest.fixture(scope="module")
def cohort():
    """Truths of 4 patients with 2 sections; no picture is drawn."""
    design = Design()
    return {
        (p, s): truth(design, p, s) for p in range(design.patients) for s in range(design.sections)
    }


# Tissue


@pytest.mark.parametrize("distance", [0.0, 150.0, 300.0, 600.0])
def test_field_has_the_covariance_of_its_kernel(distance):
    rng = numpy_generator("field")
    ends = np.array([[700.0, -40.0, 60.0], [700.0 + distance, -40.0, 60.0]])
    pairs = np.array([gaussian_field(rng, 300.0)(ends) for _ in range(4000)])
    expected = np.exp(-(distance**2) / (2 * 300.0**2))
    assert np.mean(pairs[:, 0] * pairs[:, 1]) == pytest.approx(expected, abs=0.07)
    assert pairs.mean() == pytest.approx(0, abs=0.05)


def test_spot_mean_is_the_mean_over_a_disc():
    centres = np.array([[0.0, 0.0], [300.0, 700.0]])
    linear = over_spot(lambda p: 2 * p[:, 0] - p[:, 1], centres)
    np.testing.assert_allclose(linear, [0, -100], atol=1e-9)
    square = over_spot(lambda p: (p**2).sum(1), centres[:1])
    np.testing.assert_allclose(square, (SPOT_UM / 2) ** 2 / 2, rtol=0.01)


def test_serial_sections_share_their_tissue_and_patients_do_not():
    design = Design(patients=4)
    grid = np.stack(np.meshgrid(*[np.arange(500, 2700, 110)] * 2), axis=-1).reshape(-1, 2)
    fields = {
        (p, s): Section(design, p, s).domains(grid).ravel() for p in range(4) for s in range(2)
    }
    same = [np.corrcoef(fields[p, 0], fields[p, 1])[0, 1] for p in range(4)]
    other = [np.corrcoef(fields[p, 0], fields[(p + 1) % 4, 0])[0, 1] for p in range(4)]
    assert min(same) > 0.6 > 0.4 > np.mean(other)
    depths = [{*Section(design, 0, s)._to_block(grid)[:, 2]} for s in range(2)]
    assert depths == [{0.0}, {SECTION_STEP_UM}]  # slices of a block, not copies


def test_shares_add_up_and_density_follows_domains(cohort):
    known = cohort[0, 0]
    np.testing.assert_allclose(known.domains.sum(1), 1)
    # crowding moves the density of a domain by a factor, its mean stays near
    ratio = known.density / (known.domains @ CELLS_PER_MM2)
    assert 0.8 < np.median(ratio) < 1.3
    assert 100 < len(known.centre) < 196


# Expression


def test_counts_are_negative_binomial_around_the_truth():
    design = Design(genes=200)
    known, place = truth(design, 1, 0), Section(design, 1, 0)
    mean = known.expected[:, known.measured]
    spread = programme(200, 0).dispersion[known.measured]
    counts = draw_counts(place, known)
    assert counts.sum() == pytest.approx(mean.sum(), rel=0.02)
    score = (counts - mean) ** 2 / (mean + spread * mean**2)  # expectation 1
    assert score.mean() == pytest.approx(1, abs=0.06)
    poisson = (counts - mean) ** 2 / mean
    assert poisson.mean() > 1.3


@pytest.mark.parametrize("domain", DOMAINS)
def test_markers_are_high_in_their_domain(cohort, domain):
    names = MARKERS[domain].split()
    share = np.concatenate([k.domains[:, DOMAINS.index(domain)] for k in cohort.values()])
    parts = [k.expected / k.expected.sum(1, keepdims=True) for k in cohort.values()]
    genes = cohort[0, 0].genes.tolist()
    columns = np.concatenate(parts)[:, [genes.index(n) for n in names]]
    fold = columns[share > 0.8].mean(0) / columns[share < 0.2].mean(0)
    assert (fold > 1.8).all(), dict(zip(names, fold.round(2), strict=True))


def test_hidden_programmes_move_expression_beyond_domain_and_density(cohort):
    genes = programme(400, 0)
    strongest = np.argsort(-np.abs(genes.hidden).sum(0))[:10]
    found = []
    for known in cohort.values():
        visible = np.column_stack([known.domains, np.log(known.density)])
        log_share = np.log(known.expected / known.expected.sum(1, keepdims=True))[:, strongest]
        rest = log_share - visible @ np.linalg.lstsq(visible, log_share, rcond=None)[0]
        effect = known.hidden @ genes.hidden[:, strongest]
        found += [np.corrcoef(r, e)[0, 1] for r, e in zip(rest.T, effect.T, strict=True)]
    assert known.hidden.shape[1] == HIDDEN
    assert np.median(found) > 0.5


def test_depth_follows_cell_density(cohort):
    for known in cohort.values():
        assert spearmanr(known.expected.sum(1), known.density).statistic > 0.7


def test_slides_lack_some_anonymous_genes_and_no_marker(cohort):
    genes = cohort[0, 0].genes
    markers = {s for text in MARKERS.values() for s in text.split()}
    measured = [set(genes[k.measured]) for k in cohort.values()]
    common = set.intersection(*measured)
    assert 0.85 * len(genes) < len(common) < len(genes)
    assert len({frozenset(m) for m in measured}) > 1
    assert markers <= common
    assert len(set(genes)) == len(genes) == 400


def test_a_few_genes_already_cover_all_domains():
    first = set(programme(8, 0).symbols)
    assert all(first & set(text.split()) for text in MARKERS.values())


# Picture


def test_picture_is_blind_to_expression():
    section = Section(Design(rows=3, columns=3, genes=60), 0, 0)
    fewer = dataclasses.replace(section, design=dataclasses.replace(section.design, genes=5))
    np.testing.assert_array_equal(paint(section), paint(fewer))


def test_picture_shows_density_and_fat(cohort):
    """Dark pixels count nuclei, white ones count the lumens of fat cells."""
    known, picture = cohort[2, 0], paint(Section(Design(), 2, 0))
    windows = np.stack(
        [picture[y - 45 : y + 45, x - 45 : x + 45] for x, y in known.centre.astype(int)]
    )
    dark = (windows[..., 0] < 130).mean((1, 2))
    white = (windows.min(-1) > 225).mean((1, 2))
    assert spearmanr(dark, known.density).statistic > 0.75
    assert np.corrcoef(white, known.domains[:, DOMAINS.index("fat")])[0, 1] > 0.8


def test_sections_differ_in_stain():
    design = Design(sections=6, rows=2, columns=2)
    means = np.array([paint(Section(design, 0, s)).reshape(-1, 3).mean(0) for s in range(6)])
    assert means.std(0).min() > 0.5


# Files


def test_files_are_in_hest_layout(made):
    folder, files = made
    table, facts = anndata.read_h5ad(files.st), json.loads(files.metadata.read_text())
    assert {p.parent.name for p in files.items().values()} == {"st", "metadata", "wsis"}
    assert facts["patient"] == "P1"
    values = table.X.toarray()
    assert (values == np.floor(values)).all()
    assert values.min() == 0 < values.max()
    array = table.obs[["array_row", "array_col"]].to_numpy()
    assert table.obs_names.tolist() == [f"{a:03d}x{b:03d}" for a, b in array]
    spacing = PITCH_UM / facts["pixel_size_um_estimated"]
    np.testing.assert_allclose(
        table.obsm["spatial"] - table.obsm["spatial"][0], (array - array[0]) * spacing
    )
    assert table.var_names.is_unique
    assert table.var["gene_ids"].is_unique
    assert set(table.obs["domain"].cat.categories) == set(DOMAINS)
    assert not [p for p in folder.rglob("*") if p.name.startswith(".")]
    with openslide.OpenSlide(files.wsi) as wsi:
        assert wsi.dimensions == (facts["fullres_px_width"], facts["fullres_px_height"])
        assert wsi.level_count == 2
        assert (table.obsm["spatial"] < wsi.dimensions).all()
        assert float(wsi.properties["openslide.mpp-x"]) == facts["pixel_size_um_estimated"]


def test_same_seed_same_bytes_in_any_order(made, tmp_path):
    _, files = made
    source = Synthetic(**SMALL)
    source.fetch("P2S1", tmp_path)
    again = source.fetch("P1S2", tmp_path)
    for kind, path in files.items().items():
        assert digest(path) == digest(again.items()[kind]), kind


def test_seed_and_section_change_everything(made, tmp_path):
    _, files = made
    seed = Synthetic(**SMALL, seed=1).fetch("P1S2", tmp_path / "seed")
    section = Synthetic(**SMALL).fetch("P1S1", tmp_path / "section")
    for kind in ("st", "wsi"):
        assert len({digest(f.items()[kind]) for f in (files, seed, section)}) == 3


def test_slides_are_known_without_making_them():
    rows = Synthetic(patients=2, sections=3).slides()
    assert [r.id for r in rows] == ["P1S1", "P1S2", "P1S3", "P2S1", "P2S2", "P2S3"]
    assert {r.patient for r in rows} == {"P1", "P2"}
    assert [r.section for r in rows[:3]] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"patients": 0}, "patients is 0"),
        ({"sections": 1.5}, "sections is 1.5"),
        ({"spots": 14}, "spots is 14"),
        ({"spots": [3, 0]}, "columns of spots is 0"),
        ({"genes": "400"}, "genes is '400'"),
    ],
)
def test_bad_sizes_are_refused(params, said):
    with pytest.raises(FlagError, match=said):
        Synthetic(**params)


def test_unknown_slide_names_the_known(tmp_path):
    with pytest.raises(FlagError, match=r"no slide 'P9S1'.*Valid: P1S1, P1S2"):
        Synthetic().fetch("P9S1", tmp_path)


def test_one_spot_still_makes_a_slide(tmp_path):
    files = Synthetic(patients=1, sections=1, spots=(1, 1), genes=3).fetch("P1S1", tmp_path)
    assert anndata.read_h5ad(files.st).shape == (1, 3)
