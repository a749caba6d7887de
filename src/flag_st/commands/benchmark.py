"""Speed and memory, of FLAG against its release and of HINGE: one measurement per process, in pairs.

``flag-st benchmark`` measures every pair, each side in a process of its own so that its peak memory
is its own, and writes a table and a picture. No test asserts a time.
"""

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from flag_st.core.errors import FlagError

#: A small network with which a CPU draws a whole slide in minutes; both sides of a pair have it.
SMALL: dict[str, Any] = dict(
    width=64,
    depth=4,
    heads=4,
    backbone={"width": 128, "depth": 3, "heads": 4},
    alignment={"blocks": 3},
)
#: The point estimate is not part of what is measured.
NO_POINT = {"sampling": {"point_draws": 0}}
GENES, FEATURES = 200, 1024


def slide(spots: int):
    """A square array with 200 µm pitch and 0.7 µm pixels, as in HER2ST; features are random."""
    from flag_st.data.slide import Slide

    rng, side = np.random.default_rng(0), math.ceil(math.sqrt(spots))
    place = np.stack(np.divmod(np.arange(spots), side), 1) * 200.0  # (N, 2)
    return Slide(
        id="benchmark",
        patient="",
        spots=np.arange(spots).astype(str),
        position=place + 100.0,
        features=rng.normal(size=(spots, FEATURES)).astype(np.float32),
        expression=np.log1p(rng.poisson(3, (spots, GENES))).astype(np.float32),
        pixel_um=0.7,
    )


def method(entry: str, spots: int, *overlays: dict[str, Any]):
    """A shipped entry with random weights, ready to predict; later overlays of its params win."""
    import torch

    from flag_st.core import registry
    from flag_st.data.slide import Cohort
    from flag_st.planning import config

    known = config.load()["methods"][entry]
    params = reduce(config.merge, overlays, known["params"])
    made = registry.build(known["use"], params)
    torch.manual_seed(0)
    train = Cohort([slide(spots)], [f"g{i}" for i in range(GENES)])
    made._statistics(train)
    made.net, made.device = made.build(GENES, FEATURES), "cpu"
    return made


def best(work: Callable[[], Any], repeats: int) -> float:
    """Seconds that the quickest of so many repeats takes."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peak() -> float:
    """Peak memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# --- what is measured: each takes its arguments and returns numbers ------------------------------


def draw(entry: str, spots: int, **more: Any) -> dict[str, float]:
    """One draw of a slide with the entry's own sampler."""
    from flag_st.core.seeds import Draws

    one, target = method(entry, spots, SMALL, NO_POINT, more), slide(spots)
    one.net.eval().requires_grad_(False)
    return {"seconds": best(lambda: one.predict(target, 1, Draws(0, "x")), 1)}


def evaluation(entry: str, spots: int, **more: Any) -> dict[str, float]:
    """One evaluation at the paper's size, and what its floating-point operations would take at
    the rate of this machine's matrix products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from flag_st.methods.flag.windows import slide_denoiser, windows

    one, target = method(entry, spots, more), slide(spots)
    one.net.eval().requires_grad_(False)
    x, sigma = torch.randn(1, spots, GENES), torch.tensor(1.0)
    with torch.inference_mode():
        opened = windows(one.seen(target), one.options.tiling, one.builder, "cpu")
        denoise = slide_denoiser(one.net, opened, one.options.backbone.encode == "once")
        with FlopCounterMode(display=False) as counter:
            denoise(x, sigma)
        seconds = best(lambda: denoise(x, sigma), 2)
    a = torch.randn(2048, 2048)
    rate = 2 * 2048**3 / best(lambda: a @ a, 5)
    flop = counter.get_total_flops()
    return {"seconds": seconds, "flop": flop, "rate": rate, "bound": flop / rate}


def train(entry: str, spots: int, **more: Any) -> dict[str, float]:
    """Forward and backward of one tile of ``spots`` spots."""

    from flag_st.core.seeds import torch_generator
    from flag_st.data.slide import Cohort
    from flag_st.methods.base import Run

    # One tile with all spots on both sides, as on a Visium slide with 280 spots per tile.
    whole = {"tiling": {"spots": spots, "edge_px": 1e6, "per_step": 1}}
    one = method(entry, spots, SMALL, whole, more)
    cohort = Cohort([slide(spots)], [f"g{i}" for i in range(GENES)])
    task = one.task(cohort, cohort, Run())
    (batch,) = task.batches(torch_generator(0))

    def step() -> None:
        task.loss(batch, torch_generator(1))[0].backward()
        one.net.zero_grad()

    seconds = best(step, 3)
    return {"seconds": seconds, "spots_per_second": spots / seconds}


def graph_memory(entry: str, spots: int, **more: Any) -> dict[str, float]:
    """Memory of forward and backward through the graph encoder alone, at the paper's size."""
    import torch

    from flag_st.methods.flag.windows import windows

    one, target = method(entry, spots, {"tiling": {"edge_px": 1e6}}, more), slide(spots)
    (window,) = windows(one.seen(target), one.options.tiling, one.builder, "cpu")
    x, sigma = torch.randn(1, spots, GENES), torch.ones(1, 1, 1)
    before = peak()
    start = time.perf_counter()
    condition = one.net.encode(x, sigma, window.tiles)
    condition = condition[0] if isinstance(condition, tuple) else condition  # (1, N, d)
    condition.sum().backward()
    return {"seconds": time.perf_counter() - start, "gib": peak() - before}


def attention(entry: str, spots: int, training: bool = False) -> dict[str, float]:
    """One layer of attention to neighbours: forward as in a draw, or forward and backward."""
    import torch

    one = method(entry, spots)
    net, tiles = one.net.graph, one.builder.tiles([(one.seen(slide(spots)), np.arange(spots))])
    x = torch.randn(1, spots, one.options.backbone.width, requires_grad=True)  # (1, N, d)
    layer = net.blocks[0].attention
    return _attending(lambda: layer(x, net._bias(0, tiles), tiles.near), training)


def attention_by_messages(entry: str, spots: int, training: bool = False) -> dict[str, float]:
    """The same layer on the same graph, edge by edge, as torch-geometric passes messages."""
    import torch

    from flag_st.nets.message_passing import MessageAttention
    from flag_st.nets.spot_data import spot_data

    one = method(entry, spots)
    net, graph = one.net.graph, one.builder.graph(one.seen(slide(spots)), np.arange(spots))
    data = spot_data(graph, one.builder.channels)
    x = torch.randn(spots, one.options.backbone.width, requires_grad=True)  # (N, d)
    layer = MessageAttention(net.blocks[0].attention, net.biases[0])
    return _attending(lambda: layer(x, data.edge_index, data.edge_attr), training)


def _attending(attend: Callable[[], Any], training: bool) -> dict[str, float]:
    """Time of ``attend``, with gradients if ``training``."""
    import torch

    def step() -> None:
        with torch.set_grad_enabled(training):
            found = attend()
        if training:
            found.sum().backward()

    return {"seconds": best(step, 5)}


def construction(entry: str, spots: int, **more: Any) -> dict[str, float]:
    """The graph of a slide."""
    one = method(entry, spots, SMALL, more)
    seen = one.seen(slide(spots))

    def make() -> None:
        one.builder.tiles([(seen, np.arange(spots))])

    make()
    return {"seconds": best(make, 5)}


def construction_by_pairs(entry: str, spots: int, rows: int = 27) -> dict[str, float]:
    """The same attributes pair by pair in Python, for ``rows`` of the spots; scaled to all."""
    target = slide(spots)
    position, u = target.position, target.features

    def loop() -> None:
        edges = np.zeros((rows, spots, 2))
        for i in range(rows):
            for j in range(spots):
                if i != j:
                    d = np.linalg.norm(position[i] - position[j])
                    edges[i, j, 0] = np.exp(-(d**2) / (2 * 154.0**2))
                    norm = np.linalg.norm(u[i]) * np.linalg.norm(u[j])
                    edges[i, j, 1] = u[i] @ u[j] / norm

    return {"seconds": best(loop, 1) * spots / rows}


def spot_draw(entry: str, spots: int, **more: Any) -> dict[str, float]:
    """One draw of a slide by an entry of HINGE, around a backbone with random weights."""
    from flag_st.core.seeds import Draws

    one, target = method(entry, spots, {"sampling": {"point_draws": 1}}, more), slide(spots)
    one.process = one._process(GENES)
    one.net.eval().requires_grad_(False)
    seconds = best(lambda: one.predict(target, 1, Draws(0, "x")), 1)
    return {"seconds": seconds, "spots_per_second": spots / seconds}


def spot_epoch(entry: str, spots: int, **more: Any) -> dict[str, float]:
    """One epoch of an entry of HINGE on so many spots: forward, backward and steps of the optimiser."""
    from flag_st.core.seeds import torch_generator
    from flag_st.data.slide import Cohort
    from flag_st.methods.base import Run
    from flag_st.nets.optimizer import AdamW

    one = method(entry, spots, more)
    one.process = one._process(GENES)
    whole = Cohort([slide(spots)], [f"g{i}" for i in range(GENES)])
    few = Cohort([slide(32)], whole.genes)
    task = one.task(whole, few, Run())
    task.epoch = one.curriculum.epochs + 1
    optimizer = AdamW([p for p in one.net.parameters() if p.requires_grad], lr=1e-4)

    def epoch() -> None:
        for batch in task.batches(torch_generator(0)):
            task.loss(batch, torch_generator(1))[0].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    seconds = best(epoch, 1)
    return {"seconds": seconds, "spots_per_second": spots / seconds}


def growth(entry: str, spots: int, **more: Any) -> dict[str, float]:
    """A draw of two steps of a whole slide: how time and memory grow with its spots."""
    from flag_st.core.seeds import Draws

    size = dict(width=32, depth=2, heads=2, backbone={"width": 64, "depth": 3, "heads": 4})
    few = {"alignment": {"blocks": 1}, "sampling": {"steps": 2, "point_draws": 0}}
    one = method(entry, 400, size, few, more)
    one.net.eval().requires_grad_(False)
    one.predict(slide(400), 1, Draws(0, "x"))  # libraries allocate their memory only once
    target, before = slide(spots), peak()
    seconds = best(lambda: one.predict(target, 1, Draws(0, "x")), 2)
    return {"seconds": seconds, "gib": peak() - before}


CASES = {
    f.__name__: f
    for f in (
        draw,
        evaluation,
        train,
        graph_memory,
        attention,
        attention_by_messages,
        construction,
        construction_by_pairs,
        growth,
        spot_draw,
        spot_epoch,
    )
}


# --- pairs ------------------------------------------------------------------------------------------


#: Settings of glibc by case: freed tensors are given back at once, so that a peak is of what is in
#: use. It costs time, which is measured without.
ALLOCATOR = {"graph_memory": {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": str(2**16)}}


def measure(case: str, entry: str, spots: int, **more: Any) -> dict[str, float]:
    """Run one case in a fresh process."""
    command = [sys.executable, "-m", "flag_st", "benchmark", "--case", case]
    command += ["--entry", entry, "--spots", str(spots), "--more", json.dumps(more)]
    environment = {**os.environ, **ALLOCATOR.get(case, {})}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


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
    "An epoch of HINGE, 1,300 spots (small backbone): all trained, against frozen": (
        ("spot_epoch", "hinge_finetuned", 1300, {}),
        ("spot_epoch", "hinge", 1300, {}),
        "seconds",
    ),
}


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
    report(Path(out), pairs, sizes, grown)


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope of ln(value) over ln(size)."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def report(out: Path, pairs: dict, sizes: list[int], grown: dict[str, list[dict]]) -> None:
    """Write ``speed.md`` and ``growth.png``."""
    import matplotlib.pyplot as plt
    import torch

    from flag_st.core.io import writing

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
    curves = {
        "time of a draw of two steps (s)": [g["seconds"] for g in grown["growth"]],
        "memory of it (GiB)": [g["gib"] for g in grown["growth"]],
        "time of the graph's construction (s)": [g["seconds"] for g in grown["construction"]],
    }
    lines += ["", f"Growth from {sizes[0]:,} to {sizes[-1]:,} spots of one whole slide:"]
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    for axis, (title, values) in zip(axes, curves.items(), strict=True):
        power = exponent(sizes, values)
        lines.append(f"- {title}: {values[0]:.3g} to {values[-1]:.3g}, exponent {power:.2f}")
        axis.loglog(sizes, values, "o-", color="#0072B2", label=f"exponent {power:.2f}")
        axis.loglog(sizes, values[0] * np.array(sizes) / sizes[0], ":", color="0.5", label="linear")
        axis.set(xlabel="spots", title=title)
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes], fontsize=8)
        axis.minorticks_off()
        axis.title.set_fontsize(9)
        axis.legend(frameon=False, fontsize=8)
    lines += ["", f"torch {torch.__version__}, {torch.get_num_threads()} threads, fp32."]
    with writing(out / "growth.png") as temporary:
        figure.savefig(temporary, dpi=150)
    with writing(out / "speed.md") as temporary:
        Path(temporary).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
