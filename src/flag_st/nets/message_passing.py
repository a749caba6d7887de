"""FLAG's attention to neighbours as message passing of torch-geometric, edge by edge.

It computes what ``flag_st.nets.graph_transformer.SpotAttention`` computes. The tests compare the two,
and the benchmark measures how much time the padded form saves.
"""

from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

from flag_st.nets.graph_transformer import EdgeBias, SpotAttention


class MessageAttention(MessagePassing):
    """Attention along the edges of a graph, with the weights of a ``SpotAttention``.

    Args:
        attention: whose weights are used.
        bias: gives the logits of edges, or None if edges know nothing.
    """

    def __init__(self, attention: SpotAttention, bias: EdgeBias | None = None):
        super().__init__(aggr="sum", node_dim=0)
        self.attention, self.bias = attention, bias

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """x (N, d), edge_index (2, E), edge_attr (E, C)."""
        n, d = x.shape
        heads = self.attention.heads
        q, k, v = self.attention.qkv(x).view(n, 3, heads, d // heads).unbind(1)  # 3 × (N, H, d/H)
        logit = x.new_zeros(edge_index.shape[1], heads)  # (E, H)
        if self.bias is not None:
            assert edge_attr is not None, "the bias is of edges that know something"
            logit = self.bias(edge_attr[None, None])[0, :, 0].T  # (E, H)
        found = self.propagate(edge_index, q=q, k=k, v=v, logit=logit)  # (N, H, d/H)
        return self.attention.out(found.reshape(n, d))  # (N, d)

    def message(
        self,
        q_i: Tensor,
        k_j: Tensor,
        v_j: Tensor,
        logit: Tensor,
        index: Tensor,
        size_i: int,
    ) -> Tensor:
        """What an edge carries, from the spot j that is seen to the spot i that sees it."""
        logit = (q_i * k_j).sum(-1) / k_j.shape[-1] ** 0.5 + logit  # (E, H)
        return softmax(logit, index, num_nodes=size_i).unsqueeze(-1) * v_j  # (E, H, d/H)
