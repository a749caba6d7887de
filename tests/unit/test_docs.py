"""The Markdown pages: links and paths exist, commands are those of the tools, recipes run."""

import ast
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType

import h5py
import numpy as np
import own_sections
import pytest
import toy_slides
import yaml
from PIL import Image
from running import ROOT
from scipy import sparse
from toy_predicted import toy_appearance, toy_model

from flag_st.commands.cli import parser
from flag_st.commands.predict import requests_of
from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.io import save_arrays
from flag_st.data.check_cohort import check_images
from flag_st.data.check_panels import check_common_genes
from flag_st.data.slide import write_prediction
from flag_st.data.slide_files import SlideFiles
from flag_st.data.splits import expand
from flag_st.exported.model import open_model
from flag_st.methods.base import Prediction
from flag_st.planning import config, reads
from flag_st.slides import request
from flag_st.slides.trust import judge
from flag_st.sources.base import SlideRow
from flag_st.sources.folder import Folder
from flag_st.sources.spaceranger import SpaceRanger
from flag_st.sources.spatialdata_zarr import SpatialDataZarr

#: Pages, relative to the repository.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "config/*.md", "docs/**/*.md", "profiles/**/*.md", "results/README.md")
    for path in ROOT.glob(pattern)
)
RECIPES = [page for page in PAGES if page.startswith("docs/howto/")]
PACKAGE = "src/flag_st"
#: Where a path in backticks may begin; what else is in backticks is no path of the repository.
BASES = ("", PACKAGE)
SUFFIXES = (".py", ".md", ".yaml", ".yml", ".smk", ".tsv", ".toml", ".css", ".js")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.M | re.S)
#: Recipes tell their readers to write files of this name: they are in no repository.
READERS_OWN = re.compile(r"(^|/)(mine|own)(_\w+)?\.\w+$")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    return [body for _, kind, body in FENCE.findall(text_of(page)) if kind in languages]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def anchors(page: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug, number = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"), 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page)))


def test_pages_are_found():
    assert {"README.md", "config/README.md", "docs/architecture.md"} <= set(PAGES)
    stems = ["cohort", "crate", "encoder", "figure", "gene_model", "gpu", "method", "module"]
    stems += ["your_cohort", "your_slide"]
    assert [Path(page).stem for page in RECIPES] == stems


def test_readme_is_short():
    assert len(text_of("README.md").splitlines()) <= 170  # with a table of results


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_exist(page):
    broken = []
    for link in links(page):
        if re.match(r"(https?|mailto):", link):
            continue
        file, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(page), file)) if file else page
        if not (ROOT / target).exists():
            broken.append(f"{link}: no {target}")
        elif anchor and anchor not in anchors(target):
            broken.append(f"{link}: {target} has {', '.join(sorted(anchors(target)))}")
    assert not broken, "\n".join(broken)


def listed(page: str) -> list[str]:
    """The pages that the contents of the documentation site list."""
    entries = re.findall(r"^```{toctree}\n(.*?)^```$", text_of(page), re.M | re.S)
    names = [n for e in entries for n in e.splitlines() if n and not n.startswith(":")]
    return [f"{name}.md" for name in names]


def test_the_documentation_site_has_every_page():
    found = {os.path.normpath(os.path.join("docs", name)) for name in listed("docs/index.md")}
    assert found == set(PAGES) - {"docs/index.md"}


def test_every_page_below_docs_is_linked_from_another():
    linked = {
        os.path.normpath(os.path.join(os.path.dirname(page), link.partition("#")[0]))
        for page in PAGES
        for link in [*links(page), *listed(page)]
    }
    assert {page for page in PAGES if page.startswith("docs/")} <= linked


def paths_in_backticks(page: str) -> Iterator[str]:
    """What looks like a file or folder of the repository."""
    for token in re.findall(r"`([^`\n]+)`", prose(page)):
        if not re.fullmatch(r"[\w.\-/]+", token) or READERS_OWN.search(token):
            continue
        first, named = token.split("/")[0], token.endswith(SUFFIXES)
        # Results have folders `report/` and `synthetic/` too, so a room of the package is not enough.
        ours = (ROOT / first).is_dir() or ((ROOT / PACKAGE / first).is_dir() and named)
        if (
            (ours and first not in ("results", ".snakemake"))
            if "/" in token
            else (named and token not in SUFFIXES)
        ):
            yield token


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_backticks_exist(page):
    names = {path.name for path in tracked()}
    missing = [
        token
        for token in paths_in_backticks(page)
        if not (token in names if "/" not in token else exists(token))
    ]
    assert not missing, missing


def exists(token: str) -> bool:
    return any((ROOT / base / token).exists() for base in BASES)


def tracked() -> list[Path]:
    """The files of the repository, without what runs and tools leave beside them."""
    kept = (p for p in ROOT.iterdir() if p.name not in (".git", ".venv", ".snakemake", "results"))
    return [f for p in kept for f in ([p] if p.is_file() else p.rglob("*"))]


# --- commands -----------------------------------------------------------------------------------


def commands(page: str) -> Iterator[list[str]]:
    """The words of each command line in the shell blocks of a page, and of those in its text."""
    inline = re.findall(r"`((?:\.venv/bin/|make )[^`\n]+)`", prose(page))
    lines = [line for body in blocks(page, "bash") for line in body.splitlines()]
    for line in [*lines, *inline]:
        if words := shlex.split(line, comments=True):
            yield words


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page, monkeypatch):
    for words in commands(page):
        program, arguments = Path(words[0]).name, words[1:]
        if program == "make":
            assert set(arguments) <= targets(), words
        elif program == "flag-st":
            try:
                parser().parse_args(arguments)
            except SystemExit as end:
                pytest.fail(f"{shlex.join(words)}: the command line refuses it ({end.code})")
        elif program == "python":
            assert exists(arguments[0]) or READERS_OWN.search(arguments[0]), words
        else:
            assert program in ("snakemake", "pip", "hf", "cp"), words
        for word in arguments:
            if word.endswith(".yaml"):
                assert (ROOT / word).exists() or READERS_OWN.search(word), words


# --- code ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_compile_and_import_what_exists(page):
    for body in blocks(page, "python"):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flag_st"):
                for alias in node.names:
                    assert resolve_name(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("page", PAGES)
def test_dotted_names_in_backticks_exist(page):
    for name in re.findall(r"`(flag_st(?:\.\w+)+)`", prose(page)):
        if ".mine." not in name:
            resolve_name(name)  # raises where there is no such thing


@pytest.mark.parametrize("page", PAGES)
def test_yaml_blocks_are_valid_overlays(page):
    """What the reader writes is replaced by what ships; the rest must be accepted as it stands."""
    for body in blocks(page, "yaml"):
        body = re.sub(r"flag_st\.\w+\.mine\.", "mine.", body)
        body = body.replace("figures/mine", "figures/bars")
        overlay = yaml.safe_load(body)
        assert isinstance(overlay, dict), body
        merged = config.load(overlay, [ROOT / "config" / "demo.yaml"])
        assert overlay.keys() <= merged.keys()


def page_of(directory: Path, name: str) -> dict:
    """What the first Python block of a recipe defines."""
    path = directory / "mine.py"
    path.write_text(blocks(f"docs/howto/{name}.md", "python")[0])
    space: dict = {"__file__": str(path), "__name__": "mine"}
    exec(compile(path.read_text(), str(path), "exec"), space)
    return space


def test_the_method_of_the_recipe_draws_and_comes_back_from_its_arrays(tmp_path):
    method = page_of(tmp_path, "method")["Mine"](neighbours=5)
    cohort, test = toy_slides.toy_cohort(2), toy_slides.toy_slide("B1")
    toy_slides.fitted(method, cohort, tmp_path)
    first = toy_slides.predict(method, test, samples=4)
    assert first.samples.shape == (4, *test.expression.shape)
    assert (first.samples[0] != first.samples[1]).any()
    assert toy_slides.correlation(first.point, test.expression) > 0.3
    again = type(method)(neighbours=5)
    again.restore(method.arrays(), "cpu")
    assert np.array_equal(toy_slides.predict(again, test, samples=2).samples, first.samples[:2])


def test_the_encoder_of_the_recipe_sees_colours(tmp_path):
    encoder = page_of(tmp_path, "encoder")["Mine"](grid=4)
    encoder.open("cpu")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (70, 224, 224, 3), dtype=np.uint8)
    images[3] = 255
    with h5py.File(tmp_path / "patches.h5", "w") as file:
        features = encoder.encode(file.create_dataset("img", data=images))
    assert features.shape == (70, 6 * 4**2)
    assert features.dtype == np.float32
    # Every other column is a mean, 1 for white, beside a deviation, which is then 0.
    assert np.allclose(features[3], np.tile([1, 0], 48))


def test_the_gene_model_of_the_recipe_comes_back_from_its_arrays(tmp_path):
    model = page_of(tmp_path, "gene_model")["Mine"](width=3)
    rng = np.random.default_rng(0)
    genes, panel = [f"g{i}" for i in range(9)], ["g4", "g2", "g7"]
    counts = [sparse.csr_matrix(rng.poisson(3, (40, 9))) for _ in range(2)]
    model.fit(counts, genes, panel, seed=0)
    ((rows, vectors, mask),) = model.embed(counts[0], genes, [], panel[::-1])
    assert (rows, mask, vectors.shape, vectors.dtype) == (slice(0, 0), None, (3, 3), np.float32)
    again = type(model)(width=3)
    again.restore(model.arrays())
    ((_, same, _),) = again.embed(counts[1], genes, [], panel)
    assert np.array_equal(same, vectors[::-1])
    assert again.digest() == model.digest()


def test_the_network_of_the_recipe_is_one_that_timm_builds():
    import torch

    body = blocks("docs/howto/encoder.md", "python")[1]
    space: dict = {}
    exec(body, space)
    with torch.device("meta"):
        net = space["MineViT"](repo="OWNER/MODEL").build()
        assert net(torch.empty(1, 3, 224, 224)).shape == (1, 384)


# --- the messages that recipes promise -----------------------------------------------------------


def promised(page: str, message: object) -> None:
    """Assert that a row of the page's mistakes gives ``message``; … stands for what it leaves out."""
    section = text_of(f"docs/howto/{page}.md").split("\n## Usual mistakes\n")[1].split("\n## ")[0]
    given = re.findall(r"\| `([^`]+)`[^|`]*\|$", section, re.M)
    patterns = [".*".join(map(re.escape, text.split("…"))) for text in given]
    assert any(re.search(pattern, str(message), re.S) for pattern in patterns), message


def error(action: Callable, *arguments, **named) -> FlagError:
    with pytest.raises(FlagError) as found:
        action(*arguments, **named)
    return found.value


@pytest.mark.parametrize("layer", ["method", "encoder"])
def test_faults_of_an_entry_are_told_as_promised(layer, tmp_path, monkeypatch):
    cls = page_of(tmp_path, layer)["Mine"]
    module = ModuleType(use := f"flag_st.{layer}s.mine")
    module.Mine = cls
    monkeypatch.setitem(sys.modules, use, module)
    wrong = {"method": {"neighbors": 20}, "encoder": {"cells": 4}}[layer]
    promised(layer, error(registry.build, f"{use}.Mine", wrong))
    lacking = {"method": "restore", "encoder": "open"}[layer]
    monkeypatch.setattr(cls, "__abstractmethods__", frozenset({lacking}))
    promised(layer, error(registry.build, f"{use}.Mine", {}))
    promised(layer, error(config.load, {f"{layer}s": {"mine": {"use": f"{use}.Mine"}}}))
    if layer == "encoder":
        entry = {"base": "ridge", "encoder": "mien"}
        promised(layer, error(config.load, {"methods": {"ridge_mine": entry}}))
        alone = SlideFiles(tmp_path, tmp_path, patches=tmp_path)
        promised(layer, *check_images({"S1": alone}, {"mine_224um": 224}).messages)
        return
    monkeypatch.setattr(cls, "__abstractmethods__", frozenset())
    promised(layer, error(registry.build, f"{use}.Mine", {"neighbours": "many"}))
    entry = {"use": f"{use}.Mine", "lable": "Mine"}
    promised(layer, error(config.load, {"methods": {"mine": entry}}))


def test_faults_of_a_prediction_are_told_as_promised(tmp_path):
    slide = toy_slides.toy_slide("P2S2", spots=107, genes=50)
    facts = {"genes": [f"g{i}" for i in range(50)], "method": "mine", "unit": "log1p", "seed": 0}
    for samples in (slide.expression, np.full((1, 107, 50), np.nan)):
        given = tmp_path / "P2S2.h5ad", slide, Prediction(samples), facts
        promised("method", error(write_prediction, *given))
    promised("method", error(lambda: slide.without_truth().truth))


def test_faults_of_a_cohort_are_told_as_promised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    promised("cohort", error(Folder().slides))
    promised("cohort", error(Folder("nowhere").slides))
    for name in ("st/P1S1.h5ad", "wsis/P1S1.tif"):
        path = tmp_path / "sections" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    (row,) = (source := Folder("sections")).slides()
    promised("cohort", error(source.fetch, row.id, tmp_path))
    by_patient = {"scheme": "random", "by": "patient", "ratio": [6, 2, 2], "seed": 0}
    promised("cohort", error(expand, "mine", by_patient, [row]))
    rows = [SlideRow(f"P{p}S{s}", f"P{p}") for p in (1, 2) for s in (1, 2)]
    promised("cohort", error(expand, "mine", by_patient, rows))
    names = {f"P{i}": [f"G{g}" for g in range(374)] for i in range(7)}
    names["P2S2"] = [f"G{g}" for g in range(6, 400)]
    promised("cohort", *check_common_genes(names, 2000, "mine").messages)


def test_faults_of_a_new_slide_are_told_as_promised(tmp_path):
    """The messages of a model, of the spots and of the command line, as users meet them."""
    save_arrays(tmp_path / "model.safetensors", {}, {"method": "ridge"})
    promised("your_slide", error(open_model, tmp_path / "model.safetensors"))
    promised("your_slide", error(requests_of, ["a.svs", "b.svs"], "spots.csv"))
    Image.new("RGB", (600, 600), "white").save(tmp_path / "a.png")
    (tmp_path / "far.csv").write_text("x_um,y_um\n9e9,10\n")
    model = toy_model()
    asked = requests_of([str(tmp_path / "a.png")], str(tmp_path / "far.csv"), pixel_um=0.5)
    promised("your_slide", error(request.check, asked, model))
    promised("your_slide", error(request.check, asked * 2, model))
    (tmp_path / "mouse.gmt").write_text("S\tmouse\tMki67\tEsr1\n")
    mouse = [replace(asked[0], at=None, gene_sets=tmp_path / "mouse.gmt")]
    promised("your_slide", error(request.check, mouse, model))
    slide = toy_slides.toy_slide("A", spots=50)
    looks = toy_appearance(50) - 3
    trust = judge(model, slide.features, looks, slide.position, 0.5, 200.0)
    promised("your_slide", error(trust.raise_if_refused))


def test_faults_of_a_figure_are_told_as_promised(tmp_path, monkeypatch):
    monkeypatch.setattr(reads, "ROOT", tmp_path)
    script = tmp_path / "scripts" / "figures" / "mine.py"
    script.parent.mkdir(parents=True)
    for line in ("", 'READS = ("prediction", "spots")', 'READS = ("predictions")'):
        script.write_text(line)
        reads.reads_of.cache_clear()
        promised("figure", error(reads.reads_of, "figures/mine"))
    entry = {"script": "figures/mine", "title": "Mine"}
    promised("figure", error(config.load, {"experiments": {"mine": entry}}))


def test_the_figure_of_the_recipe_states_what_it_reads_and_the_words_are_all():
    body = blocks("docs/howto/figure.md", "python")[0]
    assert 'READS = ("predictions", "spots")' in body
    rows = re.findall(r"^  \| (`.*?`) \|", text_of("docs/howto/figure.md"), re.M)
    assert {word for row in rows for word in re.findall(r"`(\w+)`", row)} == set(reads.READABLE)


def test_no_page_names_what_git_does_not_keep():
    """Pages are read on their own: no address of one machine is in them."""
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|home|tmp|root)/", text_of(page)), page


def test_the_tree_of_the_architecture_is_the_tree():
    rooms = {p.name for p in (ROOT / PACKAGE).iterdir() if (p / "__init__.py").exists()}
    section = text_of("docs/architecture.md").split("The rooms of `src/flag_st/`:")[1]
    named = set(re.findall(r"^\| `(\w+)/` \|", section.split("\n## ")[0], re.M))
    assert named == rooms


def test_rules_of_the_architecture_are_those_of_the_workflow():
    files = (ROOT / "workflow" / "rules").glob("*.smk")
    rules = {n for f in files for n in re.findall(r"^rule (\w+):", f.read_text(), re.M)}
    table = text_of("docs/architecture.md").split("| rule | what it makes |")[1].split("\n\n")[0]
    named = {n for row in re.findall(r"^\| (`.*?) \|", table, re.M) for n in row.split("`")[1::2]}
    assert named == rules


def _in_hires(own):
    own.position = own.position * own.scales["tissue_hires_scalef"]


def _exchanged(own):
    own.position, own.size = own.position[:, ::-1], (max(own.size),) * 2


def _suffixes(own):
    own.matrix_barcodes = [barcode[:-2] for barcode in own.matrix_barcodes]


def _logarithms(own):
    own.counts = np.log1p(own.counts)


def _resolution(own):
    own.image_um = 2 * own.pixel_um


@pytest.mark.parametrize(
    ("change", "image"),
    [
        (None, None),
        (_in_hires, "S1.tif"),
        (_exchanged, "S1.tif"),
        (_suffixes, "S1.tif"),
        (_logarithms, "S1.tif"),
        (_resolution, "S1.tif"),
    ],
)
def test_faults_of_space_ranger_s_output_are_told_as_promised(tmp_path, change, image):
    own = own_sections.visium()
    if change is not None:
        change(own)
    own_sections.write_run(own, tmp_path / "S1", image and tmp_path / image)
    promised("your_cohort", error(SpaceRanger(tmp_path).check, "S1"))


def test_faults_of_a_spatialdata_store_are_told_as_promised(tmp_path, monkeypatch):
    """Their names are looked at before any package is needed; the last fault is that there is none."""

    def store(name: str, *elements: str, **params) -> SpatialDataZarr:
        for element in elements:
            (tmp_path / name / "S1.zarr" / element).mkdir(parents=True)
        (tmp_path / name / "S1.zarr/zarr.json").write_text("{}")
        return SpatialDataZarr(tmp_path / name, **params)

    several = store("several", "images/he_image", "images/morphology_focus", "tables/table")
    promised("your_cohort", error(several.check, "S1"))
    promised("your_cohort", error(store("small", "images/A_hires_image", "tables/t").check, "S1"))
    promised("your_cohort", error(store("xenium", "images/he", "points/transcripts").check, "S1"))
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    promised("your_cohort", error(store("bare", "images/he", "tables/table").check, "S1"))
