"""Which slides train, validate and test; the slide sheet is enough to know, while planning."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from flag_st.core.errors import FlagError
from flag_st.core.seeds import numpy_generator
from flag_st.data.slide_files import SlideRow

SCHEMES = ("random", "leave_one_out", "fixed")


@dataclass(frozen=True)
class Split:
    """Slide ids of the three parts, each in the order of the sheet."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]

    def as_dict(self) -> dict[str, list[str]]:
        """Part → slide ids."""
        return {part: list(ids) for part, ids in asdict(self).items()}

    def choosing(self, fit_on: str) -> tuple[str, ...]:
        """The slides whose counts choose a panel: of training (``train``), or of all parts (``all``)."""
        return self.train if fit_on == "train" else (*self.train, *self.valid, *self.test)


def expand(name: str, entry: dict, rows: Sequence[SlideRow]) -> dict[str, Split]:
    """The splits of one entry of ``config/splits.yaml``: one, or one per fold of leave-one-out.

    Args:
        name: name of the entry; folds of leave-one-out are called ``{name}-{unit}``.
        entry: ``scheme`` and its arguments: ``by`` (slide or patient), ``ratio`` and ``seed``, or
            for a fixed split the lists ``train``, ``valid`` and ``test``, without which the column
            ``fold`` of the sheet decides. ``only`` lists the units (slides or patients) that are
            left out in turn; all others are in the pool of every fold.
        rows: the slide sheet.

    Raises:
        FlagError: a part is empty, a slide is unknown or in two parts, or a patient is unknown.
    """
    scheme, by = entry["scheme"], entry.get("by", "slide")
    if scheme == "fixed":
        return {name: _fixed(name, entry, rows)}
    units = _units(name, by, rows)
    if scheme == "random":
        return {name: _random(name, units, entry["ratio"], entry["seed"], rows)}
    if scheme == "leave_one_out":
        left_out = _left_out(name, by, units, entry.get("only"))
        _distinct(name, left_out)
        seed = entry.get("seed", 0)
        return {f"{name}-{_slug(u)}": _leave_out(name, units, u, seed, rows) for u in left_out}
    raise FlagError(f"split {name!r}: unknown scheme {scheme!r}", choices=SCHEMES)


def _units(name: str, by: str, rows: Sequence[SlideRow]) -> dict[str, list[str]]:
    """Slides that must stay in one part, by unit: each slide alone, or all slides of a patient."""
    if by == "slide":
        return {row.id: [row.id] for row in rows}
    unknown = [row.id for row in rows if not row.patient]
    if unknown:
        raise FlagError(
            f"split {name!r} is by patient, but the patient of {', '.join(unknown[:5])} is unknown",
            remedy="fill the column patient of the slide sheet, or split by slide",
        )
    units: dict[str, list[str]] = {}
    for row in rows:
        units.setdefault(row.patient, []).append(row.id)
    _one_spelling(name, units)
    return units


def _random(name, units, ratio, seed, rows) -> Split:
    """Shuffle the units and divide them by ``ratio``; every part gets at least one unit."""
    order = numpy_generator(seed, "split").permutation(len(units))
    names = [list(units)[i] for i in order]
    if len(names) < 3:
        raise FlagError(
            f"split {name!r} needs at least 3 units (slides or patients), found {len(names)}",
            remedy="add slides, or use a fixed split",
        )
    valid, test = (max(1, round(len(names) * part / sum(ratio))) for part in ratio[1:])
    train = len(names) - valid - test
    if train < 1:
        raise FlagError(
            f"split {name!r} leaves no training unit out of {len(names)}",
            remedy="raise the first number of ratio",
        )
    parts = names[:train], names[train : train + valid], names[train + valid :]
    return _split(name, [[i for u in part for i in units[u]] for part in parts], rows)


def _left_out(name: str, by: str, units: dict, only: Sequence[str] | None) -> list[str]:
    """The units that are a test part in turn: all, or those that the entry lists in ``only``."""
    if unknown := [unit for unit in only or () if unit not in units]:
        raise FlagError(
            f"split {name!r}, only: no {by} {', '.join(unknown)}",
            choices=units,
            remedy=f"take out of splits.{name}.only what the cohort does not have",
        )
    return list(only or units)


def _leave_out(name, units, left_out, seed, rows) -> Split:
    """Test on one unit, validate on another that ``seed`` chooses, and train on the rest."""
    if len(units) < 3:
        raise FlagError(f"split {name!r} needs at least 3 units, found {len(units)}")
    rest = [unit for unit in units if unit != left_out]
    chosen = rest[int(numpy_generator(seed, "split", left_out).integers(len(rest)))]
    train = [i for u in rest if u != chosen for i in units[u]]
    return _split(name, [train, units[chosen], units[left_out]], rows)


def _fixed(name: str, entry: dict, rows: Sequence[SlideRow]) -> Split:
    parts = ("train", "valid", "test")
    if any(entry.get(part) for part in parts):
        lists = [list(entry.get(part) or []) for part in parts]
    else:
        lists = [[row.id for row in rows if row.fold == part] for part in parts]
    return _split(name, lists, rows)


def _split(name: str, parts: list[list[str]], rows: Sequence[SlideRow]) -> Split:
    known = [row.id for row in rows]
    chosen = [slide for part in parts for slide in part]
    if unknown := sorted(set(chosen) - set(known)):
        raise FlagError(f"split {name!r} names unknown slides {', '.join(unknown)}", choices=known)
    if twice := sorted({s for s in chosen if chosen.count(s) > 1}):
        raise FlagError(f"split {name!r} puts {', '.join(twice)} in more than one part")
    for part, slides in zip(("train", "valid", "test"), parts, strict=True):
        if not slides:
            raise FlagError(
                f"split {name!r} has an empty {part} part",
                remedy=f"list slides under {part}, or fill the column fold of the slide sheet",
            )
    return Split(*(tuple(i for i in known if i in set(part)) for part in parts))


def _distinct(name: str, units: Sequence[str]) -> None:
    """Refuse units whose folds would have the same name, so that one of them were never tested."""
    of: dict[str, str] = {}
    for unit in units:
        if (other := of.setdefault(_slug(unit), unit)) != unit:
            raise FlagError(
                f"split {name!r}: the folds of {other!r} and {unit!r} would both be called {name}-{_slug(unit)}",
                remedy="rename one of the two, or spell it alike everywhere if both are the same",
            )


def _one_spelling(name: str, patients: Iterable[str]) -> None:
    """Refuse patients whose names differ in case, blanks or the format of a number alone."""
    of: dict[str, str] = {}
    for patient in patients:
        plain = re.sub(r"[\s_-]+", "-", patient.strip().casefold())
        plain = re.sub(r"\.0+$", "", re.sub(r"(?<![\d.])0+(?=\d)", "", plain))
        if (other := of.setdefault(plain, patient)) != patient:
            raise FlagError(
                f"split {name!r} is by patient, and {other!r} and {patient!r} may be one patient",
                remedy="spell the patient alike in all sections, or give two patients names that differ in more",
            )


def _slug(unit: str) -> str:
    return "".join(c if c.isalnum() or c in "._" else "_" for c in unit)
