"""Speed and memory, of FLAG against its release, of HINGE and of new slides: one measurement per process.

``flag-st benchmark`` measures every pair, each side in a process of its own so that its peak memory
is its own, and writes a table and a picture. No test asserts a time.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from flag_st.commands import benchmark_cases, benchmark_slides
from flag_st.core.errors import FlagError

CASES = benchmark_cases.CASES | benchmark_slides.CASES
#: Settings of glibc by case: freed tensors are given back at once, so that a peak is of what is in
#: use. It costs time, which is measured without.
ALLOCATOR = {"graph_memory": {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": str(2**16)}}


def measure(case: str, entry: str, spots: int, **more: Any) -> dict[str, float]:
    """Run one case in a fresh process."""
    command = [sys.executable, "-m", "flag_st", "benchmark", "--case", case]
    command += ["--entry", entry, "--spots", str(spots), "--more", json.dumps(more)]
    environment = {**os.environ, **ALLOCATOR.get(case, {})}
    done = subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


#: The sizes of ``flag_graph`` and of FLAG in ``config/her2st_open.yaml`` and on the GPU that trained it longest.
ALONE: dict[str, Any] = {"backbone": {"width": 256, "depth": 2}}
MEDIUM: dict[str, Any] = {"width": 128, "depth": 6, "decode_spots": 128}
#: What is compared: title, case and arguments of the release's side and of ours, the number, and
#: whether a large ratio (theirs / ours) is good.
PAIRS: dict[str, tuple] = {
    "One draw, 300 spots (small network)": (
        ("draw", "flag_released", 300, {}),
        ("draw", "flag", 300, {}),
        "seconds",
    ),
    "One evaluation, 50 spots (paper's size)": (
        ("evaluation", "flag_released", 50, {}),
        ("evaluation", "flag", 50, {}),
        "seconds",
    ),
    "Training, a tile of 280 spots (small network)": (
        ("train", "flag_released", 280, {}),
        ("train", "flag", 280, {"decode_spots": 70}),
        "seconds",
    ),
    "One draw, 300 spots: FLAG (small network), against its graph network alone": (
        ("draw", "flag", 300, {}),
        ("draw", "flag_graph", 300, ALONE),
        "seconds",
    ),
    "Training, a tile of 128 spots: FLAG (medium network), against its graph network alone": (
        ("train", "flag", 128, MEDIUM),
        ("train", "flag_graph", 128, ALONE),
        "seconds",
    ),
    "Memory of the graph encoder in training, 280 spots (paper's size)": (
        ("graph_memory", "flag_released", 280, {}),
        ("graph_memory", "flag", 280, {}),
        "gib",
    ),
    "Attention to neighbours in a draw, 2,700 spots, against message passing": (
        ("attention_by_messages", "flag", 2700, {"training": False}),
        ("attention", "flag", 2700, {"training": False}),
        "seconds",
    ),
    "Attention to neighbours in training, 2,700 spots, against message passing": (
        ("attention_by_messages", "flag", 2700, {"training": True}),
        ("attention", "flag", 2700, {"training": True}),
        "seconds",
    ),
    "Graph of a slide with 2,700 spots, against a loop over pairs": (
        ("construction_by_pairs", "flag_released", 2700, {}),
        ("construction", "flag", 2700, {}),
        "seconds",
    ),
    "One draw of HINGE, 200 spots (small backbone): 50 steps, against 10": (
        ("spot_draw", "hinge", 200, {}),
        ("spot_draw", "hinge_budget_10", 200, {}),
        "seconds",
    ),
    "A new slide of 2,000 spots from file to zarr: one process, against two that encode": (
        ("new_slide", "flag", 2000, {"processes": 1}),
        ("new_slide", "flag", 2000, {"processes": 2}),
        "seconds",
    ),
    "An epoch of HINGE, 1,300 spots (small backbone): all trained, against frozen": (
        ("spot_epoch", "hinge_finetuned", 1300, {}),
        ("spot_epoch", "hinge", 1300, {}),
        "seconds",
    ),
}


#: Spots of new slides whose memory is compared.
SLIDES = (1000, 10_000, 100_000)


def run_case(case: str, entry: str, spots: int, more: dict[str, Any]) -> dict[str, float]:
    """One measurement in this process.

    Raises:
        FlagError: an unknown case.
    """
    if case not in CASES:
        raise FlagError(f"no benchmark {case!r}", choices=CASES)
    return CASES[case](entry, spots, **more)


def compare(out: str | Path) -> None:
    """Measure every pair and the growth with the number of spots; report them in ``out``."""
    from tqdm import tqdm

    pairs = {}
    for title, (theirs, ours, unit) in tqdm(PAIRS.items(), desc="pairs"):
        pairs[title] = (unit, *(measure(*side[:3], **side[3]) for side in (theirs, ours)))
    sizes = [500, 1000, 2000, 4000, 8000]
    grown = {
        case: [measure(case, "flag", n) for n in tqdm(sizes, desc=case)]
        for case in ("growth", "construction")
    }
    slides = {n: measure("new_slide_memory", "flag", n) for n in tqdm(SLIDES, desc="new slides")}
    report(Path(out), pairs, sizes, grown, slides)


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope of ln(value) over ln(size)."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def report(
    out: Path,
    pairs: dict,
    sizes: list[int],
    grown: dict[str, list[dict]],
    slides: dict[int, dict[str, float]],
) -> None:
    """Write ``speed.md`` and ``growth.png``.

    Args:
        pairs: title → the number that is compared, and what both sides measured.
        sizes: spots of the slides of ``grown``, which has a list of measurements per case.
        slides: spots of a new slide → its measurement.
    """
    import torch

    from flag_st.core.io import writing

    lines = _table(pairs)
    curves = {
        "time of a draw of two steps (s)": [g["seconds"] for g in grown["growth"]],
        "memory of it (GiB)": [g["gib"] for g in grown["growth"]],
        "time of the graph's construction (s)": [g["seconds"] for g in grown["construction"]],
    }
    lines += ["", f"Growth from {sizes[0]:,} to {sizes[-1]:,} spots of one whole slide:"]
    for title, values in curves.items():
        power = exponent(sizes, values)
        lines.append(f"- {title}: {values[0]:.3g} to {values[-1]:.3g}, exponent {power:.2f}")
    lines += ["", "Peak memory above the model of a new slide, from file to zarr:"]
    lines += [f"- {n:,} spots: {one['gib']:.2f} GiB" for n, one in slides.items()]
    lines += ["", f"torch {torch.__version__}, {torch.get_num_threads()} threads, fp32."]
    with writing(out / "growth.png") as temporary:
        _draw(sizes, curves).savefig(temporary, dpi=150)
    with writing(out / "speed.md") as temporary:
        Path(temporary).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _table(pairs: dict) -> list[str]:
    """One row per pair, and below them the bounds that are known."""
    lines = ["| | released | ours | ratio |", "|---|---|---|---|"]
    for title, (unit, theirs, ours) in pairs.items():
        a, b = theirs[unit], ours[unit]
        name = "s" if unit == "seconds" else "GiB"
        lines.append(f"| {title} | {a:.3g} {name} | {b:.3g} {name} | {a / b:.1f} × |")
    for title, (_, *sides) in pairs.items():
        for name, side in zip(("released", "ours"), sides, strict=True):
            if "bound" in side:
                lines.append("") if lines[-1].startswith("|") else None
                lines.append(
                    f"{title}, {name}: {side['flop'] / 1e9:.0f} GFLOP, at least "
                    f"{side['bound']:.2f} s at {side['rate'] / 1e9:.0f} GFLOP/s of matrix products; "
                    f"{side['seconds'] / side['bound']:.1f} times that was measured."
                )
    return lines


def _draw(sizes: list[int], curves: dict[str, list[float]]):
    """A figure with one panel per curve over the number of spots."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(9, 2.8), layout="constrained")
    for axis, (title, values) in zip(axes, curves.items(), strict=True):
        label = f"exponent {exponent(sizes, values):.2f}"
        axis.loglog(sizes, values, "o-", color="#0072B2", label=label)
        axis.loglog(sizes, values[0] * np.array(sizes) / sizes[0], ":", color="0.5", label="linear")
        axis.set(xlabel="spots", title=title)
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes], fontsize=8)
        axis.minorticks_off()
        axis.title.set_fontsize(9)
        axis.legend(frameon=False, fontsize=8)
    return figure
