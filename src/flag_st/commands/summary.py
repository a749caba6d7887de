"""What a finished run left to look at: ``python -m flag_st.commands.summary RESULTS``."""

import sys
from pathlib import Path

from flag_st.core.errors import FlagError


def summary(results: Path) -> str:
    """The main table as text, and where tables, figures and the report are.

    Raises:
        FlagError: nothing was made there.
    """
    page, tables = results / "report" / "index.html", results / "paper" / "tables"
    if not page.exists():
        raise FlagError(f"no report in {results}", remedy="run snakemake with this configuration")
    figures = sorted((results / "paper" / "figures").glob("*.png"))
    lines = []
    for table in sorted(tables.glob("*.md")):
        lines += [table.read_text(encoding="utf-8").strip(), ""]
    lines += [f"tables   {tables}/*.csv, .tex, .md"]
    lines += [f"figure   {path}" for path in figures]
    lines += [f"report   {page}"]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        print(summary(Path(sys.argv[1] if len(sys.argv) > 1 else "results")))
    except FlagError as error:
        raise SystemExit(f"flag-st: {error}") from None
