"""HINGE (arXiv:2603.19766): masked diffusion of expression in a frozen single-cell model.

Each spot is alone: no graph, no coordinates and no slide play a part. All genes are hidden at first. The
frozen network, which image and step modulate in every sublayer, says what they are, and step by step some
of what it says is written down and never changed.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws, entropy
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Prediction, Run
from flag_st.methods.hinge.options import Body, Curriculum, Masking, Sampling, Start
from flag_st.methods.hinge.process import Objective, Process
from flag_st.methods.hinge.task import Batches, HingeTask
from flag_st.methods.network import Centre, NetworkMethod
from flag_st.methods.precision import precise
from flag_st.methods.training import Loop, Task, Training
from flag_st.nets.cellfm import CellFm
from flag_st.nets.lora import adapt
from flag_st.nets.soft_adaln import Conditioning, Modulated

MASKING, CURRICULUM, START, BODY, SAMPLING = Masking(), Curriculum(), Start(), Body(), Sampling()
CONDITIONING = Conditioning()
#: §A.6: AdamW at 1e-4 without decay of weights, whose rate falls to a fifth at epochs 20 and 30.
TRAINING = Training(
    epochs=50, lr=1e-4, weight_decay=0.0, decay="all", warmup=0, schedule="steps", milestones=(20, 30),
    factor=0.2, ema=0.0, clip=1.0, validate_every=1, validate_from=15, patience=5,
)  # fmt: skip


class Hinge(NetworkMethod):
    """Expression by masked diffusion in a frozen gene model.

    The groups are documented field by field in ``flag_st.methods.hinge.options`` and
    ``flag_st.nets.soft_adaln``.

    Args:
        backbone: the gene model, as ``{use: …, params: {…}}``; the configuration puts there what the
            entry's key ``backbone`` names.
        objective: ``masked`` diffusion; ``gaussian`` diffusion of all values (Gauss-Diff of Table 3);
            or ``one_shot``: one step, from the image alone.
        masking, curriculum, conditioning, start, body, sampling: see the groups.
        shuffle: draw batches from all training spots; the release takes consecutive ones.
        batch: spots in a batch.
        scaling: the logarithm of the values that the network sees, whatever the panel's is.
        centre: how features are z-scored.
        training: settings of the loop.

    Raises:
        FlagError: a chain, budget or curriculum that is impossible, or no backbone.
    """

    net: Modulated
    process: Process
    stochastic: bool = True

    def __init__(
        self,
        backbone: Mapping[str, Any] | None = None,
        objective: Objective = "masked",
        masking: Masking = MASKING,
        curriculum: Curriculum = CURRICULUM,
        conditioning: Conditioning = CONDITIONING,
        start: Start = START,
        body: Body = BODY,
        sampling: Sampling = SAMPLING,
        shuffle: bool = True,
        batch: int = 32,
        scaling: Literal["log1p", "log2"] = "log1p",
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(centre, training)
        if not backbone or set(backbone) - {"use", "params"}:
            raise FlagError(
                "hinge has no backbone to freeze",
                remedy="name an entry of gene_models in the method's entry, such as backbone: cellfm_mini",
            )
        self.given, self.objective, self.scaling = dict(backbone), objective, scaling
        self.masking, self.curriculum, self.conditioning = masking, curriculum, conditioning
        self.begin, self.body, self.sampling = start, body, sampling
        self.batches = Batches(batch, shuffle)
        self.needs = frozenset({"backbone"})
        self.stochastic = objective != "one_shot"
        # Impossible chains are refused before any training.
        chain = masking.chain(genes=100)
        steps = len(chain.within(sampling.budget or len(chain)))
        if not 1 <= sampling.until <= steps:
            raise FlagError(f"hinge: sampling.until is {sampling.until}; give 1 to {steps} steps")
        if curriculum.epochs:
            chain.last_easy(curriculum.ratio)

    # --- the network -------------------------------------------------------------------------------

    def network_of(self, genes: int, inputs: int) -> nn.Module:
        """The network without pre-trained weights, for counting and for reading a model file."""
        model = registry.build(self.given["use"], self.given["params"])
        return self._around(model.empty(genes, **self._body()), genes, inputs)

    def _body(self) -> dict[str, Any]:
        return {name: getattr(self.body, name) for name in Body.__dataclass_fields__}

    def _around(self, backbone: CellFm, genes: int, inputs: int) -> Modulated:
        backbone.requires_grad_(self.begin.train == "all")
        if self.begin.train == "decoder":
            backbone.value_dec.requires_grad_(True)
        if self.begin.train == "lora":
            adapt(backbone.encoder, self.begin.rank)
        return Modulated(backbone, self.conditioning, inputs, genes)

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        self._statistics(train)
        self.device, self.process = run.device, self._process(len(train.genes))
        model = registry.build(self.given["use"], self.given["params"])
        model.open(run.device)
        if model.fits:
            if run.backbone is None:
                raise FlagError("hinge: its backbone was not fitted before it")
            model.load(run.backbone)
        torch.manual_seed(entropy(run.seed, "init"))
        backbone = model.backbone(train.genes, **self._body())
        if self.begin.weights == "random":
            backbone.reset()
        if self.begin.weights == "permuted":
            rows = 1 + torch.randperm(len(backbone.gene_emb) - 1)
            backbone.gene_emb.data[1:] = backbone.gene_emb.data[rows]
        inputs = self.inputs_of(train[0].features.shape[1])
        self.net = self._around(backbone, len(train.genes), inputs)
        Loop(self.task(train, valid, run), self.training, run)()

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        seen, judged = (
            [(s.id, self.features_of(s), self.expression_of(s)) for s in cohort]
            for cohort in (train, valid)
        )
        how = self.process, self.curriculum, self.batches
        return HingeTask(self.net, *how, seen, judged, run.device)

    def _process(self, genes: int) -> Process:
        return Process(self.objective, self.masking, self.sampling, genes)

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        u = torch.as_tensor(self.features_of(slide), device=self.device)  # (N, V)
        wanted = max(samples, self.sampling.point_draws) if self.stochastic else 1
        with precise(self.device, self.training.precision):
            drawn = torch.stack(
                [self.process.draw(self.net, u, draws.torch(k)) for k in range(wanted)]
            )  # (P, N, G)
        return Prediction(self.in_unit(drawn[:samples]), self.in_unit(drawn.float().mean(0)))

    # --- the model file ----------------------------------------------------------------------------

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        super().restore(arrays, device)
        self.process = self._process(len(self.mean))
