"""Layer labels of DLPFC, joined by barcode."""

import pytest
from hub_server import HubServer, isolate

from flag_st.core.errors import FlagError
from flag_st.data.labels import read_labels
from flag_st.sources.dlpfc import COMMIT, FILE, REPO, fetch_layers, write_layers

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


def labels_of(layers, section, spots):
    out = layers.with_name("labels.tsv")
    write_layers(layers, section, out)
    return read_labels(out, spots).tolist()


def test_layers_join_by_barcode_in_the_slides_order(layers):
    spots = ["AAACACCAATAACTGC-1", "TTTTTTTTTTTTTTTT-1", "AAACAAGTATCTCCCA-1"]
    assert labels_of(layers, 151673, spots) == ["WM", "", "L3"]
    assert labels_of(layers, "151507", spots) == ["", "", "L3"]


def test_layer_faults_are_named(layers, tmp_path):
    with pytest.raises(FlagError, match=r"no section 151999.*151507, 151673"):
        labels_of(layers, 151999, ["AAACAAGTATCTCCCA-1"])
    with pytest.raises(FlagError, match="none of its 2 barcodes is among the slide's 1 spots"):
        labels_of(layers, 151507, ["AAACACCAATAACTGC-1"])
    with pytest.raises(FlagError, match="cannot read the layer labels"):
        labels_of(tmp_path / "none.tsv", 151507, [])
    layers.write_text(LABELS + "AAACAACGAATAGTTC-1\t151507\tL2\n")
    with pytest.raises(FlagError, match="line 6: AAACAACGAATAGTTC-1 of 151507 has two labels"):
        labels_of(layers, 151507, ["AAACAACGAATAGTTC-1"])
    layers.write_text("AAACAACGAATAGTTC-1\t151507\tL9\n")
    with pytest.raises(FlagError, match="line 1: not a barcode"):
        labels_of(layers, 151507, ["AAACAACGAATAGTTC-1"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spot\tlabel\na\tx\n", "line 2: no barcode and label"),
        ("barcode\tlabel\na\tx\na\ty\n", "line 3: a has two labels"),
        ("barcode\tlabel\nb\tx\n", "none of its 1 barcodes"),
        ("", "none of its 0 barcodes"),
    ],
)
def test_label_faults_are_named(tmp_path, text, said):
    path = tmp_path / "labels.tsv"
    path.write_text(text)
    with pytest.raises(FlagError, match=said):
        read_labels(path, ["a"])


def test_layers_are_fetched_once(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path)
    with HubServer() as server:
        server.publish(REPO, COMMIT, {FILE: LABELS.encode(), "README.md": b"other"})
        for _ in range(2):
            path = fetch_layers(tmp_path / "labels", api=server.url, raw=f"{server.url}/raw")
        assert len(server.requests) == 2  # the tree and the file
    assert labels_of(path, 151507, ["AAACAACGAATAGTTC-1"]) == ["L1"]
