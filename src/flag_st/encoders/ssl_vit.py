"""A small vision transformer trained by self-supervision on the cohort's own training patches.

This is the offline encoder that learns. It needs no download and no licence, and takes minutes on
two CPU cores. The recipe is VICReg (Bardes, Ponce, LeCun, ICLR 2022; loss: section 4, equations 1
to 6): two random views of a patch are mapped to similar vectors (invariance) whose coordinates vary
over the batch (variance) and are uncorrelated (covariance). A view is a small crop, turned or
mirrored, with its haematoxylin and eosin scaled at random, as stain and section thickness vary. The
encoder sees no expression, but it depends on the training slides, so its features belong to one
split.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from flag_st.core.errors import FlagError
from flag_st.core.fitted import digest_arrays, refill, require, unfitted
from flag_st.core.seeds import entropy, torch_generator
from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.encoders.network import NetworkEncoder, Precision
from flag_st.nets.optimizer import AdamW

#: Optical densities (R, G, B) of haematoxylin, eosin and the residual, per unit of concentration
#: (Ruifrok and Johnston 2001).
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
#: The weights of invariance, variance and covariance in VICReg, and its floor under the variance.
INVARIANCE, VARIANCE, COVARIANCE, FLOOR = 25.0, 25.0, 1.0, 1e-4


class SslVit(NetworkEncoder):
    """ViT of ``depth`` blocks on patches halved to 112 px (1 µm/px); D = 2 ``width``.

    The vector of a patch is the mean and the standard deviation of its 49 tokens: what the patch
    shows, and how mixed that is.

    Args:
        width, depth, heads: of the transformer; tokens are squares of 16 µm.
        steps: optimisation steps, whatever the number of slides.
        views: patches per training batch; each is seen in two views.
        rate: peak learning rate (AdamW, linear warm-up, cosine decay).
        crop_area: smallest and largest share of the patch that a view shows.
        jitter: relative range of the random scaling of each stain.
        limit: how many patches (38 kB each) are kept in memory for training; if there are more, a
            random subset is taken.
        precision, batch: as in ``NetworkEncoder``, when encoding.
    """

    fits: bool = True
    resize = crop = 112
    interpolation = "bilinear"
    pooling = "mean and standard deviation of tokens"

    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        heads: int = 2,
        steps: int = 300,
        views: int = 128,
        rate: float = 1e-3,
        crop_area: tuple[float, float] = (0.25, 0.5),
        jitter: float = 0.15,
        limit: int = 20000,
        precision: Precision = "fp32",
        batch: int = 64,
    ):
        super().__init__(precision, batch)
        self.width, self.depth, self.heads = width, depth, heads
        self.steps, self.views, self.rate = steps, views, rate
        smallest, largest = crop_area
        self.crop_area, self.jitter, self.limit = (smallest, largest), jitter, limit
        self._net: nn.Module | None = None

    @property
    def net(self) -> nn.Module:
        if self._net is None:
            raise unfitted("ssl_vit")
        return self._net

    @net.setter
    def net(self, net: nn.Module) -> None:
        self._net = net

    def open(self, device: str) -> None:
        """Only keeps the device; weights come from ``fit`` or ``load``."""
        self.device = torch.device(device)

    def build(self) -> nn.Module:
        ensure_torchvision()
        from timm.models.vision_transformer import VisionTransformer

        return VisionTransformer(
            img_size=self.crop,
            patch_size=16,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            num_classes=0,
            global_pool="",
            class_token=False,
            dynamic_img_size=True,
        )

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.net(images)  # (B, 49, width)
        return torch.cat([tokens.mean(1), tokens.std(1)], dim=1)  # (B, 2 width)

    # -- training -------------------------------------------------------------------------------

    def fit(
        self,
        patches: Sequence[np.ndarray],
        seed: int,
        progress: Callable[..., Iterable] = lambda items, **_: items,
        log: Callable[[dict[str, float]], None] = lambda row: None,
    ) -> None:
        """Learn from the patches of the training slides alone.

        Args:
            patches: one (N, 224, 224, 3) uint8 array or HDF5 dataset per slide.
            seed: the same patches, seed and number of threads give the same weights.
            log: takes a row of the three loss terms every 10 steps.

        Raises:
            FlagError: fewer than two patches.
        """
        memory = self._gather(patches, seed)
        mean, std = moments(memory)
        # A fork, because timm draws initial weights from the global stream.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(entropy(seed, "ssl_vit", "init"))
            net, projector = self.build(), mlp(2 * self.width, 2 * self.width)
        self._take(net.to(self.device), mean.numpy(), std.numpy())
        projector.to(self.device)
        net.train()
        weights = [*net.parameters(), *projector.parameters()]
        optimizer = AdamW(weights, self.rate, weight_decay=0.05)
        plan = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: warm_cosine(i, self.steps))
        random = torch_generator(seed, "ssl_vit", "views")
        for step in progress(range(self.steps), desc="self-supervision"):
            rows = torch.randint(len(memory), (self.views,), generator=random)
            images = memory[rows].to(self.device).float() / 255  # (B, 3, h, w)
            two = [projector(self.forward(self._view(images, random))) for _ in range(2)]
            terms = vicreg(*two)
            optimizer.zero_grad()
            sum(terms.values(), start=images.new_zeros(())).backward()
            optimizer.step()
            plan.step()
            if step % 10 == 0 or step == self.steps - 1:
                log({"step": step, **{k: float(v.detach()) for k, v in terms.items()}})
        net.eval().requires_grad_(False)

    def _gather(self, patches: Sequence[np.ndarray], seed: int) -> Tensor:
        """(M, 3, 112, 112) uint8: at most ``limit`` patches, read in blocks."""
        total = sum(map(len, patches))
        if total < 2:
            raise FlagError(f"self-supervision needs patches, and there are {total}")
        keep = torch.ones(total, dtype=torch.bool)
        if total > self.limit:
            order = torch.randperm(total, generator=torch_generator(seed, "ssl_vit", "subset"))
            keep[order[self.limit :]] = False
        blocks, start = [], 0
        for slide in patches:
            for i in range(0, len(slide), self.batch):
                block = slide[i : i + self.batch]
                block = block[keep[start : start + len(block)].numpy()]
                start += min(self.batch, len(slide) - i)
                if len(block):
                    blocks.append(self.pixels(block).byte().cpu())
        return torch.cat(blocks)  # (M, 3, 112, 112)

    def _view(self, images: Tensor, random: Generator) -> Tensor:
        """One random view: (B, 3, h, w) in [0, 1] → (B, 3, 64, 64) normalised."""
        images = cut(images, 64, self.crop_area, random)
        images = restain(images, self.jitter, random)
        return self.normalised(images)

    # -- files ----------------------------------------------------------------------------------

    def _take(self, net: nn.Module, mean: np.ndarray, std: np.ndarray) -> None:
        self.net = net
        # In float32, so that a saved encoder has the same digest as the original.
        self.mean, self.std = (tuple(np.asarray(v, np.float32).tolist()) for v in (mean, std))

    def arrays(self) -> dict[str, np.ndarray]:
        state = {k: v.cpu().numpy() for k, v in self.net.state_dict().items()}
        return state | {
            name: np.asarray(getattr(self, name), np.float32) for name in ("mean", "std")
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        require(arrays, ("mean", "std"), "ssl_vit")
        with torch.device("meta"):
            net = self.build()
        refill(net, arrays, "ssl_vit")
        net = net.eval().requires_grad_(False).to(self.device)
        self._take(net, arrays["mean"], arrays["std"])

    @property
    def weights_digest(self) -> str:
        return digest_arrays(self.arrays())


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each colour in [0, 1], from the histograms of (M, 3, h, w) uint8."""
    counts = [torch.bincount(images[:, c].flatten(), minlength=256) for c in range(3)]
    share = torch.stack(counts).double() / images[:, 0].numel()  # (3, 256)
    levels = torch.arange(256).double() / 255  # (256,)
    mean = share @ levels  # (3,)
    return mean, (share @ levels**2 - mean**2).clamp(min=1e-4).sqrt()  # (3,) each


def mlp(inputs: int, width: int) -> nn.Module:
    """The expander of VICReg, which only training uses."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
    )


def warm_cosine(step: int, steps: int) -> float:
    """Share of the peak learning rate: a tenth of the steps up, then half a cosine down."""
    warm = max(1, steps // 10)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def vicreg(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """The three weighted terms of equation 6 of VICReg; a and b are (B, d) of the two views.

    As in the code of its authors, squared distances are averaged over coordinates and variance
    terms over the two views.
    """
    spread, shared = a.new_zeros(()), a.new_zeros(())
    for z in (a, b):
        z = z - z.mean(0)  # (B, d)
        spread = spread + F.relu(1 - (z.var(0) + FLOOR).sqrt()).mean() / 2  # equation 1
        covariance = z.T @ z / (len(z) - 1)  # (d, d), equation 3
        off = covariance.square().sum() - covariance.diagonal().square().sum()
        shared = shared + off / z.shape[1]  # equation 4
    return {
        "invariance": INVARIANCE * F.mse_loss(a, b),
        "variance": VARIANCE * spread,
        "covariance": COVARIANCE * shared,
    }


def cut(images: Tensor, side: int, area: tuple[float, float], random: Generator) -> Tensor:
    """Square windows of random place and size, in quarter turns, half of them mirrored.

    Args:
        images: (B, 3, h, h).
        area: smallest and largest share of the image that a window covers; it lies inside.

    Returns:
        (B, 3, side, side), resampled bilinearly.
    """
    n = len(images)
    low, high = area
    scale = (low + (high - low) * torch.rand(n, generator=random)).sqrt()  # (B,)
    centre = (2 * torch.rand(n, 2, generator=random) - 1) * (1 - scale)[:, None]  # (B, 2)
    angle = torch.randint(4, (n,), generator=random) * (math.pi / 2)
    mirror = 2.0 * torch.randint(2, (n,), generator=random) - 1
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [
        torch.stack([scale * cos * mirror, -scale * sin, centre[:, 0]], dim=1),
        torch.stack([scale * sin * mirror, scale * cos, centre[:, 1]], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), [n, 3, side, side], align_corners=False)
    return F.grid_sample(images, grid.to(images), align_corners=False, padding_mode="border")


def restain(images: Tensor, jitter: float, random: Generator) -> Tensor:
    """Scale the concentration of each stain by 1 ± jitter and shift it by a tenth of that.

    Args:
        images: (B, 3, h, w) in [0, 1].
    """
    n = len(images)
    matrix = torch.tensor(STAINS).to(images)  # (stain, colour)
    factor, shift = (
        ((2 * torch.rand(n, 3, 1, 1, generator=random) - 1) * jitter).to(images) for _ in range(2)
    )
    density = -torch.log(images.clamp(1e-3, 1))  # (B, colour, h, w)
    stains = torch.einsum("bchw,cs->bshw", density, torch.linalg.inv(matrix))
    stains = stains * (1 + factor) + shift / 10
    density = torch.einsum("bshw,sc->bchw", stains, matrix)
    return torch.exp(-density).clamp(0, 1)
