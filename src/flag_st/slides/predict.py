"""From the image of a slide to its prediction, with the same numbers as the pipeline's own rules."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from flag_st.data.field import UM_PER_PX
from flag_st.data.lattice import array_pitch
from flag_st.data.slide import Slide
from flag_st.encoders.base import Encoder, check_features
from flag_st.exported.model import Exported
from flag_st.methods.base import Method
from flag_st.slides.cut import Patches, on_disk
from flag_st.slides.encode import encode
from flag_st.slides.given_mask import mask_of
from flag_st.slides.grid import grid
from flag_st.slides.image import SlideImage
from flag_st.slides.parts import predict_in_parts
from flag_st.slides.places import Places
from flag_st.slides.predicted import PICTURE, Predicted
from flag_st.slides.request import Request
from flag_st.slides.trust import gene_verdicts, judge

#: How many genes are shown if none are named: those that validation showed to be best.
SHOWN = 8

Progress = Callable[..., Iterable]


class Spots(NamedTuple):
    """Where a slide is predicted: names (N,), position (N, 2) in µm, array (N, 2), distance in µm."""

    names: np.ndarray
    position: np.ndarray
    array: np.ndarray
    pitch_um: float


class Predictor:
    """An exported model with its encoder and method open, which predicts slide after slide.

    Args:
        model: the exported model.
        device: ``cpu`` or ``cuda``.
        processes: how many may share the patches of a slide (``slides.encode``); the numbers are
            the same for any.

    Raises:
        FlagError: published weights are missing, or are not those of the training.
    """

    def __init__(self, model: Exported, device: str = "cpu", processes: int = 1):
        self.model, self.threads, self.processes = model, model.facts["threads"], processes
        self.encoder: Encoder = model.encoder(device)
        self.method: Method = model.method(device)

    def predict(
        self,
        request: Request,
        folder: Path,
        origin: Mapping[str, Any] | None = None,
        progress: Progress = lambda items, **_: items,
    ) -> Predicted:
        """Predict one slide.

        Args:
            request: the slide.
            folder: where patches are kept meanwhile, if the method reads pixels.
            origin: facts for the files' headers.

        Raises:
            FlagError: the image cannot be read, there is no tissue on it, or it is too unlike the
                training slides and ``request.force`` is not set.
        """
        model, places = self.model, request.places()
        with ExitStack() as stack:
            image = stack.enter_context(request.open(places))
            spots = spots_of(request, places, image, model)
            cut = Patches(image, spots.position, model.facts["patches"]["um_per_px"])
            read, stored = self.patches(cut, spots.names, folder, stack)
            features = self.encode(read, progress)
            trust = judge(model, features, cut.seen, spots.position, image.pixel_um, spots.pitch_um)
            if not request.force:
                trust.raise_if_refused()
            slide = Slide(
                id=request.name,
                patient=request.patient or (places.patient if places else ""),
                spots=spots.names,
                position=spots.position,
                features=features,
                pixel_um=image.pixel_um,
                patches=stored,
                unit=model.facts["unit"],
            )
            prediction = self.draw(slide, request.draws)
            return Predicted(
                slide=slide,
                prediction=prediction,
                facts={k: model.facts[k] for k in ("method", "unit", "seed", "genes")},
                shown=list(request.genes) or best_genes(model),
                trust=trust,
                intervals=model.intervals,
                array=spots.array,
                pitch_um=spots.pitch_um,
                spot_um=model.facts["platform"]["spot_um"],
                pixel_um=image.pixel_um,
                size=image.size,
                qupath_origin=image.qupath_origin,
                picture=image.thumbnail(PICTURE),
                origin=origin or {},
                sets=request.sets(model.genes),
            )

    def patches(
        self, cut: Patches, names: np.ndarray, folder: Path, stack: ExitStack
    ) -> tuple[Any, Path | None]:
        """What the encoder reads, and the file of what the method reads, if it reads pixels.

        A method reads standard patches, whatever the field of view of its encoder. Where both read the
        same, they are cut only once.
        """
        if "patches" not in self.method.needs:
            return cut, None
        same = cut.um_per_px == UM_PER_PX
        standard = cut if same else Patches(cut.image, cut.position)
        stored = stack.enter_context(on_disk(standard, names, folder))
        return stack.enter_context(h5py.File(stored))["img"] if same else cut, stored

    def encode(self, patches: Any, progress: Progress) -> np.ndarray:
        """(N, D) float32 features of the patches."""
        _use_threads(self.threads["encoder"])
        name = self.model.facts["encoder_entry"]["name"]
        features = encode(self.encoder, patches, self.processes, progress)
        check_features(features, len(patches), name)
        return np.asarray(features, dtype=np.float32)

    def draw(self, slide: Slide, draws: int | None):
        """The prediction of a slide with features, by the streams of the run's seed."""
        _use_threads(self.threads["method"])
        samples = (draws or self.model.facts["samples"]) if self.method.stochastic else 1
        return predict_in_parts(self.method, slide, samples, int(self.model.facts["seed"]))


def _use_threads(count: int) -> None:
    """As many as the pipeline uses, because their number decides the last bits of sums."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(int(count))
    threadpool_limits(int(count))  # those of numpy and scipy


def best_genes(model: Exported) -> list[str]:
    """Up to ``SHOWN`` genes of highest correlation on validation slides, in this order."""
    table = gene_verdicts(model).sort_values("validation_pcc", ascending=False, kind="stable")
    return list(table.index[:SHOWN])


def spots_of(request: Request, places: Places | None, image: SlideImage, model: Exported) -> Spots:
    """The spots that the user named, or a grid over the tissue like the training arrays.

    Raises:
        FlagError: there is no tissue on the slide, or its mask does not fit it.
    """
    if places is not None:
        position = places.um(image)
        distance = (
            array_pitch(position) if len(position) > 1 else model.facts["platform"]["pitch_um"]
        )
        return Spots(places.names, position, places.array, round(distance, 3))
    platform = model.facts["platform"]
    wanted = request.pitch_um or platform["pitch_um"]
    made = grid(mask_of(image, request.mask), wanted, platform["spot_um"], platform["layout"])
    return Spots(np.asarray(made.names).astype(str), made.position, made.array, made.pitch_um)
