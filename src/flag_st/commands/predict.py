"""``flag-st predict``: an exported model on slides, one folder of files per slide."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flag_st.core.errors import Faults, FlagError
from flag_st.exported.model import open_model
from flag_st.outputs import together
from flag_st.outputs.folder import PAGE, is_made, make, origin_of
from flag_st.slides.given_mask import LAZYSLIDE
from flag_st.slides.predict import Predictor
from flag_st.slides.request import Request, check, name_of


def requests_of(
    slides: Sequence[str], at: str | None = None, mask: str = "", **options: Any
) -> list[Request]:
    """One request per image file of the command line.

    Args:
        slides: paths of images.
        at: path of a file of spots.
        mask: path of a mask, or ``lazyslide``.
        options: further fields of ``Request``, the same for all slides.

    Raises:
        FlagError: one file of spots, or one mask, for several slides.
    """
    own = {"--at names the spots": at, "--mask names the tissue": mask if mask != LAZYSLIDE else ""}
    for what, file in own.items():
        if file and len(slides) > 1:
            column = what.split()[0].removeprefix("--")
            raise FlagError(
                f"{what} of one slide, and {len(slides)} slides are given",
                remedy=f"write a sheet with the columns slide and {column}, and run: snakemake "
                "predict_slides --config slides=sheet.tsv model=model.flag",
            )
    spots = Path(at) if at is not None else None
    return [Request(p, name_of(p), at=spots, mask=mask, **options) for p in map(Path, slides)]


def predict(
    requests: Sequence[Request],
    model: str | Path,
    out: str | Path,
    device: str = "cpu",
    processes: int = 1,
    progress: Callable[..., Iterable] = lambda items, **_: items,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> None:
    """Predict slides into folders of their names below ``out``, and write what is made of all of them.

    All faults of all slides are told before the first is predicted. A slide that is there already is
    left alone, and one that is refused does not keep the others from being made.

    Raises:
        FlagError: faults of the slides; or, at the end, the slides that could not be made.
    """
    opened = open_model(model)
    check(requests, opened)
    folders = {request.name: Path(out) / request.name for request in requests}
    todo, made = [], []
    for request in requests:
        if is_made(folders[request.name], request, origin_of(request, opened)):
            made.append(request)
            say(f"{folders[request.name]}: is there already")
        else:
            todo.append(request)
    faults = Faults()
    if todo:
        predictor = Predictor(opened, device, processes)
        for request in progress(todo, desc="slides"):
            folder = folders[request.name]
            try:
                say(f"{folder}: made, {make(predictor, request, folder, progress)}")
                made.append(request)
            except FlagError as error:
                faults.add(str(error))
                say(f"{folder}: not made")
    if made:
        whole = [folders[request.name] for request in requests if request in made]
        together.write(whole, Path(out) / together.EXPLORER, Path(out) / together.COHORT)
        say(f"open {Path(out) / together.EXPLORER}, or {PAGE} in the folder of a slide")
    faults.raise_if_any(f"{len(faults.messages)} of {len(requests)} slides were not made")
