"""Differential expression and clusters of spatial domains."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from flag_st.metrics.base import Case
from flag_st.metrics.deg import Deg, wilcoxon_z
from flag_st.metrics.domains import (
    Domains,
    leiden,
    leiden_domains,
    neighbour_graph,
    resolution_for,
)

N, G = 150, 60
GENES = np.array([f"g{i:02d}" for i in range(G)])


@pytest.fixture(scope="module")
def arrays():
    """Counts with ties in three domains, and a noisy prediction of them."""
    rng = np.random.default_rng(2)
    domains = np.repeat(["core", "rim", "stroma"], N // 3)
    shift = {d: rng.normal(size=G) for d in ("core", "rim", "stroma")}
    rate = np.exp(np.array([shift[d] for d in domains]))
    truth = np.log1p(rng.poisson(2 * rate))
    return truth, truth + rng.normal(size=(N, G)), domains


def case(truth, prediction, **known):
    names = tuple(f"g{i:02d}" for i in range(truth.shape[1]))
    return Case(truth, prediction, np.zeros((len(truth), 2)), names, cache=known)


def rank_sums(values, domains):
    """(D, G) z-scores by scipy, of every domain in the order of its name."""
    sides = [(values[domains == d], values[domains != d]) for d in np.unique(domains)]
    return np.array([scipy.stats.ranksums(inside, rest).statistic for inside, rest in sides])


def top(z, k):
    """The ``k`` best genes of each row; equal z-scores are ordered by name."""
    return [set(GENES[np.lexsort((GENES[: len(row)], -row.round(4)))[:k]]) for row in z]


# --- DEG ----------------------------------------------------------------------------------------


def test_z_is_that_of_the_rank_sum_test(arrays):
    truth, prediction, domains = arrays
    codes = np.unique(domains, return_inverse=True)[1]
    for values in (truth, prediction, -prediction):
        expected = rank_sums(values, domains)
        found = wilcoxon_z(values, codes, np.arange(3))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        some = wilcoxon_z(values, codes, np.array([2]))
        np.testing.assert_array_equal(some, found[2:])


def test_overlap_is_of_the_best_genes(arrays):
    truth, prediction, domains = arrays
    found = Deg()(case(truth, prediction, domains=domains))
    one, two = (rank_sums(values, domains) for values in (truth, prediction))
    for k in (20, 50):
        shared = [len(a & b) / k for a, b in zip(top(one, k), top(two, k), strict=True)]
        assert found[f"deg_overlap_{k}"] == pytest.approx(np.mean(shared))
        expected = (np.mean(shared) - k / G) / (1 - k / G)
        assert found[f"deg_excess_{k}"] == pytest.approx(expected)
    rho = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(one, two, strict=True)]
    assert found["deg_spearman"] == pytest.approx(np.mean(rho), abs=1e-6)
    assert (found["deg_domains"], found["deg_domains_skipped"]) == (3, 0)


def test_truth_overlaps_itself_and_chance_does_not(arrays):
    truth, _, domains = arrays
    same = Deg()(case(truth, truth.copy(), domains=domains))
    assert same["deg_overlap_20"] == same["deg_excess_50"] == 1
    assert same["deg_spearman"] == pytest.approx(1)
    noise = np.random.default_rng(0)
    chance = [Deg()(case(truth, noise.normal(size=(N, G)), domains=domains)) for _ in range(60)]
    mean = {name: np.mean([c[name] for c in chance]) for name in chance[0]}
    assert mean["deg_overlap_20"] == pytest.approx(20 / 60, abs=0.03)
    assert mean["deg_excess_20"] == pytest.approx(0, abs=0.04)
    assert mean["deg_spearman"] == pytest.approx(0, abs=0.04)


def test_small_domains_and_unlabelled_spots_take_no_part(arrays):
    truth, prediction, domains = arrays
    labels = domains.copy().astype(object)
    labels[:9] = "nerve"
    labels[140:] = ""
    found = Deg()(case(truth, prediction, domains=labels))
    assert (found["deg_domains"], found["deg_domains_skipped"]) == (3, 1)
    kept = np.isin(labels, ["core", "rim", "stroma", "nerve"])
    z = [rank_sums(v[kept], labels[kept].astype(str))[[0, 2, 3]] for v in (truth, prediction)]
    shared = [len(a & b) / 20 for a, b in zip(*(top(rows, 20) for rows in z), strict=True)]
    assert found["deg_overlap_20"] == pytest.approx(np.mean(shared))


def test_deg_without_labels_is_of_clusters_of_the_truth(arrays):
    truth, prediction, _ = arrays
    found = Deg()(case(truth, prediction))
    clusters = leiden_domains(truth).astype(str)
    assert found == Deg()(case(truth, prediction, domains=clusters))
    assert found["deg_domains"] > 1
    few = Deg()(case(truth[:20], prediction[:20]))
    assert np.isnan(list(few.values())).all()


def test_deg_is_undefined_with_one_domain(arrays):
    truth, prediction, domains = arrays
    one = Deg()(case(truth, prediction, domains=np.full(N, "all")))
    assert np.isnan(one["deg_overlap_20"])
    assert (one["deg_domains"], one["deg_domains_skipped"]) == (0, 1)
    few = Deg()(case(truth[:, :30], prediction[:, :30], domains=domains))
    assert np.isfinite(few["deg_overlap_20"])
    assert np.isnan(few["deg_overlap_50"])  # of 30 genes


def test_constant_prediction_ranks_genes_by_name_only(arrays):
    truth, prediction, domains = arrays
    found = Deg()(case(truth, 3 + 1e-9 * prediction, domains=domains))
    assert found["deg_spearman"] == 0
    tops = top(rank_sums(truth, domains), 20)
    expected = np.mean([len(t & set(GENES[:20])) / 20 for t in tops])
    assert found["deg_overlap_20"] == pytest.approx(expected)


def test_a_prediction_of_whole_numbers_is_no_reason_for_a_warning(arrays, capfd):
    truth, _, domains = arrays
    Deg()(case(truth, np.zeros_like(truth), domains=domains))
    assert capfd.readouterr().err == ""


# --- domains ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clustered(arrays):
    truth, prediction, domains = arrays
    metric = Domains(seeds=3)
    return metric(case(truth, prediction, domains=domains)), metric


def test_neighbours_are_exact_on_large_slides():
    """There are more spots than scanpy would search exactly by itself."""
    values = np.random.default_rng(0).normal(size=(8300, 25))
    spots = neighbour_graph(values)
    x = spots.obsm["X_pca"]
    assert x.shape == (8300, 20)
    distances = NearestNeighbors(n_neighbors=15).fit(x).kneighbors(x)[0]
    found = np.asarray(spots.obsp["distances"].sum(axis=1)).ravel()
    np.testing.assert_allclose(found, distances.sum(axis=1), rtol=1e-3)


@pytest.mark.parametrize("shape", [(12, 60), (40, 3), (40, 2)], ids=str)
def test_few_spots_and_few_genes_have_a_graph(arrays, shape):
    spots = neighbour_graph(arrays[0][: shape[0], : shape[1]])
    assert spots.obsm["X_pca"].shape[1] == min(shape) - 1
    assert len(leiden(spots, 0.3, 0)) == shape[0]


def test_numbers_of_threads_change_no_bit(arrays):
    import numba

    def graph(threads):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        with threadpool_limits(threads):
            spots = neighbour_graph(arrays[1])
        numba.set_num_threads(before)
        return spots.obsm["X_pca"].tobytes() + spots.obsp["connectivities"].data.tobytes()

    assert graph(1) == graph(min(2, numba.config.NUMBA_NUM_THREADS))


def test_scores_are_those_of_the_clusters(arrays, clustered):
    truth, prediction, domains = arrays
    found, _ = clustered
    one, two = neighbour_graph(truth), neighbour_graph(prediction)
    clusters = [(leiden(one, 0.3, s), leiden(two, 0.3, s)) for s in range(3)]
    for name, score in (("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)):
        values = [score(a, b) for a, b in clusters]
        assert found[f"{name}_clusters"] == pytest.approx(np.mean(values))
        assert found[f"{name}_clusters_sd"] == pytest.approx(np.std(values, ddof=1))
        values = [score(domains, b) for _, b in clusters]
        assert found[f"{name}_labels"] == pytest.approx(np.mean(values))
    assert found["n_clusters"] == np.mean([len(np.unique(b)) for _, b in clusters])
    assert found["n_clusters_truth"] == np.mean([len(np.unique(a)) for a, _ in clusters])
    assert found["ari_labels_matched"] > 0.8


def test_resolution_is_matched(arrays):
    spots = neighbour_graph(arrays[1])
    for count in (1, 3, 5, 8):
        found = leiden(spots, resolution_for(spots, count), 0).max() + 1
        assert abs(found - count) <= (0 if count <= 3 else 1)


def test_truth_agrees_with_itself(arrays, clustered):
    truth, _, domains = arrays
    found = clustered[1](case(truth, truth.copy(), domains=domains))
    for name in ("ari_clusters", "nmi_clusters"):
        assert found[name] == pytest.approx(1)


def test_clusters_are_deterministic(arrays, clustered):
    truth, prediction, domains = arrays
    found, metric = clustered
    assert metric(case(truth, prediction, domains=domains)) == found


def test_leiden_leaves_the_global_generator_alone(arrays):
    import random

    spots = neighbour_graph(arrays[0])
    random.seed(5)
    expected = random.random()
    random.seed(5)
    leiden(spots, 0.3, 1)
    assert random.random() == expected


def test_unlabelled_spots_are_not_compared(arrays, clustered):
    truth, prediction, domains = arrays
    labels = domains.copy().astype(object)
    labels[::5] = ""
    labels[labels == "rim"] = ""  # two names are left, and the lack of one is no third
    found = clustered[1](case(truth, prediction, domains=labels))
    spots = neighbour_graph(prediction)
    kept = labels != ""
    values = [adjusted_rand_score(domains[kept], leiden(spots, 0.3, s)[kept]) for s in range(3)]
    assert found["ari_labels"] == pytest.approx(np.mean(values))
    matched = resolution_for(spots, 2)
    assert matched != resolution_for(spots, 3)
    values = [adjusted_rand_score(domains[kept], leiden(spots, matched, s)[kept]) for s in range(3)]
    assert found["ari_labels_matched"] == pytest.approx(np.mean(values))
    assert found["ari_clusters"] == clustered[0]["ari_clusters"]


def test_constant_prediction_is_one_cluster(arrays, clustered):
    truth, prediction, domains = arrays
    found = clustered[1](case(truth, 1 + 1e-9 * prediction, domains=domains))
    assert found["n_clusters"] == 1
    for name in ("ari_clusters", "nmi_clusters_matched", "ari_labels", "nmi_labels_matched"):
        assert found[name] == 0


def test_domains_undefined(arrays, clustered):
    truth, prediction, domains = arrays
    without = clustered[1](case(truth, prediction))
    assert np.isnan(without["ari_labels"])
    assert np.isfinite(without["ari_clusters"])
    one = clustered[1](case(truth, prediction, domains=np.full(N, "all")))
    assert np.isnan(one["ari_labels"])
    few = clustered[1](case(truth[:29], prediction[:29], domains=domains[:29]))
    assert np.isnan(list(few.values())).all()
