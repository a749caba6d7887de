"""Names and settings of a run without the folders of the machine that it was made on."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flag_st.core.code import ROOT

#: The folder of the results, whatever it is called, and that of all files from elsewhere.
RESULTS, OUTSIDE = "results", "outside"
#: A path in a sentence: from the root through at least one folder, from the home or from a parent.
PATH = re.compile(
    r"(?<![\w:/.~<*-])(?:(?:~|\.\.)/[^\s\"'`<>,;()]+|/[^\s/\"'`<>,;()]+/[^\s\"'`<>,;()]+)"
)
#: How tokens of hubs and of forges begin.
TOKEN = re.compile(r"\b(?:hf|ghp|gho|ghs|glpat|github_pat)[_-][A-Za-z0-9_]{16,}")
#: Folders that hold the homes of users.
HOMES = re.compile(r"(?<![\w.])/(?:home|Users)/[\w.-]+")
#: Variables of the environment that may hold a token.
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN")


@dataclass(frozen=True)
class Names:
    """What files and settings are called in a crate.

    Attributes:
        results: the folder of the results, as the records of the run name it.
    """

    results: str

    def path(self, path: str) -> str:
        """The name of a file: below ``results``, below ``outside``, or as it is if it is relative.

        Of a path elsewhere, the last part is kept if it has a suffix: the others may be names of people.
        """
        whole, home = os.path.normpath(path), os.path.normpath(self.results)
        if whole == home or whole.startswith(home + os.sep):
            return RESULTS + whole[len(home) :]
        if whole.startswith(("/", "~", "..")):
            return _elsewhere(whole)
        return whole

    def value(self, value: Any) -> Any:
        """Settings in which every path has its name in the crate."""
        if isinstance(value, Mapping):
            return {self._text(str(key)): self.value(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.value(inner) for inner in value]
        return self._text(value) if isinstance(value, str) else value

    def digests(self, known: Mapping[str, str]) -> dict[str, str]:
        """Path → digest, by names. Of several files from elsewhere with one name, all keep a place."""
        found: dict[str, str] = {}
        for path, value in sorted(known.items()):
            name = self.path(path)
            found[name if found.get(name, value) == value else f"{name} ({value[:12]})"] = value
        return found

    def _text(self, text: str) -> str:
        if text.startswith(("/", "~/", "../")) or text == self.results:
            return self.path(text)
        if text.startswith(self.results + os.sep):
            return self.path(text)
        return PATH.sub(lambda found: self.path(found[0]), text)


def _elsewhere(path: str) -> str:
    name = os.path.basename(path)
    is_file = "." in name.strip(".") and not HOMES.fullmatch(path)
    return f"{OUTSIDE}/{name}" if is_file else OUTSIDE


def personal(data: bytes, results: Path) -> str | None:
    """What a file says about the person or the machine, such as a folder of theirs, or None."""
    text = data.decode("latin-1")
    for found in (TOKEN.search(text), HOMES.search(text)):
        if found:
            return "a token" if found.re is TOKEN else found[0]
    return next((word for word in _own_words(results) if _holds(text, word)), None)


def _own_words(results: Path) -> Iterator[str]:
    yield from (os.environ[name] for name in SECRETS if os.environ.get(name))
    for folder in (Path.home(), ROOT, Path.cwd(), results.resolve().parent):
        if len(folder.parts) > 2:  # a single folder, such as /data, may be part of any name
            yield str(folder)


def _holds(text: str, word: str) -> bool:
    return word in text and bool(re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", text))
