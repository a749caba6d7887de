"""What a run would download, asked of a loopback hub: sizes, gates, and not one byte."""

import pytest
from hub_server import HubServer, isolate

from flag_st.commands import cli
from flag_st.transfer import store as download

TOKEN = "hf_neverSeen"
SLIDES = ["SPA154", "SPA148", "SPA137"]
HEST, UNI = "datasets/MahmoodLab/hest", "models/MahmoodLab/UNI"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Three HER2ST sections and UNI, both gated; whoever asks has a login."""
    folders = (("st", ".h5ad", 1000), ("patches", ".h5", 1000), ("metadata", ".json", 2))
    files = {f"{n}/{s}{e}": b"x" * size for n, e, size in folders for s in SLIDES}
    hub = HubServer({HEST: files, UNI: {"pytorch_model.bin": b"w" * 5000}}, tokens={TOKEN})
    hub.gated = {HEST: {TOKEN}, UNI: {TOKEN}}
    with hub:
        isolate(monkeypatch, tmp_path, TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setenv("FLAG_ST_MODELS", str(tmp_path / "models"))
        monkeypatch.chdir(tmp_path)
        yield hub


@pytest.fixture
def overlay(server, tmp_path):
    """The paper's configuration, but three sections and one linear method."""
    revisions = {k: server.commit(k) for k in (HEST, UNI)}
    path = tmp_path / "small.yaml"
    path.write_text(
        f"""
make: [table_1]
defaults: {{cohorts: [one], split: one, methods: [ridge], gene_model: null}}
cohorts:
  one:
    use: flag_st.sources.hest.Hest
    params: {{sheet: config/cohorts/her2st.tsv, revision: {revisions[HEST]}, slides: {SLIDES}}}
splits: {{one: {{scheme: fixed, train: [SPA154], valid: [SPA148], test: [SPA137]}}}}
encoders: {{uni: {{params: {{revision: {revisions[UNI]}, sha256: null}}}}}}
methods: {{flag: {{gene_model: null}}, by_hand: {{base: flag, gene_model: cellplm}}}}
"""
    )
    return str(path)


def test_sizes_are_told_and_nothing_is_transferred(server, overlay, capsys):
    assert cli.main(["downloads", "--configfile", overlay]) == 0
    told = capsys.readouterr().out
    assert "one: dataset:MahmoodLab/hest" in told
    assert "9 files to download, 6.0 kB" in told
    assert "uni: model:MahmoodLab/UNI" in told
    assert told.endswith("11.0 kB to download\n")
    assert server.transfers() == []
    assert TOKEN not in told


def test_every_shut_gate_is_told_at_once_with_its_page(server, overlay, capsys):
    server.gated = {HEST: set(), UNI: set()}
    assert cli.main(["downloads", "--configfile", overlay]) == 1
    told = capsys.readouterr().err
    assert told.count("no access") == 2
    for page in ("huggingface.co/datasets/MahmoodLab/hest", "huggingface.co/MahmoodLab/UNI"):
        assert page in told
    assert "config/MODELS.md" in told


def test_without_login_it_says_what_to_do(server, overlay, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert cli.main(["downloads", "--configfile", overlay]) == 1
    assert "hf auth login" in capsys.readouterr().err


def test_weights_that_come_by_hand_and_a_small_disk(server, overlay, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(download, "_free", lambda root: 100)
    (tmp_path / "more.yaml").write_text("defaults: {methods: [ridge, by_hand]}")
    both = overlay, str(tmp_path / "more.yaml")
    assert cli.main(["downloads", "--configfile", *both]) == 1
    told = capsys.readouterr().err
    assert "set gene_models.cellplm.params.weights" in told
    assert told.count("only 100 B free") == 2


def test_what_is_here_is_not_asked_for(server, overlay, capsys, tmp_path):
    place = tmp_path / "models/MahmoodLab/UNI/pytorch_model.bin"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"w")
    server.gated[UNI] = set()
    assert cli.main(["downloads", "--configfile", overlay]) == 0
    assert capsys.readouterr().out.endswith("6.0 kB to download\n")
