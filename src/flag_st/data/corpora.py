"""Which sections a gene model is fitted to, beyond the training slides of a split.

Any spot with counts can teach a gene model, also where nobody took an image. Which counts it has seen
decides what a comparison shows, so that each corpus has a name. Validation slides are in none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flag_st.core.errors import FlagError
from flag_st.data.slide_files import SlideRow
from flag_st.data.splits import Split

#: ``train``: the training slides. ``others``: also the sections with counts alone, of patients who are
#: not tested. ``open``: also those of the tested patients. ``oracle``: also the test slides themselves,
#: which is a control.
CORPORA = ("train", "others", "open", "oracle")


@dataclass(frozen=True)
class Corpus:
    """Sections beyond the training slides.

    Attributes:
        counts: sections with counts and no image.
        slides: slides of the cohort; those that are tested, in the control ``oracle`` alone.
    """

    counts: tuple[str, ...] = ()
    slides: tuple[str, ...] = ()


def corpus_of(
    kind: str, split: Split, rows: Sequence[SlideRow], further: Sequence[SlideRow], where: str
) -> Corpus:
    """The sections that ``kind`` adds to the training slides.

    Args:
        kind: one of ``CORPORA``.
        split: the fold.
        rows: the slides of the cohort.
        further: its sections with counts and no image.
        where: the entry, cohort and fold, for messages.

    Raises:
        FlagError: the cohort has no such section, a section is also a slide of the cohort, a patient
            must be known and is not, or no section is left.
    """
    if kind == "train":
        return Corpus()
    held_out = {*split.valid, *split.test}
    if both := [row.id for row in further if row.id in {slide.id for slide in rows}]:
        tested = "which are held out" if held_out & set(both) else "which the split has already"
        raise FlagError(
            f"{where}: {', '.join(both)} are slides of the cohort, {tested}",
            remedy="take them out of the sheet of sections with counts alone",
        )
    if kind == "oracle":
        return Corpus(tuple(row.id for row in further), split.test)
    if not further:
        raise FlagError(
            f"{where}: the cohort has no sections with counts and no image",
            remedy="add counts/<id>.h5ad to its folder, or write corpus: train",
        )
    if kind == "others":
        further = _of_others(split, rows, further, where)
    return Corpus(tuple(row.id for row in further))


def _of_others(
    split: Split, rows: Sequence[SlideRow], further: Sequence[SlideRow], where: str
) -> list[SlideRow]:
    """Those of ``further`` whose patients are not tested."""
    tested = [row for row in rows if row.id in split.test]
    if unknown := [row.id for row in (*tested, *further) if not row.patient]:
        raise FlagError(
            f"{where}: the patient of {', '.join(unknown[:5])} is unknown",
            remedy="fill the column patient of both slide sheets, or write corpus: open",
        )
    patients = {row.patient for row in tested}
    if not (left := [row for row in further if row.patient not in patients]):
        raise FlagError(
            f"{where}: the corpus is empty, since all sections with counts alone are of "
            f"{', '.join(sorted(patients))}, who is tested",
            remedy="write corpus: open, or test another patient",
        )
    return left


def check_sections(names: Iterable[str], split: Mapping[str, Sequence[str]], kind: str) -> None:
    """Refuse counts of held-out slides, by the name that each file has inside.

    Args:
        names: slides and sections whose counts are read.
        split: as in ``split.json``.
        kind: one of ``CORPORA``.

    Raises:
        FlagError: a validation slide is among them, or a test slide in any corpus but ``oracle``.
    """
    held_out = {*split["valid"], *(() if kind == "oracle" else split["test"])}
    if seen := sorted(held_out & set(names)):
        raise FlagError(
            f"the corpus {kind} holds {', '.join(seen)}, which the split holds out",
            remedy="delete the file of this name and run the same command again",
        )
