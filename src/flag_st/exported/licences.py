"""Under which licences the parts of a model are, and which published weights it needs."""

import csv
from collections.abc import Iterable, Mapping
from typing import Any

from flag_st.core import registry
from flag_st.core.code import ROOT
from flag_st.core.errors import FlagError
from flag_st.transfer.weights import checkpoints

#: What is known about slides that no list names, where whoever exports the model states no licence either.
OWN = "the own data of whoever trained the model; no licence is stated"


def weights(*entries: Any) -> list[dict[str, Any]]:
    """The published files that plug-in entries name: repository, file, revision and digest."""
    found = {(c.repo, c.file): c for c in checkpoints(list(entries))}
    return [
        {"repo": c.repo, "file": c.file, "revision": c.revision, "sha256": c.sha256, "page": c.page}
        for _, c in sorted(found.items())
    ]


def portable(entry: Any) -> Any:
    """An entry without the paths of this machine: published weights are then looked for anew."""
    if isinstance(entry, list):
        return [portable(value) for value in entry]
    if not isinstance(entry, Mapping):
        return entry
    made = {key: portable(value) for key, value in entry.items()}
    if isinstance(made.get("use"), str) and next(checkpoints(made), None) is not None:
        made["params"] = {k: v for k, v in (made.get("params") or {}).items() if k != "weights"}
    return made


def notes(source: Mapping[str, Any], entries: Iterable[Any]) -> list[dict[str, str]]:
    """Name, licence and page of the cohort and of every published model among ``entries``.

    Args:
        source: the entry of the cohort: ``name``, ``use`` and, for slides that ``config/sources.tsv`` does
            not list, ``licence`` if whoever exports the model states one.
    """
    with open(ROOT / "config" / "sources.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    try:
        listed = registry.load(source["use"]).listed
    except FlagError:
        listed = ""  # somebody's own source, which is not here
    found = [
        {"of": f"cohort {source['name']}", "licence": source.get("licence") or OWN, "page": ""}
    ]
    for row in rows:
        if listed and row["name"] == listed:
            found[0] |= {"licence": row["licence"] or "none stated", "page": row["page"]}
    for repo in sorted({file["repo"] for file in weights(*entries)}):
        page = f"https://huggingface.co/{repo}"
        row = next((row for row in rows if row["page"] == page), {})
        licence = row.get("licence") or "see its page"
        found.append({"of": row.get("name") or repo, "licence": licence, "page": page})
    return found
