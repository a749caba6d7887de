"""What ``flag-st benchmark`` measures: each case takes its arguments and returns numbers."""

import math
import resource
import time
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

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
