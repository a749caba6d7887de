"""The one exception that users are meant to read."""

from collections.abc import Callable, Iterable
from typing import Any


class FlagError(Exception):
    """A fault of the input or the configuration, in words that help to mend it.

    Args:
        fault: what is wrong; it names the file, key or value.
        choices: the valid values, if there is a list of them.
        remedy: what to do next, preferably a command or a key to set.
    """

    def __init__(self, fault: str, *, choices: Iterable | None = None, remedy: str | None = None):
        parts = [fault.rstrip(".") + "."]
        if choices is not None:
            parts.append("Valid: " + (", ".join(map(str, choices)) or "none") + ".")
        if remedy:
            parts.append("Remedy: " + remedy.rstrip(".") + ".")
        super().__init__(" ".join(parts))


class Faults:
    """Collects faults, so that a user sees them all at once instead of one per run.

    Attributes:
        messages: the faults.
        notes: what a user should know although it stops nothing, such as spots that are left out.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.notes: list[str] = []

    def add(self, fault: str, **parts) -> None:
        self.messages.append(str(FlagError(fault, **parts)))

    def attempt(self, action: Callable[..., Any], *args: Any) -> Any:
        """Return ``action(*args)``, or None if it raises a fault, which is kept."""
        try:
            return action(*args)
        except FlagError as error:
            self.messages.append(str(error))
            return None

    def extend(self, other: "Faults") -> None:
        self.messages += other.messages
        self.notes += other.notes

    def raise_if_any(self, title: str) -> None:
        if self.messages:
            count = len(self.messages)
            lines = "\n".join(f"  {i}. {m}" for i, m in enumerate(self.messages, 1))
            raise FlagError(f"{title}: {count} fault{'s' * (count > 1)}\n{lines}")
