"""Patients of sections, and other text of tables in which values are missing."""

from collections.abc import Iterable, Mapping, Sequence

from flag_st.core.errors import FlagError

#: How tables spell a value that is missing, in lower case.
MISSING = frozenset(("", "na", "n/a", "nan", "none", "null", "<na>"))


def without_gaps(labels: Iterable[object]) -> list[str]:
    """Labels as text, and "" in place of what tables write where a value is missing."""
    texts = ["" if label is None else str(label).strip() for label in labels]
    return ["" if text.lower() in MISSING else text for text in texts]


def validated_and_trained(split: Mapping[str, Sequence[str]], patients: Mapping[str, str]) -> bool:
    """Whether a validation slide is of a patient of training; unknown donors in both may be the same.

    Args:
        split: slides of the parts ``train`` and ``valid``.
        patients: slide → patient, "" if unknown.
    """
    train, valid = ({patients.get(s, "") for s in split[part]} for part in ("train", "valid"))
    return bool(train & valid)


def patient_of(facts: object) -> str:
    """The patient that the metadata name; "" if they are unknown, however the gap is spelled.

    Raises:
        FlagError: the metadata give something other than a name or a number.
    """
    patient = facts.get("patient") if isinstance(facts, dict) else None
    if patient is not None and not isinstance(patient, str | int | float):
        remedy = "write one name per section, or null if it is unknown"
        raise FlagError(f"the patient in the metadata is {patient!r}", remedy=remedy)
    (name,) = without_gaps([patient])
    return "" if name.lower() == "unknown" else name
