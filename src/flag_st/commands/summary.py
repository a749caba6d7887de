"""``flag-st summary``: what a finished run has made, for a person to look at."""

from pathlib import Path

from flag_st.core.errors import FlagError


def summary(results: str | Path) -> str:
    """The tables as text, and where the table files, the figures and the report are.

    Args:
        results: the folder of the results.

    Raises:
        FlagError: there is no report in it.
    """
    results = Path(results)
    page, tables = results / "report" / "index.html", results / "paper" / "tables"
    if not page.exists():
        raise FlagError(
            f"no report in {results}",
            remedy="run snakemake with this configuration, or name another folder of results",
        )
    figures = sorted((results / "paper" / "figures").glob("*.png"))
    lines = []
    for table in sorted(tables.glob("*.md")):
        lines += [table.read_text(encoding="utf-8").strip(), ""]
    lines += [f"tables   {tables}/*.csv, .tex, .md"]
    lines += [f"figure   {path}" for path in figures]
    slides = sorted((results / "new_slides").glob("*/summary.html"))
    lines += [f"slide    {path}" for path in slides]
    lines += [f"report   {page}"]
    return "\n".join(lines)
