"""HINGE (arXiv:2603.19766): masked diffusion of expression in a frozen single-cell model.

Each spot is alone: no graph, no coordinates and no slide play a part. All genes are hidden at first. The
frozen network, which image and step modulate in every sublayer, says what they are, and step by step some
of what it says is written down and never changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.io import pack_names, unpack_names
from flag_st.core.seeds import Draws, entropy
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Prediction, Run
from flag_st.methods.hinge.options import Body, Curriculum, Masking, Sampling, Start
from flag_st.methods.hinge.process import Objective, Process
from flag_st.methods.hinge.task import Batches, HingeTask
from flag_st.methods.network import Centre, NetworkMethod
from flag_st.methods.precision import precise
from flag_st.methods.training import Loop, Task, Training
from flag_st.nets.backbone import Backbone
from flag_st.nets.lora import adapt
from flag_st.nets.soft_adaln import Conditioning, Modulated

MASKING, CURRICULUM, START, BODY, SAMPLING = Masking(), Curriculum(), Start(), Body(), Sampling()
CONDITIONING = Conditioning()
#: §A.6: AdamW at 1e-4 without decay of weights, whose rate falls to a fifth at epochs 20 and 30.
TRAINING = Training(
    epochs=50, lr=1e-4, weight_decay=0.0, decay="all", warmup=0, schedule="steps", milestones=(20, 30),
    factor=0.2, ema=0.0, clip=1.0, validate_every=1, validate_from=15, patience=5,
)  # fmt: skip


class Published(NamedTuple):
    """What a model file keeps of a published backbone in place of its weights.

    Attributes:
        digest: of the files of the backbone.
        genes: the panel.
        order: (G,) the row that each gene's row was taken from, where they are permuted.
    """

    digest: str
    genes: Sequence[str]
    order: np.ndarray


class Hinge(NetworkMethod):
    """Expression by masked diffusion in a frozen gene model.

    A backbone that was fitted here goes into the model file. Of a published one the file holds a digest,
    because its licence may forbid to pass it on; prediction reads it again from its own files.

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
        FlagError: a chain, budget or curriculum that is impossible; no backbone, or one that cannot be
            modulated.
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
        self.model = registry.build(backbone["use"], backbone.get("params"))
        if not hasattr(self.model, "backbone"):
            raise FlagError(
                f"hinge cannot be built on {backbone['use']}, which has no network to modulate",
                remedy="name an entry of gene_models with backbone: true, such as cellfm_mini",
            )
        self.objective, self.scaling = objective, scaling
        self.published: Published | None = None
        self.masking, self.curriculum, self.conditioning = masking, curriculum, conditioning
        self.begin, self.body, self.sampling = start, body, sampling
        self.batches = Batches(batch, shuffle)
        self.needs = frozenset({"backbone"})
        # Nothing but the order of revealing is random, and one step has none.
        last = sampling.until == (sampling.budget or masking.horizon)
        self.stochastic = objective != "one_shot" and not (last and objective == "masked")
        self._check()

    def _check(self) -> None:
        """Refuse what is impossible before any training: chains, budgets, curricula and backbones."""
        chain = self.masking.chain(genes=100)
        budget, until = self.sampling.budget, self.sampling.until
        steps = len(chain.within(len(chain) if budget is None else budget))
        if not 1 <= until <= steps:
            raise FlagError(f"hinge: sampling.until is {until}; give 1 to {steps} steps")
        if self.curriculum.epochs:
            chain.last_easy(self.curriculum.ratio)
        with torch.device("meta"):
            self.network_of(genes=2, inputs=1)

    # --- the network -------------------------------------------------------------------------------

    def network_of(self, genes: int, inputs: int) -> nn.Module:
        """The network without pre-trained weights, for counting and for reading a model file."""
        return self._around(self.model.empty(genes, **self._body()), genes, inputs)

    def _body(self) -> dict[str, Any]:
        """The options of the backbone that differ from its own."""
        return {k: v for k, v in vars(self.body).items() if v != getattr(BODY, k)}

    def _around(self, backbone: Backbone, genes: int, inputs: int) -> Modulated:
        parts = backbone.parts()
        backbone.requires_grad_(self.begin.train == "all")
        if self.begin.train == "decoder":
            parts.decoder.requires_grad_(True)
        if self.begin.train == "lora":
            adapt(parts.layers, self.begin.rank)
        frozen = [f"backbone.{n}" for n, p in backbone.named_parameters() if not p.requires_grad]
        self.frozen = frozenset(frozen)
        return Modulated(backbone, self.conditioning, inputs, genes)

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        self._statistics(train)
        self.device, self.process = run.device, self._process(len(train.genes))
        inputs = self.inputs_of(train[0].features.shape[1])
        self.net = self._around(self._begun(train.genes, run), len(train.genes), inputs)
        Loop(self.task(train, valid, run), self.training, run)()

    def _begun(self, genes: Sequence[str], run: Run) -> Backbone:
        """The backbone as training finds it."""
        if self.begin.weights == "random":
            torch.manual_seed(entropy(run.seed, "init"))
            backbone = self.model.empty(len(genes), **self._body())
            backbone.reset()
            return backbone.to(run.device)
        self.model.open(run.device)
        if self.model.fits:
            if run.backbone is None:
                raise FlagError("hinge: its backbone was not fitted before it")
            self.model.load(run.backbone)
        torch.manual_seed(entropy(run.seed, "init"))
        backbone = self.model.backbone(genes, **self._body())
        order = torch.arange(len(genes))  # (G,)
        if self.begin.weights == "permuted":
            order = torch.randperm(len(genes))
            permute(backbone, order)
        if not self.model.fits:
            self.published = Published(self.model.digest(), genes, order.numpy())
        return backbone

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

    def arrays(self) -> dict[str, np.ndarray]:
        if self.published is None:
            return super().arrays()
        digest, genes, order = self.published
        names = {"backbone": pack_names([digest]), "genes": pack_names(genes)}
        return {**super().arrays(), **names, "order": order}

    def learned(self) -> dict[str, torch.Tensor]:
        state = self.net.state_dict()
        return {k: v for k, v in state.items() if self.published is None or k not in self.frozen}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        self.device = device
        if "backbone" in arrays:
            (digest,), genes = unpack_names(arrays["backbone"]), unpack_names(arrays["genes"])
            self.published = Published(digest, genes, arrays["order"])
        super().restore(arrays, device)
        self.process = self._process(len(self.mean))

    def rebuilt(self, state: dict[str, torch.Tensor]) -> nn.Module:
        """The inverse of ``learned``, around the published backbone if the model file names one.

        Raises:
            FlagError: the files of the published one are missing, or others than in training.
        """
        if self.published is None:
            return super().rebuilt(state)
        digest, genes, order = self.published
        self.model.open(self.device)
        if self.model.digest() != digest:
            raise FlagError(
                f"hinge was trained in a backbone whose files have the digest {digest}; those of "
                f"{type(self.model).__name__} that are here have {self.model.digest()}",
                remedy="get the files at the revision that the entry states, or train again",
            )
        backbone = self.model.backbone(genes, **self._body())
        permute(backbone, torch.from_numpy(order))
        net = self._around(backbone, len(genes), self.inputs_of(len(self.feature_mean)))
        missing, surplus = net.load_state_dict(state, strict=False)
        if surplus or set(missing) != self.frozen:
            raise RuntimeError(f"missing {set(missing) - self.frozen}, surplus {surplus}")
        return net


def permute(backbone: Backbone, order: torch.Tensor) -> None:
    """Give each gene the row of the table that ``order`` (G,) names."""
    table = backbone.parts().table
    table.data[1:] = table.data[1 + order.to(table.device)]
