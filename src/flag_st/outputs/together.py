"""What is made of all slides of a call: the explorer, and one table."""

from collections.abc import Sequence
from pathlib import Path

from flag_st.core.errors import FlagError
from flag_st.core.io import read_json, writing
from flag_st.outputs import table
from flag_st.outputs.explorer import NAME
from flag_st.outputs.folder import RECORD
from flag_st.report.explorer import write_page

EXPLORER, COHORT = "explorer.html", "cohort.tsv"


def write(folders: Sequence[str | Path], explorer: str | Path, cohort: str | Path) -> None:
    """Write both for the slides in ``folders``."""
    write_explorer(folders, explorer)
    write_cohort(folders, cohort)


def write_cohort(folders: Sequence[str | Path], path: str | Path) -> None:
    """Write the tables of the slides one below the other, in long form: a row per slide and gene or set.

    Raises:
        FlagError: a table has other columns, since another version of this project wrote it.
    """
    heads, rows = set(), []
    for folder in map(Path, folders):
        head, *lines = (folder / table.NAME).read_text(encoding="utf-8").splitlines(keepends=True)
        heads.add(head)
        rows += lines
    if len(heads) != 1:
        raise FlagError(
            f"the tables {table.NAME} of the slides beside {path} have different columns",
            remedy="delete the folders of the slides and predict them again",
        )
    with writing(path) as temporary:
        temporary.write_text("".join([*heads, *rows]), encoding="utf-8")


def write_explorer(folders: Sequence[str | Path], path: str | Path) -> None:
    """Write the page of the slides in ``folders``, which must lie in the folder of the page."""
    slides = []
    for folder in map(Path, folders):
        verdict = read_json(folder / RECORD)["trust"]["verdict"]
        label = f"{folder.name}: {verdict}"
        slides.append({"label": label, "source": f"{folder.name}/{NAME}"})
    write_page(path, "predicted expression", slides, truth=False)
