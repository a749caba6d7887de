"""PCC, MSE, MAE, GSC and SSC against loops written from their definitions, and the edge cases."""

import numpy as np
import pytest
import scipy.stats

from flag_st.core.errors import FlagError
from flag_st.metrics.base import Case
from flag_st.metrics.gsc import Gsc
from flag_st.metrics.mae import Mae
from flag_st.metrics.mse import Mse
from flag_st.metrics.pcc import Pcc
from flag_st.metrics.policy import centred, pearson, spearman
from flag_st.metrics.ssc import Ssc, graph_of, morans_i, neighbour_graph

N, G = 60, 14
ALL = [Pcc(), Mse(), Mae(), Gsc(), Ssc()]


def names(count):
    return tuple(f"g{i}" for i in range(count))


@pytest.fixture
def arrays():
    """Truth with spatial and gene structure, a prediction of it, and spots at random places."""
    rng = np.random.default_rng(5)
    position = rng.uniform(0, 1000, size=(N, 2))
    fields = np.sin(position @ rng.normal(size=(2, 4)) / 150)
    truth = fields @ rng.normal(size=(4, G)) + 0.7 * rng.normal(size=(N, G)) + 5
    prediction = 0.6 * truth + rng.normal(size=(N, G)) * rng.uniform(0.1, 2, size=G)
    return truth, prediction, position


def case(truth, prediction, position=None, **known):
    return Case(truth, prediction, position, names(truth.shape[1]), cache=known)


def evaluate(truth, prediction, position, metrics=ALL):
    shared = case(truth, prediction, position)
    return {name: value for metric in metrics for name, value in metric(shared).items()}


# --- independent references, from the definitions and with loops --------------------------------


def loop_pearson(a, b):
    a, b = a - sum(a) / len(a), b - sum(b) / len(b)
    return sum(a * b) / np.sqrt(sum(a * a) * sum(b * b))


def loop_graph(position, k):
    n = len(position)
    linked = np.zeros((n, n))
    for i in range(n):
        distance = [(np.hypot(*(position[i] - position[j])), j) for j in range(n) if j != i]
        for _, j in sorted(distance)[:k]:
            linked[i, j] = linked[j, i] = 1
    return linked


def loop_moran(values, linked):
    z = values - values.mean()
    n, cross = len(z), 0.0
    for i in range(n):
        for j in range(n):
            cross += linked[i, j] * z[i] * z[j]
    return n / linked.sum() * cross / sum(z * z)


def loop_upper(values):
    g = values.shape[1]
    pairs = [(a, b) for a in range(g) for b in range(a + 1, g)]
    return np.array([loop_pearson(values[:, a], values[:, b]) for a, b in pairs])


def test_values_equal_the_definitions(arrays):
    truth, prediction, position = arrays
    found = evaluate(truth, prediction, position)
    r = [loop_pearson(truth[:, g], prediction[:, g]) for g in range(G)]
    np.testing.assert_allclose(found["pcc_gene"], r, rtol=1e-12)
    assert found["pcc"] == pytest.approx(np.mean(r), rel=1e-12)
    assert found["mse"] == pytest.approx(
        np.mean([(p - y) ** 2 for p, y in zip(prediction.flat, truth.flat, strict=True)])
    )
    assert found["mae"] == pytest.approx(
        np.mean([abs(p - y) for p, y in zip(prediction.flat, truth.flat, strict=True)])
    )
    y, p = loop_upper(truth), loop_upper(prediction)
    assert found["gsc"] == pytest.approx(loop_pearson(y, p), rel=1e-10)
    assert found["gsc_error"] == pytest.approx(np.mean(abs(y - p)), rel=1e-10)
    assert found["gsc_slope"] == pytest.approx(np.polyfit(y, p, 1)[0], rel=1e-10)
    assert found["gsc_strength_truth"] == pytest.approx(np.mean(abs(y)), rel=1e-10)
    assert found["gsc_strength_prediction"] == pytest.approx(np.mean(abs(p)), rel=1e-10)
    linked = loop_graph(position, 8)
    y = np.array([loop_moran(truth[:, g], linked) for g in range(G)])
    p = np.array([loop_moran(prediction[:, g], linked) for g in range(G)])
    np.testing.assert_allclose(found["moran_truth"], y, rtol=1e-10)
    np.testing.assert_allclose(found["moran_prediction"], p, rtol=1e-10)
    assert found["ssc"] == pytest.approx(loop_pearson(y, p), rel=1e-10)
    assert found["ssc_spearman"] == pytest.approx(scipy.stats.spearmanr(y, p).statistic, rel=1e-10)
    assert found["moran_bias"] == pytest.approx(np.mean(p - y), rel=1e-8)
    assert found["moran_mae"] == pytest.approx(np.mean(abs(p - y)), rel=1e-10)


def test_pcc_equals_scipy(arrays):
    truth, prediction, _ = arrays
    expected = scipy.stats.pearsonr(truth, prediction, axis=0).statistic
    np.testing.assert_allclose(Pcc()(case(truth, prediction))["pcc_gene"], expected, rtol=1e-12)


def test_morans_i_equals_scanpy(arrays):
    import scanpy as sc
    from scipy.sparse import csr_matrix

    truth, prediction, position = arrays
    graph = csr_matrix(neighbour_graph(position, 8))
    found = evaluate(truth, prediction, position, [Ssc()])
    for values, name in ((truth, "moran_truth"), (prediction, "moran_prediction")):
        expected = sc.metrics.morans_i(graph, values.T)
        np.testing.assert_allclose(found[name], expected, atol=1e-8)


def test_truth_scores_the_optimum_against_itself(arrays):
    truth, _, position = arrays
    found = evaluate(truth, truth.copy(), position)
    for name in ("pcc", "gsc", "gsc_slope", "ssc", "ssc_spearman"):
        assert found[name] == pytest.approx(1, abs=1e-12), name
    for name in ("mse", "mae", "gsc_error", "moran_bias", "moran_mae"):
        assert found[name] == pytest.approx(0, abs=1e-12), name


# --- invariances --------------------------------------------------------------------------------


def test_order_of_spots_and_genes_does_not_matter(arrays):
    truth, prediction, position = arrays
    rng = np.random.default_rng(0)
    spots, genes = rng.permutation(N), rng.permutation(G)
    one = evaluate(truth, prediction, position)
    two = evaluate(truth[spots][:, genes], prediction[spots][:, genes], position[spots])
    for name, value in one.items():
        expected = value[genes] if np.ndim(value) else value
        np.testing.assert_allclose(two[name], expected, rtol=1e-9, err_msg=name)


def test_affine_changes_of_the_prediction(arrays):
    truth, prediction, position = arrays
    rng = np.random.default_rng(1)
    scale, shift = rng.uniform(0.1, 9, G), rng.normal(size=G) * 50
    one = evaluate(truth, prediction, position)
    two = evaluate(truth, prediction * scale + shift, position)
    for name in ("pcc", "gsc", "ssc", "moran_bias"):
        assert two[name] == pytest.approx(one[name], rel=1e-9), name
    assert Pcc()(case(truth, -prediction))["pcc"] == pytest.approx(-one["pcc"], rel=1e-12)
    assert two["mse"] > 2 * one["mse"]


def test_large_offsets_lose_no_digits(arrays):
    truth, prediction, position = arrays
    one = evaluate(truth, prediction, position)
    two = evaluate(truth + 1e6, prediction + 1e6, position)
    for name in ("pcc", "gsc", "ssc"):
        assert two[name] == pytest.approx(one[name], abs=1e-7), name


def test_one_cache_gives_the_same_values_as_none(arrays):
    truth, prediction, position = arrays
    shared = {}
    cases = [
        Case(truth, p, position, names(G), cache={"truth": shared})
        for p in (prediction, prediction[::-1].copy())
    ]
    for one in cases:
        alone = evaluate(truth, one.prediction, position)
        for metric in ALL:
            for name, value in metric(one).items():
                np.testing.assert_array_equal(value, alone[name], err_msg=name)
    assert ("graph", 8, False) in shared
    assert not any("prediction" in str(key) for key in shared)


# --- degenerate cases ---------------------------------------------------------------------------


def test_gene_constant_in_truth_is_dropped_for_all_and_counted(arrays):
    truth, prediction, position = arrays
    truth = truth.copy()
    truth[:, [2, 5]] = [0.0, 3.3]
    kept = np.setdiff1d(np.arange(G), [2, 5])
    found = evaluate(truth, prediction, position)
    alone = evaluate(truth[:, kept], prediction[:, kept], position)
    for name in ("pcc", "gsc", "gsc_slope", "ssc", "ssc_spearman", "moran_bias", "moran_mae"):
        assert found[name] == pytest.approx(alone[name], rel=1e-10), name
    for name in ("pcc_gene", "moran_truth", "moran_prediction"):
        assert np.isnan(found[name][[2, 5]]).all()
        np.testing.assert_allclose(found[name][kept], alone[name], rtol=1e-12)
    assert (found["n_genes_used"], found["n_constant_truth"]) == (G - 2, 2)
    assert found["n_constant_prediction"] == 0
    # Errors are defined for constant genes too.
    assert found["mse"] == pytest.approx(((truth - prediction) ** 2).mean())


def test_constant_prediction_is_scored_as_no_skill_and_counted(arrays):
    truth, prediction, position = arrays
    prediction = prediction.copy()
    prediction[:, 0] = 4.2
    prediction[:, 1] = 4.2 + 1e-7 * truth[:, 1]  # perfectly correlated, yet numerical noise
    found = evaluate(truth, prediction, position)
    np.testing.assert_array_equal(found["pcc_gene"][:2], 0)
    assert found["pcc"] == pytest.approx(found["pcc_gene"][2:].sum() / G)
    assert found["n_constant_prediction"] == 2
    assert found["n_genes_used"] == G
    np.testing.assert_allclose(found["moran_prediction"][:2], -1 / (N - 1))
    p = np.corrcoef(prediction.T)
    p[:2] = p[:, :2] = 0
    upper = np.triu_indices(G, 1)
    expected = loop_pearson(np.corrcoef(truth.T)[upper], p[upper])
    assert found["gsc"] == pytest.approx(expected, rel=1e-10)
    assert found["ssc"] == pytest.approx(
        loop_pearson(found["moran_truth"], found["moran_prediction"]), rel=1e-10
    )


def test_small_but_real_variation_is_not_constant(arrays):
    truth, prediction, _ = arrays
    found = Pcc()(case(truth, 4 + 1e-4 * prediction))
    assert found["n_constant_prediction"] == 0
    assert found["pcc"] == pytest.approx(Pcc()(case(truth, prediction))["pcc"], rel=1e-8)


def test_prediction_constant_in_all_genes_scores_zero(arrays):
    truth, prediction, position = arrays
    found = evaluate(truth, np.full_like(prediction, 2.5), position)
    for name in ("pcc", "gsc", "gsc_slope", "ssc", "ssc_spearman"):
        assert found[name] == 0, name
    assert found["n_constant_prediction"] == G
    assert found["moran_bias"] == pytest.approx(-1 / (N - 1) - found["moran_truth"].mean())


def test_constant_in_both_counts_as_constant_truth_only(arrays):
    truth, prediction, _ = arrays
    truth, prediction = truth.copy(), prediction.copy()
    truth[:, 3] = prediction[:, 3] = 0
    found = Pcc()(case(truth, prediction))
    assert (found["n_constant_truth"], found["n_constant_prediction"]) == (1, 0)


def test_truth_constant_in_all_genes_is_undefined(arrays):
    truth, prediction, position = arrays
    found = evaluate(np.ones_like(truth), prediction, position)
    assert np.isnan([found[n] for n in ("pcc", "gsc", "ssc", "moran_bias")]).all()
    assert found["n_genes_used"] == 0
    assert np.isfinite(found["mse"])


@pytest.mark.parametrize("metric", ALL, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_prediction_that_is_not_finite_is_refused_with_counts(arrays, metric, bad):
    truth, prediction, position = arrays
    prediction = prediction.copy()
    prediction[[1, 4, 6], 3] = prediction[1, 5] = bad
    with pytest.raises(FlagError, match=r"slide A1 .* 2 of 14 genes \(such as g3\) and 3 of 60"):
        metric(case(truth, prediction, position, slide="A1"))


def test_truth_that_is_not_finite_is_refused(arrays):
    truth, prediction, _ = arrays
    truth = truth.copy()
    truth[0, 0] = np.nan
    with pytest.raises(FlagError, match=r"the truth is NaN .* that were not measured"):
        Pcc()(case(truth, prediction))


@pytest.mark.parametrize(
    ("spots", "pcc", "structure"), [(2, 0, 0), (3, 1, 0), (29, 1, 0), (30, 1, 1)]
)
def test_fewest_spots(arrays, spots, pcc, structure):
    truth, prediction, position = (a[:spots] for a in arrays)
    found = evaluate(truth, prediction, position)
    assert np.isfinite(found["pcc"]) == pcc
    assert np.isfinite(found["pcc_gene"]).all() == pcc
    for name in ("gsc", "gsc_error", "ssc", "moran_mae"):
        assert np.isfinite(found[name]) == structure, name
    for name in ("moran_truth", "moran_prediction"):
        assert np.isfinite(found[name]).all() == structure
        assert len(found[name]) == G
    assert np.isfinite(found["mse"])
    assert found["n_genes_used"] == G


@pytest.mark.parametrize(("genes", "defined"), [(9, False), (10, True)])
def test_fewest_genes(arrays, genes, defined):
    truth, prediction, position = arrays
    truth = truth.copy()
    truth[:, genes:] = 1
    found = evaluate(truth, prediction, position)
    for name in ("gsc", "gsc_slope", "ssc", "ssc_spearman"):
        assert np.isfinite(found[name]) == defined, name
    assert found["n_genes_used"] == genes
    assert np.isfinite(found["moran_truth"]).sum() == genes


def test_returned_names_are_the_declared_ones(arrays):
    for metric in ALL:
        assert list(metric(case(*arrays))) == list(metric.columns)
        assert all(direction in (-1, 0, 1) for _, direction in metric.columns.values())


def test_spearman_is_scipys_ties_included():
    one, two = np.random.default_rng(0).integers(-4, 4, size=(2, 40)) / 3
    assert spearman(one, two) == pytest.approx(scipy.stats.spearmanr(one, two).statistic)
    assert spearman(one, np.zeros(40)) == 0


def test_pearson_of_few_or_constant_values():
    assert np.isnan(pearson(np.ones(20), np.arange(20)))
    assert pearson(np.arange(20), np.ones(20)) == 0
    assert np.isnan(pearson(np.array([0, 1]), np.array([0, 1])))


# --- neighbours ---------------------------------------------------------------------------------


def square(side):
    return np.array([(x, y) for y in range(side) for x in range(side)], dtype=float)


def hexagonal(rows, columns, pitch=100.0):
    return np.array(
        [
            (pitch * (c + 0.5 * (r % 2)), pitch * np.sqrt(0.75) * r)
            for r in range(rows)
            for c in range(columns)
        ]
    )


def test_graph_equals_brute_force():
    position = np.random.default_rng(2).normal(size=(80, 2))
    for k in (1, 6, 8):
        np.testing.assert_array_equal(
            neighbour_graph(position, k).toarray(), loop_graph(position, k)
        )


def test_square_array_has_the_eight_neighbours_of_a_king():
    graph = neighbour_graph(square(7) * 200.0, 8, ties=True)
    inner = [i for i, (x, y) in enumerate(square(7)) if 0 < x < 6 and 0 < y < 6]
    reach = np.abs(square(7)[:, None] - square(7)[None]).max(-1)
    for i in inner:
        assert set(np.flatnonzero(reach[i] == 1)) <= set(graph[[i]].indices)
    centre = 24
    assert sorted(graph[[centre]].indices) == sorted(np.flatnonzero(reach[centre] == 1))


def test_ties_are_taken_by_index_or_all():
    position = hexagonal(9, 9)
    centre = 4 * 9 + 4
    distance = np.linalg.norm(position - position[centre], axis=1)
    ring1 = np.flatnonzero(np.isclose(distance, 100))
    ring2 = np.flatnonzero(np.isclose(distance, 100 * np.sqrt(3)))
    assert (len(ring1), len(ring2)) == (6, 6)
    everything = set(neighbour_graph(position, 8, ties=True)[[centre]].indices)
    assert everything == {*ring1, *ring2}
    chosen = set(neighbour_graph(position, 8)[[centre]].indices)
    assert {*ring1, *ring2[:2]} <= chosen  # its own choice: the lowest indices
    noise = np.random.default_rng(0).normal(size=position.shape) * 1e-12
    np.testing.assert_array_equal(
        neighbour_graph(position + noise, 8).toarray(), neighbour_graph(position, 8).toarray()
    )


def test_ties_make_the_graph_independent_of_spot_order():
    position = hexagonal(8, 7)
    order = np.random.default_rng(3).permutation(len(position))
    one = neighbour_graph(position, 8, ties=True).toarray()
    two = neighbour_graph(position[order], 8, ties=True).toarray()
    np.testing.assert_array_equal(two, one[np.ix_(order, order)])


@pytest.mark.parametrize("ties", [False, True])
def test_graph_is_symmetric_binary_and_without_loops(ties):
    position = np.repeat(np.random.default_rng(4).normal(size=(20, 2)), 3, axis=0)
    graph = neighbour_graph(position, 8, ties).toarray()
    np.testing.assert_array_equal(graph, graph.T)
    assert set(np.unique(graph)) == {0, 1}
    assert not graph.diagonal().any()
    assert (graph.sum(1) >= 8).all()
    for i in range(0, 60, 3):  # spots at one place are neighbours of each other
        assert graph[i, i + 1] == graph[i, i + 2] == graph[i + 1, i + 2] == 1


def test_fewer_spots_than_neighbours():
    graph = neighbour_graph(np.random.default_rng(0).normal(size=(5, 2)), 8).toarray()
    np.testing.assert_array_equal(graph, 1 - np.eye(5))


def test_all_spots_at_one_place():
    graph = neighbour_graph(np.zeros((12, 2)), 3).toarray()
    # Spot i takes the three lowest other indices; the union links those four with everyone.
    assert graph[:3, 3:].all()
    assert graph[5, 6] == 0


def test_morans_i_closed_forms():
    # Checkerboard on a ring: every neighbour has the opposite sign.
    angle = np.arange(40) * 2 * np.pi / 40
    graph = neighbour_graph(np.stack([np.cos(angle), np.sin(angle)], 1), 2)
    alternating = np.where(np.arange(40) % 2, 1.0, -1.0)
    wave = np.cos(angle)  # an eigenvector of the ring: I = cos(2π/40)
    values = centred(np.stack([alternating, wave, np.full(40, 7.0)], 1))
    np.testing.assert_allclose(morans_i(values, graph), [-1, np.cos(angle[1]), -1 / 39])


def test_graph_parameters_reach_the_metric(arrays):
    truth, prediction, position = arrays
    shared = case(truth, prediction, position)
    few, many = Ssc(k=4)(shared), Ssc(k=12)(shared)
    assert graph_of(shared, 4, False).nnz < graph_of(shared, 12, False).nnz
    assert not np.allclose(few["moran_truth"], many["moran_truth"])
