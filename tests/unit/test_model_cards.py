"""config/MODELS.md says what configuration, classes and sources.tsv say."""

import csv
import json
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from running import ROOT

from flag_st.core import registry
from flag_st.encoders.concat import Concat
from flag_st.encoders.network import NetworkEncoder
from flag_st.encoders.phikon import PhikonV2
from flag_st.encoders.ssl_vit import SslVit
from flag_st.planning import config
from flag_st.planning.grid import Plan

CONFIG = config.load()
TEXT = (ROOT / "config" / "MODELS.md").read_text(encoding="utf-8")
HUB = "https://huggingface.co/"
#: What Phikon-v2's own config.json states (its size is checked against the published one).
PHIKON = {"model_type": "dinov2", "hidden_size": 1024, "num_attention_heads": 16}
PHIKON |= {"num_hidden_layers": 24, "patch_size": 16, "image_size": 224}


def table(section: str) -> list[dict[str, str]]:
    """Rows of the table under a heading, by column; code marks are taken off."""
    body = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1, f"{section}: rows of unequal length"
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


ENCODERS = {row["entry"]: row for row in table("Encoders")}
GENE_MODELS = {row["entry"]: row for row in table("Gene models")}


def published(value, key: str = "repo") -> Iterator[dict]:
    """The params of every published model in an entry, nested ones included."""
    if isinstance(value, dict):
        if value.get(key):
            yield value
        for inner in value.values():
            yield from published(inner, key)


def page(cell: str) -> str:
    """The address of a markdown link, or the cell."""
    match = re.fullmatch(r"\[.*\]\((.*)\)", cell)
    return match[1] if match else cell


def measured(encoder, tmp_path) -> tuple[int, int]:
    """D and the number of parameters, without weights or memory."""
    if isinstance(encoder, Concat):
        sizes = [measured(part, tmp_path) for part in encoder.parts.values()]
        return sum(d for d, _ in sizes), sum(n for _, n in sizes)
    if not isinstance(encoder, NetworkEncoder):
        return encoder.encode(np.zeros((1, 224, 224, 3), dtype=np.uint8)).shape[1], 0
    if isinstance(encoder, PhikonV2):
        (tmp_path / "config.json").write_text(json.dumps(PHIKON))
        encoder = PhikonV2(encoder.checkpoint.repo, weights=str(tmp_path))
    with torch.device("meta"):
        net = encoder.build().eval()
        images = torch.empty(1, 3, encoder.crop, encoder.crop)
    setattr(encoder, "_net" if isinstance(encoder, SslVit) else "net", net)
    return encoder.forward(images).shape[1], sum(p.numel() for p in net.parameters())


def test_every_entry_has_its_card_and_no_card_is_left_over():
    assert list(ENCODERS) == list(CONFIG["encoders"])
    assert list(GENE_MODELS) == list(CONFIG["gene_models"])
    cohorts = [row["cohort"] for row in table("Data")]
    assert cohorts == list(CONFIG["cohorts"])


@pytest.mark.parametrize("name", CONFIG["encoders"])
def test_sizes_of_encoders_are_those_of_their_networks(name, tmp_path):
    entry, row = CONFIG["encoders"][name], ENCODERS[name]
    encoder = registry.build(entry["use"], entry.get("params"))
    width, parameters = measured(encoder, tmp_path)
    assert int(row["D"]) == width
    assert row["parameters"] == (f"{parameters / 1e6:.1f} M" if parameters else "–")
    if isinstance(encoder, NetworkEncoder):
        enlarged = f"{encoder.resize} px, inner {encoder.crop}"
        assert row["input"] == (enlarged if encoder.resize > encoder.crop else f"{encoder.crop} px")


@pytest.mark.parametrize("name", CONFIG["gene_models"])
def test_kind_and_width_of_gene_models(name):
    entry, row = CONFIG["gene_models"][name], GENE_MODELS[name]
    model = registry.build(entry["use"], entry.get("params"))
    assert row["kind"] == model.kind
    if hasattr(model, "width"):  # of published ones it stands in files that are not here
        assert int(row["K"]) == model.width


@pytest.mark.parametrize("layer", ["encoders", "gene_models"])
def test_memory_and_addresses_are_those_of_the_configuration(layer):
    for name, row in (ENCODERS if layer == "encoders" else GENE_MODELS).items():
        entry = CONFIG[layer][name]
        assert row["memory"] == f"{entry.get('mem_mb', 8000) / 1000:g} GB", name
        repos = [found["repo"] for found in published(entry["params"])]
        if len(repos) == 1:
            assert page(row["published at"]) == HUB + repos[0]
        elif row["published at"] != "as its parts":
            assert not repos, name


def test_pins_are_those_of_the_configuration():
    rows = {(r["repository"], r["file"]): (r["revision"], r["sha256"]) for r in table("Pins")}
    pins = {}
    for layer in ("encoders", "gene_models"):
        for entry in CONFIG[layer].values():
            for found in published(entry["params"]):
                digests = found.get("sha256")
                files = digests if isinstance(digests, dict) else {found["file"]: digests}
                for file, digest in files.items():
                    pins[found["repo"], file] = found["revision"], digest or "none"
    assert rows == pins


def test_licences_and_gates_are_those_of_the_list_of_sources():
    with open(ROOT / "config" / "sources.tsv", encoding="utf-8") as file:
        sources = {r["page"].lower(): r for r in csv.DictReader(file, delimiter="\t")}
    checked = 0
    for row in [*ENCODERS.values(), *GENE_MODELS.values()]:
        source = sources.get(page(row["published at"]).lower())
        if source is not None:
            checked += 1
            assert row["licence"] == source["licence"], row["entry"]
            if source["gated"]:
                gate = source["gated"].replace("yes", "gated").replace("no", "open")
                assert row["access"] == gate, row["entry"]
    assert checked >= 13


def test_gated_parts_stand_in_the_table_of_what_to_accept():
    asked = TEXT.split("\n## Before the first run\n")[1].split("\n## ")[0].lower()
    for row in ENCODERS.values():
        if row["access"].startswith("gated"):
            assert page(row["published at"]).lower() in asked, row["entry"]


def test_numbers_of_slides():
    plan = Plan(CONFIG)
    for row in table("Data"):
        assert int(row["slides"]) == len(plan.rows(row["cohort"]))
