"""Layer labels of DLPFC, joined by barcode."""

import pytest
from hub_server import HubServer, isolate

from flag_st.errors import FlagError
from flag_st.labels import COMMIT, FILE, REPO, fetch_layers, layer_labels

LABELS = """AAACAACGAATAGTTC-1\t151507\tL1
AAACAAGTATCTCCCA-1\t151507\tL3
AAACAAGTATCTCCCA-1\t151673\tL3
AAACAATCTACTAGCA-1\t151673\tL1
AAACACCAATAACTGC-1\t151673\tWM
"""


@pytest.fixture
def layers(tmp_path):
    path = tmp_path / "barcode_level_layer_map.tsv"
    path.write_text(LABELS)
    return path


def test_layers_join_by_barcode_in_the_slides_order(layers):
    spots = ["AAACACCAATAACTGC-1", "TTTTTTTTTTTTTTTT-1", "AAACAAGTATCTCCCA-1"]
    assert layer_labels(layers, 151673, spots).tolist() == ["WM", "", "L3"]
    assert layer_labels(layers, "151507", spots).tolist() == ["", "", "L3"]


def test_layer_faults_are_named(layers, tmp_path):
    with pytest.raises(FlagError, match=r"no section 151999.*151507, 151673"):
        layer_labels(layers, 151999, ["AAACAAGTATCTCCCA-1"])
    with pytest.raises(FlagError, match="no barcode of section 151507"):
        layer_labels(layers, 151507, ["AAACACCAATAACTGC-1"])
    with pytest.raises(FlagError, match="cannot read the layer labels"):
        layer_labels(tmp_path / "none.tsv", 151507, [])
    layers.write_text(LABELS + "AAACAACGAATAGTTC-1\t151507\tL2\n")
    with pytest.raises(FlagError, match="line 6: AAACAACGAATAGTTC-1 of 151507 has two labels"):
        layer_labels(layers, 151507, ["AAACAACGAATAGTTC-1"])
    layers.write_text("AAACAACGAATAGTTC-1\t151507\tL9\n")
    with pytest.raises(FlagError, match="line 1: not a barcode"):
        layer_labels(layers, 151507, ["AAACAACGAATAGTTC-1"])


def test_layers_are_fetched_once(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path)
    with HubServer() as server:
        server.publish(REPO, COMMIT, {FILE: LABELS.encode(), "README.md": b"other"})
        for _ in range(2):
            path = fetch_layers(tmp_path / "labels", api=server.url, raw=f"{server.url}/raw")
        assert len(server.requests) == 2  # the tree and the file
    assert layer_labels(path, 151507, ["AAACAACGAATAGTTC-1"]).tolist() == ["L1"]
