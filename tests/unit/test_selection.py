"""Splits and panels: seeded, exact, and refused with a reason."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from flag_st.core.errors import FlagError
from flag_st.data import panels, splits
from flag_st.data.slide_files import SlideRow

ROWS = [SlideRow(f"{p}{i}", f"patient {p}", str(i)) for p in "ABCDE" for i in (1, 2)]
RANDOM = {"scheme": "random", "by": "slide", "ratio": [7, 2, 1], "seed": 1}


def parts(split):
    return [set(split.train), set(split.valid), set(split.test)]


def test_random_split_is_seeded_and_complete():
    (split,) = splits.expand("r", RANDOM, ROWS).values()
    assert [len(p) for p in parts(split)] == [7, 2, 1]
    assert set.union(*parts(split)) == {r.id for r in ROWS}
    assert splits.expand("r", RANDOM, ROWS)["r"] == split
    others = [splits.expand("r", {**RANDOM, "seed": s}, ROWS)["r"] for s in range(2, 8)]
    assert any(other != split for other in others)


def test_patients_stay_together():
    (split,) = splits.expand("p", {**RANDOM, "by": "patient"}, ROWS).values()
    patients = [{s[0] for s in part} for part in parts(split)]
    assert not (patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2])


@pytest.mark.parametrize(("by", "folds", "size"), [("slide", 10, 1), ("patient", 5, 2)])
def test_leave_one_out_tests_everything_once(by, folds, size):
    found = splits.expand("loo", {"scheme": "leave_one_out", "by": by, "seed": 0}, ROWS)
    assert len(found) == folds
    tested = [s for split in found.values() for s in split.test]
    assert sorted(tested) == sorted(r.id for r in ROWS)
    for split in found.values():
        assert len(split.test) == len(split.valid) == size
        assert len(set.union(*parts(split))) == len(ROWS)


@pytest.mark.parametrize(
    ("by", "only"), [("slide", ["B1", "A2"]), ("patient", ["patient D", "patient B"])]
)
def test_only_limits_the_folds_and_not_the_pool(by, only):
    entry = {"scheme": "leave_one_out", "by": by, "seed": 0}
    everything = splits.expand("loo", entry, ROWS)
    found = splits.expand("loo", {**entry, "only": only}, ROWS)
    assert list(found) == [f"loo-{unit.replace(' ', '_')}" for unit in only]
    for name, split in found.items():
        assert split == everything[name]  # the other units still train or validate
        assert set.union(*parts(split)) == {r.id for r in ROWS}


def test_fixed_lists_and_the_sheet():
    lists = {"scheme": "fixed", "train": ["B1", "A1"], "valid": ["A2"], "test": ["C1"]}
    split = splits.expand("f", lists, ROWS)["f"]
    assert split.train == ("A1", "B1")  # sheet order, not list order
    folds = ["train", "train", "valid", "test"]
    rows = [SlideRow(f"s{i}", fold=fold) for i, fold in enumerate(folds)]
    assert splits.expand("f", {"scheme": "fixed"}, rows)["f"].valid == ("s2",)


@pytest.mark.parametrize(
    ("entry", "rows", "word"),
    [
        ({"scheme": "fixed", "train": ["A1"], "valid": ["A2"]}, ROWS, "empty test"),
        (
            {"scheme": "fixed", "train": ["A1"], "valid": ["A1"], "test": ["B1"]},
            ROWS,
            "more than one",
        ),
        ({"scheme": "fixed", "train": ["A9"], "valid": ["A1"], "test": ["B1"]}, ROWS, "A9"),
        ({"scheme": "fixed"}, ROWS, "empty train"),
        ({**RANDOM, "by": "patient"}, [SlideRow("a"), SlideRow("b")], "patient of a, b is unknown"),
        (RANDOM, ROWS[:2], "at least 3"),
        ({**RANDOM, "ratio": [1, 50, 50]}, ROWS[:4], "no training"),
        ({"scheme": "best"}, ROWS, "leave_one_out"),
        (
            {"scheme": "leave_one_out", "by": "slide", "only": ["A1", "Z1", "Z2"]},
            ROWS,
            r"split 's', only: no slide Z1, Z2\. Valid: A1, A2.*Remedy: take out of splits\.s\.only",
        ),
    ],
)
def test_bad_splits_are_refused(entry, rows, word):
    with pytest.raises(FlagError, match=word):
        splits.expand("s", entry, rows)


def slides(seed=0, genes=60, count=3):
    rng = np.random.default_rng(seed)
    rate = rng.gamma(1.0, 3.0, genes)
    names = [f"G{i:03d}" for i in range(genes)]
    return [
        anndata.AnnData(
            sparse.csr_matrix(rng.poisson(rate, (50, genes)).astype(np.float32)),
            var=pd.DataFrame(index=[names[i] for i in rng.permutation(genes)]),
        )
        for _ in range(count)
    ]


def reference(tables, names, size):
    """Grow K by one until the two top-K lists share enough genes: the definition, by hand."""
    shared = sorted(set.intersection(*map(set, names)))
    stack = np.concatenate([t[:, shared].X.toarray() for t in tables]).astype(np.float64)
    order = lambda v: [g for _, g in sorted(zip(-v, shared, strict=True))]  # noqa: E731
    by_mean, by_std = order(stack.mean(0)), order(np.round(stack.std(0), 9))
    for k in range(1, len(shared) + 1):
        both = set(by_mean[:k]) & set(by_std[:k])
        if len(both) >= size:
            return both, k
    raise AssertionError


@pytest.mark.parametrize("size", [2, 5, 17, 30])
def test_hmhvg_has_exactly_the_size_and_contains_the_definition(size):
    tables = slides()
    names = [list(t.var_names) for t in tables]
    panel = panels.select_panel(tables, names, size)
    wanted, k = reference(tables, names, size)
    assert len(panel) == panel["gene"].nunique() == size
    assert panel["k"].max() == k
    assert set(panel["gene"]) <= wanted  # equal unless two genes enter at the last K
    assert len(wanted) - size <= 1


def test_gene_and_slide_order_change_nothing():
    tables = slides()
    names = [list(t.var_names) for t in tables]
    shuffled = [t[:, np.random.default_rng(9).permutation(t.n_vars)].copy() for t in tables]
    a = panels.select_panel(tables, names, 20)["gene"].tolist()
    reversed_names = [list(t.var_names) for t in shuffled[::-1]]
    assert panels.select_panel(shuffled[::-1], reversed_names, 20)["gene"].tolist() == a


def test_equal_genes_are_told_apart_by_name():
    table = anndata.AnnData(np.tile([[5.0], [1.0]], (4, 6)), var=pd.DataFrame(index=list("fbdace")))
    table.X = sparse.csr_matrix(table.X)
    assert panels.select_panel([table], [list("fbdace")], 3)["gene"].tolist() == ["a", "b", "c"]


def test_only_genes_of_every_slide_and_only_training_counts():
    tables = slides()
    names = [list(t.var_names) for t in tables]
    names[2] = [n for n in names[2] if n != "G007"]
    chosen = panels.select_panel(tables[:2], names, 40)
    assert "G007" not in set(chosen["gene"])
    again = panels.select_panel(tables[:2], names, 40)
    assert chosen.equals(again)
    other = panels.select_panel(tables, names, 40).set_index("gene")["mean"]
    both = chosen[chosen["gene"].isin(other.index)]
    assert not np.allclose(both["mean"], other[both["gene"]])


def test_filters_of_the_release_and_fixed_lists():
    tables = slides(count=1)
    names = [["MT-CO1", "MT1X", "RPL3", *list(tables[0].var_names)[3:]]]
    tables[0].var_names = names[0]
    ours = panels.select_panel(tables, names, 57, drop_prefixes=panels.MITO_RIBO)
    assert "MT1X" in set(ours["gene"])
    assert not {"MT-CO1", "RPL3"} & set(ours["gene"])
    fixed = panels.select_panel(tables, names, 2, genes=["MT1X", "RPL3"])
    assert set(fixed["gene"]) == {"MT1X", "RPL3"}
    with pytest.raises(FlagError, match="NOPE"):
        panels.select_panel(tables, names, 1, genes=["NOPE"])
    with pytest.raises(FlagError, match=r"wants 61 genes, but only 60"):
        panels.select_panel(tables, names, 61)


def test_top_gives_as_many_genes_as_both_lists_share():
    """HINGE's rule by hand, and the same genes as the size that needs the same K."""
    tables = slides()
    names = [list(t.var_names) for t in tables]
    stack = np.concatenate([t[:, sorted(names[0])].X.toarray() for t in tables]).astype(float)
    lists = [
        {g for _, g in sorted(zip(-v, sorted(names[0]), strict=True))[:25]}
        for v in (stack.mean(0), stack.var(0))
    ]
    panel = panels.select_panel(tables, names, top=25)
    assert set(panel["gene"]) == lists[0] & lists[1]
    assert 2 < len(panel) < 25
    assert panel["gene"].tolist() == panels.select_panel(tables, names, len(panel))["gene"].tolist()
    with pytest.raises(FlagError, match="wants 61 genes, but only 60"):
        panels.select_panel(tables, names, top=61)


def test_lists_that_share_too_little_are_refused():
    """Every spot has three of g0, which varies in nothing; g1 is rare and varies most."""
    counts = np.array([[3, 0, 1], [3, 4, 1], [3, 0, 1], [3, 0, 1]], dtype=float)
    table = anndata.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=["g0", "g1", "g2"]))
    with pytest.raises(FlagError, match=r"top 1 genes by mean and by deviation share 0.*raise top"):
        panels.select_panel([table], [["g0", "g1", "g2"]], top=1)


def test_a_vocabulary_is_applied_before_the_ranking(tmp_path):
    tables = slides()
    names = [list(t.var_names) for t in tables]
    best = panels.select_panel(tables, names, 3)["gene"].tolist()
    file = tmp_path / "known.txt"
    file.write_text("# symbols\n" + "\n".join(["ALIEN", *(g for g in names[0] if g != best[0])]))
    known = panels.read_vocabulary(file)
    panel = panels.select_panel(tables, names, top=20, vocabulary=known)
    assert best[0] not in set(panel["gene"])
    assert panel["rank_mean"].min() == panel["rank_std"].min() == 1  # ranks among the known
    with pytest.raises(FlagError, match=r"only 2 are common to all slides and left by its filters"):
        panels.select_panel(tables, names, 3, vocabulary=best[:2])


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no gene"), ("A1BG,ENSG1\n", "holds 'A1BG,ENSG1', which is no gene symbol")],
)
def test_what_is_no_vocabulary_is_refused(tmp_path, text, said):
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(FlagError, match=f"v.txt {said}.*one gene symbol a line"):
        panels.read_vocabulary(tmp_path / "v.txt")
