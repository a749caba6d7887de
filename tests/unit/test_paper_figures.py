"""Figures: what is drawn is what was predicted, at its true size and in the same bytes."""

import numpy as np
import pandas as pd
import pytest
from paper_example import GENES, PITCH, SIDE, Study, job, load

from flag_st.core.errors import FlagError
from flag_st.paper import tissue as tissues
from flag_st.paper.figures import curves, maps, style

KINDS = ("png", "pdf", "csv")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"))


def draw(study, script, folder, **params):
    out = {kind: folder / f"f.{kind}" for kind in KINDS}
    files = study.inputs
    item = study.item(params=params)
    params = {"item": item, "of": files["of"]}
    load(f"figures/{script}")(job(params, input=files["input"], output=out))
    return out


# --- sizes and scales -----------------------------------------------------------------------------


def grid(pitch, hexagonal=False):
    row, column = (a.ravel().astype(float) for a in np.mgrid[:6, :6])
    if hexagonal:
        return np.stack([(column + 0.5 * (row % 2)) * pitch, row * pitch * np.sqrt(3) / 2], 1)
    return np.stack([column, row], 1) * pitch


@pytest.mark.parametrize(
    ("position", "diameter"),
    [
        (grid(200), 100),
        (grid(100, hexagonal=True), 55),
        (grid(150, hexagonal=True), 110),
        (grid(203), 100),  # arrays differ by a few percent
        (grid(40), 22),  # no array known: 0.55 of the distance
        (np.zeros((1, 2)), 55),
    ],
)
def test_spot_diameter(position, diameter):
    assert tissues.spot_diameter(position) == pytest.approx(diameter)


@pytest.fixture
def tissue(study):
    return tissues.read_tissue(study.spots("A1"), GENES, "log1p")


def test_tissue_is_in_micrometres(tissue):
    assert tissue.diameter == 100
    assert tissue.extent == pytest.approx((0, (SIDE + 3) * PITCH, (SIDE + 3) * PITCH, 0))
    assert tissue.position.min() == 2 * PITCH


def test_spots_are_drawn_at_their_true_size_and_place(tissue):
    """A single row of pixels through the first spots is coloured for 100 of every 200 µm."""
    import matplotlib.pyplot as plt

    style.use()
    figure = plt.figure(figsize=(10, 10), dpi=100, layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    discs = maps.draw_spots(axes, tissue, np.ones(len(tissue.position)), (0, 1), "viridis")
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    full = np.array(discs.get_facecolor()[0][:3]) * 255
    covered = (np.abs(picture - full).max(axis=2) < 12).mean()
    left, right = axes.get_xlim()
    expected = len(tissue.position) * np.pi * 50**2 / (right - left) ** 2
    assert covered == pytest.approx(expected, rel=0.05)
    x, y = axes.transData.transform(tissue.position[0])
    assert np.abs(picture[1000 - round(y), round(x)] - full).max() < 12
    plt.close(figure)


def test_first_row_of_spots_is_at_the_top(tissue):
    import matplotlib.pyplot as plt

    style.use()
    figure, axes = plt.subplots()
    maps.draw_image(axes, tissue)
    bottom, top = axes.get_ylim()
    assert bottom > top  # y grows downwards, as in the picture
    plt.close(figure)


@pytest.mark.parametrize("truth", [np.zeros(9), np.full(9, 3.0), np.arange(9.0)])
def test_colour_range_is_never_empty(truth):
    low, high = maps.colour_range(truth)
    assert high > low


def test_genes_are_those_asked_for_or_the_most_spatial(tissue):
    assert tissues.spatial_genes(tissue, ["ABSENT", "GENE3"], 2) == ["GENE3"]
    from dataclasses import replace

    truth = np.random.default_rng(0).normal(size=tissue.truth.shape)
    truth[:, 7] = tissue.position[:, 0]  # a gradient is as spatial as can be
    assert tissues.spatial_genes(replace(tissue, truth=truth), None, 1) == ["GENE7"]


def test_a_prediction_is_joined_by_spot_and_gene_name(study, tissue):
    import anndata

    key = study.keys[0]
    path = study.of(key, "A1.h5ad")
    table = anndata.read_h5ad(path)
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = study.root / "shuffled.h5ad"
    table[order, ::-1].copy().write_h5ad(shuffled)
    straight = tissues.read_shown(path, tissue, "flag", draw=1)
    np.testing.assert_array_equal(
        tissues.read_shown(shuffled, tissue, "flag", draw=1).values, straight.values
    )
    table[:5].copy().write_h5ad(shuffled)
    with pytest.raises(FlagError, match=r"shuffled\.h5ad lacks spots or genes of slide A1"):
        tissues.read_shown(shuffled, tissue, "flag")


# --- gene maps ------------------------------------------------------------------------------------


def test_gene_maps_draw_truth_point_and_one_draw(study, tmp_path):
    out = draw(study, "gene_maps", tmp_path, count=2, genes=["GENE1", "GENE2"])
    table = pd.read_csv(out["csv"], keep_default_na=False)
    panels = list(dict.fromkeys(zip(table["method"], table["kind"], strict=True)))
    assert panels == [
        ("truth", ""),
        ("flag", "point estimate"),
        ("flag", "one draw"),
        ("ridge", "prediction"),
        ("oracle", "prediction"),
    ]
    assert len(table) == 2 * len(panels) * SIDE**2
    truth = tissues.read_tissue(study.spots("A1"), GENES, "log1p").truth[:, 1]
    drawn = table[(table["method"] == "truth") & (table["gene"] == "GENE1")]["value"]
    np.testing.assert_allclose(drawn, truth, rtol=1e-5)


def test_gene_maps_are_small_and_the_same_bytes_again(study, tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        draw(study, "gene_maps", folder, count=1)
    for kind in KINDS:
        assert (first / f"f.{kind}").read_bytes() == (second / f"f.{kind}").read_bytes(), kind
    assert (first / "f.png").stat().st_size < style.PNG_BYTES


def test_another_test_slide_can_be_asked_for(study, tmp_path):
    out = draw(study, "gene_maps", tmp_path, count=1, slides={"HER2ST": "B<1>"})
    assert set(pd.read_csv(out["csv"])["slide"]) == {"B<1>"}
    with pytest.raises(FlagError, match=r"C9 is not a test slide of HER2ST.*A1, B<1>"):
        draw(study, "gene_maps", tmp_path, slides={"HER2ST": "C9"})


# --- training curves ------------------------------------------------------------------------------


def test_curves_are_those_of_methods_trained_in_epochs(study):
    table, without = curves.read_histories(study.keys, study.files("history.csv"))
    assert without == ["oracle", "ridge"]
    assert set(table["method"]) == {"flag"}
    losses = table.query("seed == 1 and curve == 'loss'")["value"]
    np.testing.assert_allclose(losses, [2 / (e + 1) + 0.01 for e in range(6)])
    assert (
        len(table.query("seed == 0 and curve == 'valid_loss'")) == 3
    )  # epochs without one are no rows


def test_curves_mark_the_best_validation(study):
    table, _ = curves.read_histories(study.keys, study.files("history.csv"))
    figure = curves.draw(table, study.experiment())
    (axes,) = figure.axes
    dots = [tuple(p) for found in axes.collections for p in found.get_offsets().tolist()]
    assert dots == [(3, 1.5)] * 2
    assert len(axes.lines) == 4  # training and validation of two seeds


def test_training_curves_say_so_when_there_are_none(study, tmp_path):
    files = study.inputs
    keep = [i for i, key in enumerate(study.keys) if key["method"] == "ridge"]
    files["input"]["history"] = [files["input"]["history"][i] for i in keep]
    files["of"]["runs"] = [files["of"]["runs"][i] for i in keep]
    out = {kind: tmp_path / f"f.{kind}" for kind in KINDS}
    main = load("figures/training_curves")
    main(job({"item": study.item(), "of": files["of"]}, input=files["input"], output=out))
    assert out["png"].stat().st_size > 1000
    assert len(pd.read_csv(out["csv"])) == 0


def test_training_curves_script(study, tmp_path):
    out = draw(study, "training_curves", tmp_path)
    assert set(pd.read_csv(out["csv"])["curve"]) == {"loss", "valid_loss"}


@pytest.mark.parametrize(
    ("many", "rows"), [(0, [0]), (3, [3]), (5, [5]), (6, [3, 3]), (7, [3, 4]), (12, [4, 4, 4])]
)
def test_many_panels_take_even_rows_and_keep_their_order(many, rows):
    found = style.rows_of(list(range(many)), 5)
    assert [len(row) for row in found] == rows
    assert [item for row in found for item in row] == list(range(many))
