"""The training history. It is apart from the loop because most methods have no loop and need no torch."""

import csv
from pathlib import Path

from flag_st.core.io import writing


class History:
    """Rows of the training history, written as CSV."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []

    def __call__(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row)) or ["epoch"]
        with (
            writing(self.path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
