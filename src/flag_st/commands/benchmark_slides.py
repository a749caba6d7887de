"""Benchmark cases of new slides: from the image file to the folder of outputs."""

import math
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from flag_st.core.io import save_arrays
from flag_st.data.field import SIZE, UM_PER_PX
from flag_st.exported.model import KIND, SCORES, Exported, open_model
from flag_st.slides.likeness import Likeness
from flag_st.slides.predict import Predictor, Progress
from flag_st.slides.request import Request

PITCH_UM, PIXEL_UM, TILE = 100.0, 0.5, 256
#: Edge of the piece of painted tissue that fills the slide, in pixels; a whole number of tiles.
PIECE = 2048
#: The smallest level is about so wide in pixels.
SMALLEST = 2048
GENES, FEATURES = 50, 203  # as in the demo, with the features of `texture`
#: Of the memory case: one block of patches in so many is encoded, and stands for the others.
EVERY = 50


def new_slide(entry: str, spots: int, processes: int = 1, **more: Any) -> dict[str, float]:
    """A slide of about so many spots, from its file to all outputs, with one draw.

    ``seconds`` are wall-clock, and ``cpu`` are those of all processes. SpatialData is written if it is
    installed.
    """
    with _case(entry, spots, more) as (predictor, request, folder):
        predictor.processes = processes
        return _measured(predictor, request, folder)


def new_slide_memory(entry: str, spots: int, **more: Any) -> dict[str, float]:
    """The same with one step per draw and features of few patches: what decides time, not memory."""
    few = {"sampling": {"steps": 1, "point_draws": 0}}
    with _case(entry, spots, few, more) as (predictor, request, folder):
        return _measured(_Sampled(predictor.model), request, folder)


class _Sampled(Predictor):
    """Encodes one block of patches in ``EVERY``."""

    def encode(self, patches: Any, progress: Progress) -> np.ndarray:
        block = 32
        starts = range(0, len(patches), block * EVERY)
        found = [super(_Sampled, self).encode(patches[i : i + block], progress) for i in starts]
        few = np.concatenate(found)  # (n, D)
        return few[np.arange(len(patches)) % len(few)]  # (N, D)


class _case:
    """A model, a slide and an empty folder, which are removed at the end."""

    def __init__(self, entry: str, spots: int, *overlays: dict[str, Any]):
        self.entry, self.spots, self.overlays = entry, spots, overlays
        self.place = TemporaryDirectory(prefix="flag-st-slide.")

    def __enter__(self) -> tuple[Predictor, Request, Path]:
        folder = Path(self.place.name)
        write_slide(folder / "slide.tif", math.sqrt(self.spots) * PITCH_UM)
        model = random_model(folder / "model.flag", self.entry, *self.overlays)
        slide = Request(folder / "slide.tif", "slide", draws=1, force=True)
        if find_spec("spatialdata") is not None:
            import_module("spatialdata")  # here, because its import takes seconds
            slide = replace(slide, spatialdata=True)
        return Predictor(model), slide, folder / "out"

    def __exit__(self, *_: object) -> None:
        self.place.cleanup()


def _measured(predictor: Predictor, request: Request, folder: Path) -> dict[str, float]:
    from flag_st.outputs import folder as outputs

    before, cpu, start = _peak(), _cpu(), time.perf_counter()
    outputs.make(predictor, request, folder)
    seconds = time.perf_counter() - start
    spots = (folder / "spots.geojson").read_bytes().count(b"\n") - 2  # a line each
    return {
        "seconds": seconds,
        "cpu": _cpu() - cpu,
        "spots": spots,
        "spots_per_second": spots / seconds,
        "gib": _peak() - before,
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _cpu() -> float:
    """Seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def write_slide(path: Path, edge_um: float) -> None:
    """A pyramid of painted tissue, as large as it must be; each kind of tile is compressed once."""
    import tifffile

    from flag_st.synthetic import Design, Section
    from flag_st.synthetic.histology import paint

    picture = paint(Section(Design(), 0, 0))
    top, left = ((side - PIECE) // 2 for side in picture.shape[:2])
    piece = Image.fromarray(picture[top : top + PIECE, left : left + PIECE])
    compress = tifffile.TIFF.COMPRESSORS[tifffile.COMPRESSION.JPEG]
    edge, level = math.ceil(edge_um / PIXEL_UM / TILE) * TILE, 0
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        while True:
            pixels = np.asarray(piece.reduce(2**level) if level else piece)
            copies = -(-TILE // len(pixels))
            pixels = np.tile(pixels, (copies, copies, 1))
            kinds = [
                [
                    bytes(compress(pixels[y : y + TILE, x : x + TILE], level=85))
                    for x in range(0, len(pixels), TILE)
                ]
                for y in range(0, len(pixels), TILE)
            ]
            tiff.write(
                _tiles(kinds, -(-edge // TILE)),
                shape=(edge, edge, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                subfiletype=int(level > 0),
                resolution=(1e4 / PIXEL_UM / 2**level,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
            if edge <= SMALLEST:
                return
            edge, level = edge // 2, level + 1


def _tiles(kinds: list[list[bytes]], across: int) -> Iterator[bytes]:
    for row in range(across):
        for column in range(across):
            yield kinds[row % len(kinds)][column % len(kinds)]


def random_model(path: Path, entry: str, *overlays: dict[str, Any]) -> Exported:
    """An exported model of an entry in the demo's size, with random weights and `texture` features."""
    import torch

    from flag_st.core import registry
    from flag_st.core.code import ROOT
    from flag_st.core.fitted import nested
    from flag_st.data.slide import Cohort
    from flag_st.encoders.texture import Texture
    from flag_st.intervals.calibration import Calibration
    from flag_st.intervals.certificate import Certificate
    from flag_st.intervals.conformal import Seen
    from flag_st.methods.base import Prediction
    from flag_st.planning import config

    known = config.load({}, [ROOT / "config" / "demo.yaml"])["methods"][entry]
    params = reduce(config.merge, overlays, known["params"])
    made = registry.build(known["use"], params)
    torch.manual_seed(0)
    genes, rng = [f"g{i}" for i in range(GENES)], np.random.default_rng(0)
    slide = _training_slide(rng)
    train = Cohort([slide], genes)
    made._statistics(train)
    made.net, made.device = made.build(GENES, FEATURES), "cpu"
    stain = rng.normal(0.1, 0.02, (400, 3))
    arrays = nested("method", made.arrays())
    arrays |= nested("features", Likeness.fit(train.features, train.features).arrays())
    arrays |= nested("stain", Likeness.fit(stain, stain).arrays())
    arrays["focus.quantiles"] = np.linspace(-4, -1, 101)
    arrays |= {f"validation.{name}": np.full((1, GENES), 0.5) for name in SCORES}
    guess = Prediction(slide.truth[None] + rng.normal(0, 0.5, (1, *slide.truth.shape)))
    seen = Seen("", slide.truth, guess, slide.position)
    arrays |= nested("intervals", Calibration.fit([seen]).arrays())
    arrays |= nested("certificate", Certificate.fit([seen]).arrays())
    texture = {"name": "texture", "use": "flag_st.encoders.texture.Texture", "params": {}}
    facts = {
        "kind": KIND,
        "use": known["use"],
        "params": params,
        "method": entry,
        "genes": genes,
        "unit": "log1p",
        "seed": 0,
        "encoder_entry": {**texture, "digest": Texture().digest()},
        "patches": {"size": SIZE, "um_per_px": UM_PER_PX},
        "platform": {"layout": "square", "pitch_um": PITCH_UM, "spot_um": 55.0},
        "pixel_um": {"train": PIXEL_UM},
        "samples": 1,
        "threads": {"encoder": 1, "method": 1},
    }
    save_arrays(path, arrays, facts)
    return open_model(path)


def _training_slide(rng: np.random.Generator):
    from flag_st.data.slide import Slide

    return Slide(
        id="train",
        patient="",
        spots=np.arange(400).astype(str),
        position=np.stack(np.divmod(np.arange(400), 20), 1) * PITCH_UM,
        features=rng.normal(size=(400, FEATURES)).astype(np.float32),
        expression=np.log1p(rng.poisson(3, (400, GENES))).astype(np.float32),
    )


CASES = {case.__name__: case for case in (new_slide, new_slide_memory)}
