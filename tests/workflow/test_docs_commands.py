"""Commands in blocks of the pages are run as they stand, or a table here says why one is not."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
FOLDERS = ("config/*.md", "docs/**/*.md", "profiles/**/*.md", "results/README.md")
PAGES = sorted(
    {str(p.relative_to(ROOT)) for pattern in ("*.md", *FOLDERS) for p in ROOT.glob(pattern)}
)
#: Commands by how they begin → why they are only planned, with --dry-run.
PLANNED = {
    ".venv/bin/snakemake --cores 2 --configfile config/demo.yaml": "minutes for each recipe",
}
#: Commands by how they begin → why they are not run here.
NOT_RUN = {
    ".venv/bin/snakemake -n": "tests/workflow/test_plan.py plans the papers' run, which takes minutes",
    ".venv/bin/snakemake --cores 8 --resources gpu=1": "the papers' run takes GPU-days; it is planned there, too",
    ".venv/bin/python examples/": "tests/unit/test_example.py runs it",
    ".venv/bin/flag-st check --configfile own.yaml": "DIR is a folder of the reader's; "
    "tests/unit/test_cohort_forms.py checks such folders",
    ".venv/bin/snakemake --cores 8 --configfile own.yaml": "DIR is a folder of the reader's",
    ".venv/bin/flag-st check --configfile mine.yaml --config root=DIR": "the reader's folder",
    ".venv/bin/snakemake --cores 2 --configfile mine.yaml": "three minutes; it runs like the demo",
    ".venv/bin/flag-st export results/mine": "needs that run",
    ".venv/bin/flag-st predict SLIDE.svs": "the reader's slide",
    ".venv/bin/flag-st attribute": "needs the papers' run; tests/unit/test_attribute.py",
    ".venv/bin/flag-st check --configfile config/mine.yaml": "the reader's entry",
    ".venv/bin/snakemake --cores 8 --configfile config/mine.yaml": "the reader's entry",
    ".venv/bin/flag-st trace results/paper": "needs the papers' run; tests/unit/test_trace.py",
    ".venv/bin/flag-st compare theirs.zip": "somebody else's archive; tests/unit/test_compare.py",
    ".venv/bin/flag-st score TRUTH.h5ad": "the reader's files; tests/unit/test_package.py scores",
    ".venv/bin/snakemake --sdm conda": "needs conda, which makes each environment once",
    ".venv/bin/snakemake --cores 16": "GPU-hours on real sections that are not in the repository",
    ".venv/bin/snakemake --cores 2 --configfile config/her2st_open.yaml": "hours, real sections",
    ".venv/bin/snakemake --cores 2 --configfile config/mob.yaml": "an hour, real sections",
    ".venv/bin/snakemake predict_slides": "the reader's sheet; test_predict_slides.py runs it",
    ".venv/bin/pip install": "would change this environment; `make setup` does the same",
    ".venv/bin/snakemake --cores 2 --until retrieve": "downloads HEST-1k, which is gated",
    ".venv/bin/snakemake --workflow-profile profiles/slurm": "tests/cluster runs it on a SLURM",
}
#: Where the recipes say that their first blocks are saved.
SAVED = {layer: f"src/flag_st/{layer}s/mine.py" for layer in ("method", "encoder", "gene_model")}
SAVED["figure"] = "scripts/figures/mine.py"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    """Every command line in the shell blocks of a page, without comments."""
    blocks = [body for kind, body in FENCE.findall(text_of(page)) if kind == "bash"]
    lines = [re.sub(r"\s+#.*", "", line).strip() for body in blocks for line in body.splitlines()]
    return [line for line in lines if line]


def reason(command: str, table: dict[str, str]) -> str | None:
    """The longest beginning in the table that is this command's."""
    found = [start for start in table if command.startswith(start)]
    return max(found, key=len) if found else None


def how(command: str) -> str:
    """``run``, ``plan``, ``not`` or ``ci``: the entry with the longest beginning decides."""
    if command.startswith("make "):
        return "ci"
    planned, left = reason(command, PLANNED), reason(command, NOT_RUN)
    if planned and len(planned) >= len(left or ""):
        return "plan"
    return "not" if left else "run"


def test_shell_commands_are_in_blocks_that_say_so():
    """A block that calls our commands is one of `bash`, so that nothing escapes this test."""
    for page in PAGES:
        for kind, body in FENCE.findall(text_of(page)):
            if kind != "bash":
                assert not re.search(r"^(\.venv/bin/|make |flag-st )", body, re.M), page


def test_every_exception_is_of_some_command():
    found = [command for page in PAGES for command in commands(page)]
    for table in (PLANNED, NOT_RUN):
        for start in table:
            assert any(command.startswith(start) for command in found), start


def test_make_targets_of_the_pages_are_run_by_ci():
    ci = text_of(".ci/run")
    for page in PAGES:
        for command in commands(page):
            if how(command) == "ci":
                assert f"{command}\n" in ci or f"{command} " in ci, f"{page}: {command}"


@pytest.fixture
def tree(tmp_path):
    """A copy of the project with the demo's results, where they are, and this environment."""
    names = ("Snakefile", "workflow", "config", "envs", "profiles", "scripts", "src")
    for name in names:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__", "*.egg-info")
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(source, tmp_path / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".snakemake").mkdir()
    for digests in (ROOT / ".snakemake").glob("flag_st_code_*.json"):
        shutil.copy(digests, tmp_path / ".snakemake")  # of unchanged code; saves parsing it again
    return tmp_path


def save_blocks(page: str, tree: Path) -> None:
    """What a recipe tells its reader to save."""
    blocks = FENCE.findall(text_of(page))
    for kind, place in (("python", SAVED.get(Path(page).stem)), ("yaml", "mine.yaml")):
        body = next((body for language, body in blocks if language == kind), None)
        if page.startswith("docs/howto/") and place and body:
            (tree / place).write_text(body, encoding="utf-8")


@pytest.mark.parametrize(
    "page", [p for p in PAGES if {how(c) for c in commands(p)} & {"run", "plan"}]
)
def test_commands_of_a_page_run(page, tree):
    save_blocks(page, tree)
    demo = ROOT / "results" / "demo"
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "HF_HUB_OFFLINE": "1"}
    todo = [c for c in commands(page) if how(c) in ("run", "plan")]
    if any("results/demo" in command for command in todo):
        if not (demo / "report" / "index.html").exists():
            pytest.skip("needs the demo's results: make demo")
        (tree / "results").mkdir()
        (tree / "results" / "demo").symlink_to(demo)  # these commands only read it
    for command in todo:
        command += " --dry-run" * (how(command) == "plan" and not command.endswith(" -n"))
        shell = ["bash", "-euo", "pipefail", "-c", command]
        done = subprocess.run(shell, cwd=tree, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
