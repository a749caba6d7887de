"""Rank-value tokens and the way from token states back to panel genes."""

import numpy as np
import pytest
from scipy import sparse

from flag_st.core.errors import FlagError
from flag_st.gene_models.columns import identifiers, read_symbols, report_unknown
from flag_st.gene_models.rank_values import RankValues
from flag_st.gene_models.token_states import blocks, by_length, contextual, gather, pad

TOKENS = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, "A": 7, "B": 5, "C": 4, "D": 6, "N": 8}
MEDIANS = {"A": 2.0, "B": 1.0, "C": 0.5, "D": 4.0, "unused": 1.0}


def encode(rows, names, length=10, special=True):
    return RankValues(TOKENS, MEDIANS, length, special).encode(sparse.csr_matrix(rows), names)


def test_hand_worked_example():
    # Depth 10: scaled by 1000. A 4000/2 = 2000, B 3000/1 = 3000, C 1000/0.5 = 2000, D absent,
    # X has no token and 2 counts. A and C tie; C has the smaller token.
    (tokens,) = encode([[4, 3, 1, 0, 2]], ["A", "B", "C", "D", "X"])
    assert tokens.tolist() == [2, 5, 4, 7, 3]
    assert tokens.dtype == np.int64


def test_v1_has_no_special_tokens():
    (tokens,) = encode([[4, 3, 1, 0, 2]], ["A", "B", "C", "D", "X"], special=False)
    assert tokens.tolist() == [5, 4, 7]


def test_truncation_leaves_room_for_the_special_tokens():
    row, names = [[4, 3, 1, 9]], ["A", "B", "C", "D"]
    assert encode(row, names, length=4)[0].tolist() == [2, 5, 6, 3]  # B 3 > D 2.25 > A 2 = C 2
    assert encode(row, names, length=3, special=False)[0].tolist() == [5, 6, 4]


def test_columns_of_one_gene_are_summed():
    split = encode([[1, 2, 4, 5]], ["B", "B", "A", "D"])
    whole = encode([[3, 4, 5]], ["B", "A", "D"])
    assert split[0].tolist() == whole[0].tolist() == [2, 5, 7, 6, 3]


def test_order_of_columns_never_matters_even_among_ties():
    rng = np.random.default_rng(0)
    names = [n for n in MEDIANS if n in TOKENS]
    counts = rng.integers(0, 3, (50, 4))
    for _ in range(5):
        order = rng.permutation(4)
        shuffled = encode(counts[:, order], [names[i] for i in order])
        assert all(map(np.array_equal, shuffled, encode(counts, names)))


def test_all_spots_agree_with_a_dense_reference():
    rng = np.random.default_rng(1)
    genes = [f"g{i}" for i in range(60)]
    tokens = {"<pad>": 0} | {g: i for i, g in enumerate(rng.permutation(genes), 4)}
    medians = {g: float(m) for g, m in zip(genes, rng.gamma(2, 1, 60), strict=True)}
    counts = rng.poisson(0.7, (40, 60))
    found = RankValues(tokens, medians, 25, special=False).encode(sparse.csr_matrix(counts), genes)
    for row, sequence in zip(counts, found, strict=True):
        value = row / row.sum() * 1e4 / np.array([medians[g] for g in genes])
        ranked = sorted((-v, tokens[g]) for v, g in zip(value, genes, strict=True) if v > 0)
        assert sequence.tolist() == [t for _, t in ranked][:25]


def test_spots_without_counts_have_no_genes():
    assert [s.tolist() for s in encode([[0, 0], [0, 2]], ["A", "B"])] == [[2, 3], [2, 5, 3]]
    assert encode([[0, 0]], ["A", "B"], special=False)[0].tolist() == []


def test_genes_without_token_or_median():
    ranks = RankValues(TOKENS, MEDIANS | {"D": 0.0}, 10, special=True)
    assert [ranks.token(n) for n in ("A", "N", "unused", "D", "")] == [7, -1, -1, -1, -1]


def test_dictionary_without_special_tokens_is_refused():
    v1 = {k: v for k, v in TOKENS.items() if k not in ("<cls>", "<eos>")}
    assert RankValues(v1, MEDIANS, 10, special=False).token("A") == 7
    with pytest.raises(FlagError, match=r"no <cls>, <eos>.*gc30M"):
        RankValues(v1, MEDIANS, 10, special=True)


def test_batches_by_length_hold_every_sequence_once_and_stay_below_the_budget():
    lengths = np.random.default_rng(0).integers(0, 50, 200)
    batches = list(by_length(lengths, 120))
    assert sorted(np.concatenate(batches)) == np.flatnonzero(lengths).tolist()
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= 120
    assert [b.tolist() for b in by_length([500, 3], 120)] == [[0], [1]]


def test_pad():
    padded, present = pad([np.array([5, 6]), np.array([7]), np.array([8, 9, 4])], 0)
    assert padded.tolist() == [[5, 6, 0], [7, 0, 0], [8, 9, 4]]
    assert present.tolist() == [[True, True, False], [True, False, False], [True, True, True]]


def test_gather_puts_states_at_their_genes():
    tokens = np.array([[2, 9, 5, 3, -2], [2, 7, 3, -2, -2]])
    states = np.arange(10.0).reshape(2, 5, 1)
    found, mask = gather(tokens, states, np.array([5, -1, 9, 5, 7]))  # 5 is wanted twice
    assert found[..., 0].tolist() == [[2, 0, 1, 2, 0], [0, 0, 0, 0, 6]]
    assert mask.tolist() == [[True, False, True, True, False], [False] * 4 + [True]]


def test_contextual_keeps_spot_order_and_bounds_blocks(monkeypatch):
    monkeypatch.setattr("flag_st.gene_models.token_states.BLOCK", 3 * 2 * 1)
    sequences = [np.arange(4, 4 + n) for n in (3, 1, 0, 5, 2, 4, 1)]
    seen = []

    def states(tokens, present, rows):
        seen.append(tokens.size)
        assert [sequences[r].tolist() for r in rows] == [
            t[p].tolist() for t, p in zip(tokens, present, strict=True)
        ]
        return (tokens * 10 + rows[:, None])[..., None]

    rows, found, mask = zip(
        *contextual(
            sequences, np.array([4, 6]), 1, states, 6, 0, progress=lambda items, **_: items
        ),
        strict=True,
    )
    assert rows == (slice(0, 3), slice(3, 6), slice(6, 7))
    assert max(seen) <= 6
    expected = [[40, 60], [41, 0], [0, 0], [43, 63], [44, 0], [45, 65], [46, 0]]
    assert np.concatenate(found)[..., 0].tolist() == expected
    assert (np.concatenate(mask) == (np.array(expected) > 0)).all()


def test_blocks_cover_all_rows_within_memory():
    assert blocks(0, 10, 10) == []
    pieces = blocks(1300, 800, 1152)
    assert [r for p in pieces for r in range(p.start, p.stop)] == list(range(1300))
    assert max(p.stop - p.start for p in pieces) * 800 * 1152 <= 1 << 26


def test_identifiers_prefer_the_slides_own_and_drop_versions():
    symbols = {"TP53": "ENSG00000141510.5", "MYC": "ensg00000136997"}
    found = identifiers(["TP53", "MYC", "NONE"], ["ENSG00000000001.2", "", ""], symbols)
    assert found == ["ENSG00000000001", "ENSG00000136997", ""]


def test_symbol_tables_are_checked(tmp_path):
    table = tmp_path / "symbols.tsv"
    table.write_text("# source: somewhere\nsymbol\tensembl\nTP53\tENSG00000141510\n")
    assert read_symbols(table) == {"TP53": "ENSG00000141510"}
    table.write_text("symbol\tensembl\nTP53\tENSG1\nTP53\tENSG1\n")
    assert read_symbols(table) == {"TP53": "ENSG1"}
    table.write_text("symbol\tensembl\nTP53\tENSG1\nTP53\tENSG2\n")
    with pytest.raises(FlagError, match="gives TP53 two ids, ENSG1 and ENSG2"):
        read_symbols(table)
    table.write_text("TP53\tENSG00000141510\n")
    with pytest.raises(FlagError, match="no header"):
        read_symbols(table)
    table.write_text("symbol\tensembl\nTP53\n")
    with pytest.raises(FlagError, match="row 2 has 1 fields"):
        read_symbols(table)
    with pytest.raises(FlagError, match="cannot read"):
        read_symbols(tmp_path / "none.tsv")


def test_unknown_genes_are_logged_and_an_unknown_panel_is_refused(caplog):
    report_unknown(["A", "B", "C"], np.array([True, False, True]), "the model")
    assert "lacks 1 of 3 panel genes" in caplog.text
    assert "B" in caplog.text
    with pytest.raises(FlagError, match="none of the 2"):
        report_unknown(["A", "B"], np.array([False, False]), "the model")
