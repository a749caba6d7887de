"""The plain pre-norm transformer layer of the regression baselines."""

import torch.nn.functional as F
from torch import Tensor, nn


class Layer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)).

    Queries, keys and values have no bias. With a ``context``, keys and values come from it, under
    the same normalisation as the queries.

    Args:
        ratio: hidden units of the MLP per unit of width.
        dropout: after the attention's output and after both linear maps of the MLP.
        attention_dropout: on the weights of the attention.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        ratio: float = 4.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ):
        super().__init__()
        hidden = int(width * ratio)
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out, self.drop = nn.Linear(width, width), nn.Dropout(dropout)
        self.drop_weights = nn.Dropout(attention_dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(
        self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """x (B, T, d), context (B, S, d); ``bias`` (B, H, T, S) is added to the logits."""
        h = self.norm1(x)  # (B, T, d)
        source = h if context is None else self.norm1(context)  # (B, S, d)
        x = x + self.drop(self.out(self._attend(h, source, bias)))  # (B, T, d)
        return x + self.mlp(self.norm2(x))  # (B, T, d)

    def _attend(self, x: Tensor, source: Tensor, bias: Tensor | None) -> Tensor:
        b, t, d = x.shape
        q = self.query(x).view(b, t, self.heads, -1).transpose(1, 2)  # (B, H, T, d/H)
        kv = self.key_value(source).view(b, source.shape[1], 2, self.heads, -1)  # (B, S, 2, H, d/H)
        k, v = kv.permute(2, 0, 3, 1, 4)  # 2 × (B, H, S, d/H)
        p = self.drop_weights.p if self.drop_weights.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, bias, dropout_p=p)  # (B, H, T, d/H)
        return x.transpose(1, 2).reshape(b, t, d)  # (B, T, d)
