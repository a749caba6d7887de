"""The exported model: one safetensors file, what it holds and how it is opened."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.fitted import inside
from flag_st.core.io import load_arrays
from flag_st.encoders.base import Encoder
from flag_st.intervals.calibration import Calibration
from flag_st.intervals.certificate import Certificate
from flag_st.methods.base import Method, rebuild
from flag_st.slides.likeness import Likeness

#: What the header of an exported model says that it is.
KIND = "exported model"
AGAIN = "get the file again, or make it with: flag-st export RUN -o model.flag"
#: Per gene and validation slide: correlation, root mean square error, and mean spread over draws.
SCORES = ("pcc", "rmse", "spread")
Part = TypeVar("Part", Calibration, Certificate)


@dataclass(frozen=True)
class Exported:
    """An opened exported model.

    Attributes:
        path: its file.
        facts: the header: see ``flag_st.exported.export.facts_of``.
        arrays: what was learned, by name.
    """

    path: Path
    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def genes(self) -> list[str]:
        return list(self.facts["genes"])

    @property
    def features(self) -> Likeness:
        """The encoder's features of training spots."""
        return Likeness.restore(inside("features", self.arrays))

    @property
    def stain(self) -> Likeness:
        """The stain of training patches."""
        return Likeness.restore(inside("stain", self.arrays))

    @property
    def focus(self) -> np.ndarray:
        """(101,) quantiles of the focus of training and validation patches."""
        return self.arrays["focus.quantiles"]

    def scores(self) -> dict[str, np.ndarray]:
        """Name of ``SCORES`` → (V, G) on the V validation slides; NaN where undefined."""
        return {name: self.arrays[f"validation.{name}"] for name in SCORES}

    @property
    def intervals(self) -> Calibration:
        """Intervals, calibrated on the validation slides.

        Raises:
            FlagError: the model was exported by a version that did not calibrate.
        """
        return self._restored(Calibration, "intervals")

    @property
    def certificate(self) -> Certificate:
        """What the validation slides showed of each gene.

        Raises:
            FlagError: the model was exported by a version that judged genes by other rules.
        """
        return self._restored(Certificate, "certificate")

    def _restored(self, kind: type[Part], name: str) -> Part:
        try:
            return kind.restore(inside(name, self.arrays))
        except FlagError as error:
            raise FlagError(
                f"{self.path} is from another version ({error})", remedy=AGAIN
            ) from None

    def method(self, device: str = "cpu") -> Method:
        """The trained method.

        Raises:
            FlagError: its class takes other arguments now, or published weights are missing.
        """
        return rebuild(self.facts, inside("method", self.arrays), self.path, device, AGAIN)

    def encoder(self, device: str = "cpu") -> Encoder:
        """The image encoder with its weights.

        Raises:
            FlagError: its weights are missing, or are not those that the model was trained with.
        """
        entry = self.facts["encoder_entry"]
        encoder = registry.build(entry["use"], entry["params"])
        encoder.open(device)
        if encoder.fits:
            encoder.restore(inside("encoder", self.arrays))
        if (found := encoder.digest()) != entry["digest"]:
            raise FlagError(
                f"{self.path} was trained on features of {entry['name']} with the digest "
                f"{entry['digest'][:16]}; the {entry['name']} that is here has {found[:16]}",
                remedy="get the weights that `flag-st show` names, or export a model that was "
                "trained with this encoder",
            )
        return encoder


def open_model(path: str | Path) -> Exported:
    """Read an exported model; neither weights nor slides are touched.

    Raises:
        FlagError: there is no such file, or it is no exported model of this contract.
    """
    path = Path(path)
    if not path.is_file():
        raise FlagError(f"{path} does not exist", remedy=AGAIN)
    arrays, facts = load_arrays(path, AGAIN)
    if facts.get("kind") != KIND:
        raise FlagError(
            f"{path} is no exported model"
            + (" but the model file of a run" if facts.get("method") else ""),
            remedy="make one with: flag-st export RUN -o model.flag",
        )
    return Exported(path, facts, arrays)
