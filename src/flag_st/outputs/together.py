"""What is made of all slides of a call: the explorer, which leads to each of them."""

from collections.abc import Sequence
from pathlib import Path

from flag_st.core.io import read_json
from flag_st.outputs.explorer import NAME
from flag_st.outputs.folder import RECORD
from flag_st.report.explorer import write_page

EXPLORER = "explorer.html"


def write_explorer(folders: Sequence[str | Path], path: str | Path) -> None:
    """Write the page of the slides in ``folders``, which must lie in the folder of the page."""
    slides = []
    for folder in map(Path, folders):
        verdict = read_json(folder / RECORD)["trust"]["verdict"]
        label = f"{folder.name}: {verdict}"
        slides.append({"label": label, "source": f"{folder.name}/{NAME}"})
    write_page(path, "predicted expression", slides, truth=False)
