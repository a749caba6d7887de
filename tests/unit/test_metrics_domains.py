"""Differential expression and clusters of spatial domains."""

import anndata
import numpy as np
import pytest
import scanpy
import scipy.stats
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from flag_st.metrics.base import Case
from flag_st.metrics.deg import Deg, wilcoxon_z
from flag_st.metrics.domains import Domains, Graph, leiden_domains

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in log2")

N, G = 150, 60


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


def scanpy_ranking(values, domains):
    table = anndata.AnnData(values.copy(), var={"n": np.arange(values.shape[1])})
    table.var_names = [f"g{i:02d}" for i in range(values.shape[1])]
    table.obs["domain"] = domains
    table.obs["domain"] = table.obs["domain"].astype("category")
    scanpy.tl.rank_genes_groups(table, "domain", method="wilcoxon", tie_correct=False)
    return {d: scanpy.get.rank_genes_groups_df(table, d) for d in np.unique(domains)}


# --- DEG ----------------------------------------------------------------------------------------


def test_z_equals_scanpy(arrays):
    for values in arrays[:2]:
        domains = arrays[2]
        names = np.unique(domains)
        z = wilcoxon_z(values, domains == names[:, None])
        for d, ranking in scanpy_ranking(values, domains).items():
            expected = ranking.set_index("names")["scores"].sort_index().to_numpy()
            np.testing.assert_allclose(z[list(names).index(d)], expected, atol=1e-5)


def test_overlap_equals_scanpy_rankings(arrays):
    truth, prediction, domains = arrays
    found = Deg()(case(truth, prediction, domains=domains))
    one, two = (scanpy_ranking(v, domains) for v in (truth, prediction))
    top = {k: [] for k in (20, 50)}
    rho = []
    for d in one:
        # Equal z-scores are ordered by name.
        a, b = (
            r[d]
            .assign(scores=r[d]["scores"].round(4))
            .sort_values(["scores", "names"], ascending=[False, True])
            for r in (one, two)
        )
        for k in top:
            top[k].append(len({*a["names"][:k]} & {*b["names"][:k]}) / k)
        z = [r.set_index("names")["scores"].sort_index() for r in (a, b)]
        rho.append(scipy.stats.spearmanr(*z).statistic)
    for k in top:
        assert found[f"deg_overlap_{k}"] == pytest.approx(np.mean(top[k]))
        expected = (np.mean(top[k]) - k / G) / (1 - k / G)
        assert found[f"deg_excess_{k}"] == pytest.approx(expected)
    assert found["deg_spearman"] == pytest.approx(np.mean(rho), abs=1e-4)
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
    kept = labels != ""
    inside = np.array([labels[kept] == d for d in ("core", "rim", "stroma")])
    y, p = (wilcoxon_z(v[kept], inside) for v in (truth, prediction))
    names = np.array([f"g{i:02d}" for i in range(G)])
    top = [[set(names[np.lexsort((names, -z))[:20]]) for z in side] for side in (y, p)]
    expected = np.mean([len(a & b) / 20 for a, b in zip(*top, strict=True)])
    assert found["deg_overlap_20"] == pytest.approx(expected)


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
    inside = domains == np.unique(domains)[:, None]
    tops = [set(np.argsort(-z, kind="stable")[:20]) for z in wilcoxon_z(truth, inside)]
    expected = np.mean([len(t & set(range(20))) / 20 for t in tops])
    assert found["deg_overlap_20"] == pytest.approx(expected)


# --- domains ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clustered(arrays):
    truth, prediction, domains = arrays
    metric = Domains(seeds=3)
    return metric(case(truth, prediction, domains=domains)), metric


@pytest.mark.parametrize("case", ["all", "twins", "few"])
def test_graph_is_scanpys(arrays, case):
    """Also where spots are equal, and where there are fewer than neighbours."""
    truth = arrays[0]
    values = {"all": truth, "twins": np.repeat(truth[:40], 2, axis=0), "few": truth[:12]}[case]
    table = anndata.AnnData(values)
    scanpy.pp.pca(table, n_comps=min(20, len(values) - 1), svd_solver="covariance_eigh")
    scanpy.pp.neighbors(table, 15, use_rep="X_pca")
    expected = table.obsp["connectivities"].toarray()
    graph = Graph(values, 20, 15)
    found = np.zeros(expected.shape)
    for edge, weight in zip(graph.igraph.get_edgelist(), graph.weights, strict=True):
        found[edge] = found[edge[::-1]] = weight
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_leiden_is_scanpys(arrays):
    table = anndata.AnnData(arrays[1])
    scanpy.pp.pca(table, n_comps=20)
    scanpy.pp.neighbors(table, 15)
    scanpy.tl.leiden(table, 1.0, flavor="igraph", n_iterations=2, directed=False)
    graph = Graph(arrays[1], 20, 15)
    found = [graph.leiden(1.0, seed) for seed in range(5)]
    expected = table.obs["leiden"].to_numpy()
    assert max(adjusted_rand_score(expected, f) for f in found) > 0.9


def test_scores_are_those_of_the_clusters(arrays, clustered):
    truth, prediction, domains = arrays
    found, _ = clustered
    one, two = Graph(truth, 20, 15), Graph(prediction, 20, 15)
    clusters = [(one.leiden(0.3, s), two.leiden(0.3, s)) for s in range(3)]
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
    graph = Graph(arrays[1], 20, 15)
    for count in (1, 3, 5, 8):
        found = graph.leiden(graph.resolution_for(count), 0).max() + 1
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

    graph = Graph(arrays[0], 20, 15)
    random.seed(5)
    expected = random.random()
    random.seed(5)
    graph.leiden(0.3, 1)
    assert random.random() == expected


def test_unlabelled_spots_are_not_compared(arrays, clustered):
    truth, prediction, domains = arrays
    labels = domains.copy().astype(object)
    labels[::5] = ""
    labels[labels == "rim"] = ""  # two names are left, and the lack of one is no third
    found = clustered[1](case(truth, prediction, domains=labels))
    graph = Graph(prediction, 20, 15)
    kept = labels != ""
    values = [adjusted_rand_score(domains[kept], graph.leiden(0.3, s)[kept]) for s in range(3)]
    assert found["ari_labels"] == pytest.approx(np.mean(values))
    matched = graph.resolution_for(2)
    assert matched != graph.resolution_for(3)
    values = [adjusted_rand_score(domains[kept], graph.leiden(matched, s)[kept]) for s in range(3)]
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
