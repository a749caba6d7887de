"""``flag-st show``: what an exported model holds, in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flag_st.exported.model import Exported
from flag_st.intervals.certificate import COARSER, TRUST
from flag_st.intervals.conformal import LEVELS
from flag_st.slides.trust import gene_verdicts, lax

#: Columns of ``gene_verdicts`` that the table of genes shows.
COLUMNS = {
    "validation_pcc": "PCC",
    "validation_pcc_lowest": "lowest",
    "pcc_at_least": "at least",
    "validation_rmse": "RMSE",
    "validation_spread": "spread",
}


def as_json(model: Exported) -> dict[str, Any]:
    """The facts of the model, and the mean validation scores of its genes."""
    calibrated = model.intervals.spot
    guaranteed = {str(level): calibrated.guaranteed(level) for level in LEVELS}
    intervals = {"patients": calibrated.patients, "guaranteed": guaranteed}
    return {**model.facts, "intervals": intervals, "validation": _genes(model)}


def _genes(model: Exported) -> dict[str, dict[str, Any]]:
    table = gene_verdicts(model)
    table = table.astype(object).where(table.notna(), None)  # JSON has no NaN
    return table.to_dict("index")


def as_text(model: Exported) -> str:
    """A page: the method, what it needs, what it was trained on, and how well each gene does."""
    facts, table = model.facts, gene_verdicts(model)
    platform = facts["platform"]
    counts = table["verdict"].value_counts()
    lines = [
        f"{facts['method']} ({facts['use']}), seed {facts['seed']}, contract {facts['contract']}, "
        f"flag-st {facts['code']['version']} at commit {(facts['code']['commit'] or 'unknown')[:12]}",
        f"  predicts   {len(model.genes)} genes in {facts['unit']}"
        + (f", {facts['samples']} draws by default" if facts["stochastic"] else ", without draws"),
        f"  reads      {facts['encoder_entry']['name']} features of patches of "
        f"{facts['patches']['size']} px at {facts['patches']['um_per_px']:.4g} µm/px",
        f"  platform   {platform['layout']} array, pitch {platform['pitch_um']:g} µm, "
        f"spots of {platform['spot_um']:g} µm",
    ]
    for part, slides in facts["split"].items():
        names = ", ".join(f"{s} ({p})" if p else s for s, p in slides.items())
        lines.append(f"  {part:<10} {names}")
    lines += _needed(facts)
    lines += [
        f"  licence    {n['of']}: {n['licence']} {n['page']}".rstrip() for n in facts["licences"]
    ]
    lines += [f"  intervals  {model.intervals.spot.sentence(90)}"]
    lines += [f"  note       {text}" for text in lax(model)]
    mean = np.nanmean(table["validation_pcc"]) if table["validation_pcc"].notna().any() else np.nan
    lines += [
        "",
        f"Of {len(table)} genes, {counts.get(TRUST, 0)} can be trusted at the scale of spots and "
        f"{counts.get(COARSER, 0)} {COARSER}. The mean correlation of all on validation slides is {mean:.3f}.",
        model.certificate.sentence(),
        f"{'gene':<16}" + "".join(f"{name:>9}" for name in COLUMNS.values()) + "  verdict",
    ]
    for gene, row in table.sort_values("validation_pcc", ascending=False).iterrows():
        cells = "".join(f"{row[name]:9.3f}" for name in COLUMNS)
        lines.append(f"{gene:<16}{cells}  {row['verdict']}")
    return "\n".join(lines)


def _needed(facts: Mapping[str, Any]) -> list[str]:
    """The published weights that must be on the machine that predicts."""
    if not facts["weights"]:
        return ["  needs      nothing but this file"]
    return [
        f"  needs      {w['file']} of {w['page']} at {w['revision']}"
        + (f", sha256 {w['sha256'][:16]}…" if w["sha256"] else "")
        for w in facts["weights"]
    ]
