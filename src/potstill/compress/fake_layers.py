"""Quantised layers: ordinary ones with grids beside their weight.

They keep the interface of their class, its parameters and their names in the state; grids add `weight_grid.*` and
`input_grid.*`.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from potstill.compress.fake import InputGrid, TokenGrid, WeightGrid

_SETTINGS = (
    *("num_embeddings", "embedding_dim", "padding_idx"),
    *("max_norm", "norm_type", "scale_grad_by_freq", "sparse"),
)


class FakeLinear(nn.Linear):
    """A linear whose weight, and perhaps inputs, lie on grids. Weight and bias are those of the linear it replaces."""

    def __init__(self, linear: nn.Linear, weight_grid: WeightGrid, input_grid: InputGrid | TokenGrid | None):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_grid, self.input_grid = weight_grid, input_grid
        self.train(linear.training)

    def forward(self, input: Float[Tensor, "*N in"]) -> Float[Tensor, "*N out"]:
        """As of the linear."""
        inputs = input if self.input_grid is None else self.input_grid(input)
        return functional.linear(inputs, self.weight_grid(self.weight), self.bias)

    def ordinary(self) -> nn.Linear:
        """The same weight and bias without grids."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        return linear.train(self.training)


class FakeEmbedding(nn.Embedding):
    """An embedding whose table lies on a grid; only the rows that are read are put there."""

    def __init__(self, table: nn.Embedding, weight_grid: WeightGrid):
        nn.Module.__init__(self)
        for name in _SETTINGS:
            setattr(self, name, getattr(table, name))
        self.weight, self.weight_grid = table.weight, weight_grid
        self.train(table.training)

    def forward(self, input: Int[Tensor, "*N"]) -> Float[Tensor, "*N width"]:
        """As of the table."""
        if self.weight_grid.follows and self.weight_grid.grid.per == "tensor":
            return functional.embedding(input, self.weight_grid(self.weight), self.padding_idx)
        rows = functional.embedding(input, self.weight, self.padding_idx)
        return self.weight_grid(rows, input)

    def ordinary(self) -> nn.Embedding:
        """The same table without a grid."""
        table = nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx, _weight=self.weight.detach())
        for name in _SETTINGS:
            setattr(table, name, getattr(self, name))
        table.weight = self.weight
        return table.train(self.training)
