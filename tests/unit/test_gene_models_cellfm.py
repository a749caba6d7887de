"""CellFM on tiny checkpoints in the official format."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from published import CELLFM, arrays_of, write_cellfm, write_checkpoint
from scipy import sparse

from flag_st.core.errors import FlagError
from flag_st.gene_models import cellfm
from flag_st.gene_models.cellfm import LISTS, GeneList, PublishedCellFm
from flag_st.gene_models.cellfm_mini import CellFmMini
from flag_st.nets.cellfm import CellFm, CellFmSizes

GENES = [f"GENE{i}" for i in range(13)]
ROWS = 16
PANEL = ["GENE7", "GENE2", "GENE11", "GENE0"]


@pytest.fixture
def params(tmp_path, monkeypatch):
    return write_cellfm(tmp_path / "cellfm", GENES, monkeypatch)


def opened(params, **changes):
    model = PublishedCellFm(**{**params, **changes})
    model.open("cpu")
    return model


def whole(rows: list[int]) -> CellFm:
    """The network with the arrays of the file, put in without any code of the gene model."""
    net = CellFm(CellFmSizes(ROWS, **CELLFM), rows)
    arrays = {k: torch.from_numpy(v) for k, v in arrays_of(ROWS).items()}
    net.load_state_dict({name: arrays[name] for name in net.state_dict()})
    return net.eval()


def counts(spots=20):
    return sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (spots, 13)))


def test_published_tables_have_a_row_per_gene_one_of_padding_and_a_multiple_of_8():
    assert set(LISTS) == {24_080, 27_856}
    for rows, known in LISTS.items():
        assert rows == -(-(known.genes + 1) // 8) * 8


def test_a_state_is_that_of_the_sequence_of_expressed_genes_alone(params):
    """Each spot by itself, without masks, with the values that CellFM was pre-trained on."""
    table = counts()
    ((rows, states, mask),) = opened(params).embed(table, GENES, [""] * 13, PANEL)
    assert (rows.start, rows.stop) == (0, 20)
    assert states.shape == (20, 4, 16)
    dense = table.toarray()
    places = [GENES.index(gene) for gene in PANEL]
    assert mask.tolist() == (dense[:, places] > 0).tolist()
    assert 10 < mask.sum() < 70
    for spot, row in enumerate(dense):
        here = [place for place in places if row[place] > 0]
        values = torch.tensor(np.log1p(row[here] / row.sum() * 1e4), dtype=torch.float32)[None]
        with torch.no_grad():
            expected = whole([place + 1 for place in here]).states(values)[0]
        np.testing.assert_allclose(states[spot, mask[spot]], expected, atol=1e-4, rtol=1e-4)
        assert not states[spot, ~mask[spot]].any()


def test_a_gene_that_the_list_lacks_is_masked_in_embeddings(params, caplog):
    columns = [*GENES[:12], "OTHER"]
    ((_, states, mask),) = opened(params).embed(counts(), columns, [""] * 13, [*PANEL, "OTHER"])
    assert not mask[:, 4].any()
    assert not states[:, 4].any()
    assert mask[:, :4].any()
    assert "lacks 1 of 5" in caplog.text


@pytest.mark.parametrize("body", [{}, {"slope": 0.01, "masked": "add", "mask_token": "zero_emb"}])
def test_the_backbone_is_the_published_network_for_the_panel(params, body):
    net = opened(params).backbone(PANEL, **body)
    assert net.gene_emb.shape == (5, 16)
    expected = CellFm(CellFmSizes(ROWS, **CELLFM), [GENES.index(g) + 1 for g in PANEL], **body)
    arrays = {k: torch.from_numpy(v) for k, v in arrays_of(ROWS).items()}
    expected.load_state_dict({name: arrays[name] for name in expected.state_dict()})
    values = torch.rand(3, 4)
    hidden = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(net(values, hidden), expected(values, hidden))


def test_half_precision_is_computed_in_full(tmp_path, monkeypatch, params):
    half = write_cellfm(tmp_path / "half", GENES, monkeypatch, kind="<f2")
    found = opened(half).backbone(PANEL)
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    torch.testing.assert_close(
        found.gene_emb, opened(params).backbone(PANEL).gene_emb, atol=1e-3, rtol=1e-3
    )


def test_the_digest_is_of_the_checkpoint_and_the_list(params, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    first = opened(params)
    assert set(first.files.digests) == {"base_weight.ckpt", "genes.csv"}
    pinned = first.files.digests["base_weight.ckpt"]
    assert f"base_weight.ckpt has sha256 {pinned}; there is none to compare it with" in caplog.text
    assert opened(params, sha256=pinned).digest() == first.digest()
    assert (
        opened(write_cellfm(tmp_path / "b", GENES, monkeypatch, seed=1)).digest() != first.digest()
    )
    with pytest.raises(FlagError, match=r"base_weight\.ckpt has sha256 .*, expected 0000"):
        opened(params, sha256="0" * 64)


def test_files_placed_for_the_repositories_are_found(params, tmp_path, monkeypatch):
    """The checkpoint as for every hub entry, and the list where its own repository has it."""
    monkeypatch.setenv("FLAG_ST_MODELS", str(tmp_path))
    source = tmp_path / "cellfm"
    for name, place in (("base_weight.ckpt", "owner/name"), ("genes.csv", "biomed-AI/CellFM/csv")):
        (tmp_path / place).mkdir(parents=True)
        (source / name).rename(tmp_path / place / name)
    model = opened(params, weights=None, repo="owner/name", revision="0" * 40)
    assert model.genes == GENES
    lacking = tmp_path / "biomed-AI" / "CellFM" / "csv" / "genes.csv"
    lacking.unlink()
    monkeypatch.setattr("flag_st.transfer.github.GitHub.fetch", _offline)
    with pytest.raises(FlagError, match=r"put csv/genes\.csv of .*biomed-AI/CellFM at commit 7655"):
        opened(params, weights=None, repo="owner/name", revision="0" * 40)


def _offline(self, paths):
    raise FlagError("GitHub cannot be reached")


def test_a_list_that_is_not_the_table_s_is_refused_by_name(params, tmp_path, monkeypatch):
    path = tmp_path / "cellfm" / "genes.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[:0:-1]]))
    with pytest.raises(FlagError, match=r"genes\.csv has sha256 .*, expected"):
        opened(params)
    write_checkpoint(tmp_path / "cellfm" / "base_weight.ckpt", arrays_of(24))
    with pytest.raises(
        FlagError, match=r"table of 24 rows, .*24080 rows \(gene_info\.csv\), 27856"
    ):
        opened(params)


def test_genes_outside_the_vocabulary_are_refused_by_name(params):
    with pytest.raises(
        FlagError,
        match=r"1 panel genes are not in .*base_weight\.ckpt, such as NONE.*another backbone",
    ):
        opened(params).backbone(["GENE3", "NONE"])


HGNC = """HGNC ID\tApproved symbol\tStatus\tPrevious symbols\tAlias symbols
1\tGENE7\tApproved\tOLD7, GENE2\tBOTH
2\tGENE2\tApproved\tBOTH\tOLD2,OTHER2
3\tGENE3~withdrawn\tSymbol Withdrawn\tOLD3\t
4\tGENE4\tApproved
"""


def test_genes_with_former_names_are_found_by_a_table(params, tmp_path):
    """An approved symbol is nobody's alias, previous symbols count more than aliases, withdrawn ones do not."""
    path = tmp_path / "hgnc.tsv"
    path.write_text(HGNC)
    plain, model = opened(params), opened(params, aliases=str(path))
    assert model.renamed == {"OLD7": "GENE7", "BOTH": "GENE2", "OLD2": "GENE2", "OTHER2": "GENE2"}
    for panel, same in ((["OLD7", "BOTH"], ["GENE7", "GENE2"]), (["GENE2"], ["GENE2"])):
        torch.testing.assert_close(model.backbone(panel).gene_emb, plain.backbone(same).gene_emb)
    renamed = ["GENE0", "GENE1", "OLD2", *GENES[3:]]
    ((_, found, mask),) = model.embed(counts(), renamed, [""] * 13, ["OLD2", "GENE5"])
    ((_, same, _),) = plain.embed(counts(), GENES, [""] * 13, ["GENE2", "GENE5"])
    assert mask[:, 0].any()
    np.testing.assert_array_equal(found, same)
    assert model.digest() != plain.digest()
    with pytest.raises(FlagError, match=r"such as OLD7.*former names give params\.aliases"):
        plain.backbone(["OLD7"])
    with pytest.raises(FlagError, match="the panel names GENE2 twice"):
        model.backbone(["GENE2", "OLD7", "OLD2"])


def test_a_panel_may_choose_among_the_genes_of_all_lists(params, tmp_path, monkeypatch):
    """Without the checkpoint: only genes of both lists, which it knows whichever is its own."""
    lists = {"one.csv": ["A", "B", "C"], "two.csv": ["C", "A", "D"]}
    known = {}
    for rows, (name, genes) in enumerate(lists.items()):
        text = "\n".join(["gene", *genes]) + "\n"
        (tmp_path / name).write_text(text)
        known[rows] = GeneList(name, len(genes), hashlib.sha256(text.encode()).hexdigest())
    monkeypatch.setattr(cellfm, "LISTS", known)
    model = PublishedCellFm(weights=str(tmp_path), file="absent.ckpt")
    assert model.known_symbols() == ["A", "C"]
    with pytest.raises(FlagError, match="cannot tell its genes before it is loaded or fitted"):
        CellFmMini().known_symbols()


def test_tables_of_aliases_that_are_none_are_refused(params, tmp_path):
    path = tmp_path / "hgnc.tsv"
    with pytest.raises(FlagError, match=r"cannot read the table of aliases .*hgnc\.tsv"):
        opened(params, aliases=str(path))
    for content, column in (("", "Approved symbol"), (HGNC.replace("Status", "State"), "Status")):
        path.write_text(content)
        with pytest.raises(FlagError, match=rf"hgnc\.tsv has no column {column}.*genenames"):
            opened(params, aliases=str(path))


def test_truncated_and_foreign_files_are_refused(params, tmp_path):
    path = tmp_path / "cellfm" / "base_weight.ckpt"
    whole_file = path.read_bytes()
    for content in (whole_file[: len(whole_file) // 2], b"", b"PK\x03\x04 as torch writes it"):
        path.write_bytes(content)
        with pytest.raises(FlagError, match=r"base_weight\.ckpt is no whole MindSpore checkpoint"):
            opened(params)
    path.unlink()
    with pytest.raises(FlagError, match=r"base_weight\.ckpt does not exist.*CellFM"):
        opened(params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("gene_emb"), "lacks gene_emb"),
        (lambda a: a.pop("zero_emb"), "lacks zero_emb"),
        (lambda a: a.pop("encoder.1.attn.q_proj.weight"), r"lacks encoder\.1\.attn\.q_proj"),
        (lambda a: a.update(arrays_of(ROWS, layers=3)), r"an unknown key encoder\.2\."),
        (lambda a: a.update(classifier=np.zeros(3, "<f4")), "an unknown key classifier"),
        (lambda a: a["value_dec.w1.weight"].fill(np.nan), "numbers that are not finite"),
    ],
    ids=["no table", "no token", "fewer layers", "more layers", "another head", "no numbers"],
)
def test_checkpoints_of_other_networks_are_refused(params, tmp_path, change, message):
    arrays = arrays_of(ROWS)
    change(arrays)
    write_checkpoint(tmp_path / "cellfm" / "base_weight.ckpt", arrays)
    with pytest.raises(FlagError, match=message):
        opened(params)


#: Opens a checkpoint in a process of its own; prints the bytes of its weights, and by how much memory rose.
OPENED = """
import hashlib, json, re, sys
from pathlib import Path
from flag_st.gene_models.cellfm import LISTS, GeneList, PublishedCellFm
def opened(folder, rows, sizes):
    text = Path(folder, "genes.csv").read_bytes()
    LISTS[rows] = GeneList("genes.csv", rows - 1, hashlib.sha256(text).hexdigest())
    model = PublishedCellFm(folder, **sizes)
    model.open("cpu")
    # Not getrusage, whose peak may be that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return model, 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
small, large = map(json.loads, sys.argv[1:])
_, before = opened(*small)  # what torch allocates once is not counted
model, peak = opened(*large)
print(sum(value.nbytes for value in model.state.values()), peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux alone")
def test_reading_takes_little_more_memory_than_the_weights(tmp_path, monkeypatch):
    """The moments of the optimiser, two thirds of the file, are never in memory."""
    sizes = {"width": 512, "layers": 2, "heads": 16, "bins": 64}
    cases = []
    for name, rows, own in (("small", 16, CELLFM), ("large", 24_000, sizes)):
        write_cellfm(tmp_path / name, [f"G{i}" for i in range(rows - 1)], monkeypatch, **own)
        cases.append(json.dumps([str(tmp_path / name), rows, own]))
    command = [sys.executable, "-c", OPENED, *cases]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    kept, risen = map(int, done.stdout.split())
    assert (tmp_path / "large" / "base_weight.ckpt").stat().st_size > 2.9 * kept > 180e6
    assert risen < 1.2 * kept
