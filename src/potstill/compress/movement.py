"""Movement pruning: scores that learn which units a model can do without, while it learns.

A weight that moves away from zero gains score, one that moves towards it loses (Sanh et al. 2020, arXiv:2005.07683,
section 4). Scores here are of whole units, what a plan can take out: a feed-forward neuron, a head or a key-value
group. Every parameter that a unit has rows or columns in is a member of its group and has scores of its own, biases
too; they need not agree before the masks are resolved (`resolve`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from potstill.core.errors import ModelError
from potstill.students.axes import attention_of, says_head_sizes, sizes_of
from potstill.students.layouts import blocks_of, layout_of
from potstill.students.pooled import config_of

UNITS = ("neurons", "heads", "groups")
# During the warm-up no more than this share of one member's units is masked (the limit of NNCF's implementation).
MOST = 0.98


class _Kept(torch.autograd.Function):
    """1 where a score is above the threshold, else 0; backwards the identity."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, threshold: Tensor) -> Tensor:
        return above(scores, threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def above(scores: Float[Tensor, " U"], threshold: Tensor) -> Bool[Tensor, " U"]:
    """Which units stay: score > threshold, where the threshold is at most the 0.98 quantile of these scores. The best
    one stays in any case, so that nothing is emptied."""
    return (scores > lowered(scores, threshold)) | (scores >= scores.max())


def lowered(scores: Float[Tensor, " U"], threshold: Tensor) -> Tensor:
    """The threshold, or the 0.98 quantile of the scores if that is lower."""
    return torch.minimum(threshold, torch.quantile(scores, MOST))


class Gate(nn.Module):
    """The scores of one parameter, one for each unit that it has `size` rows (axis 0) or columns (axis 1) of.

    Multiplies the parameter by its mask; dL/dS = the sum over the unit of dL/d(W m) W, straight through. Once settled
    the scores are none any more: `kept` is the mask, and nothing moves it.
    """

    scores: Tensor
    threshold: Tensor
    first: Tensor
    kept: Tensor

    def __init__(self, parameter: Tensor, axis: int, size: int):
        super().__init__()
        self.axis, self.size = axis, size
        self.block = size * parameter.numel() // parameter.shape[axis]
        units = parameter.shape[axis] // size
        self.settled = False
        self.scores = nn.Parameter(torch.zeros(units, device=parameter.device))
        self.register_buffer("threshold", torch.tensor(-torch.inf, device=parameter.device))
        self.register_buffer("first", torch.tensor(0.0, device=parameter.device))
        self.register_buffer("kept", torch.ones(units, dtype=torch.bool, device=parameter.device))

    def mask(self) -> Float[Tensor, " U"]:
        """1 for a unit that stays, now; a gradient reaches the scores until they are settled."""
        return self.kept.to(self.scores.dtype) if self.settled else _Kept.apply(self.scores, self.threshold)

    def forward(self, parameter: Tensor) -> Tensor:
        """The parameter with what the gate closes at zero."""
        shape = [-1 if axis == self.axis else 1 for axis in range(parameter.dim())]
        return parameter * self.mask().repeat_interleave(self.size).view(shape).to(parameter.dtype)

    def pressure(self) -> Tensor:
        """0.5 |unit| mean(sigmoid(S)), |unit| the weights of a unit in this parameter: what the regulariser sums."""
        return 0.5 * self.block * torch.sigmoid(self.scores).mean()

    def settle(self) -> None:
        """From now on `kept` is the mask. An optimiser that holds the scores finds no gradient and leaves them."""
        self.settled = True
        if isinstance(self.scores, nn.Parameter):
            scores = self.scores.detach().clone()
            del self._parameters["scores"]
            self.register_buffer("scores", scores)


class GatedLinear(nn.Module):
    """A linear, with or without grids, whose weight and bias pass gates first."""

    def __init__(self, linear: nn.Module, weight_gate: Gate, bias_gate: Gate | None):
        super().__init__()
        self.linear, self.weight_gate, self.bias_gate = linear, weight_gate, bias_gate
        self.train(linear.training)

    @property
    def weight(self) -> Tensor:
        """Of the linear, before the gate."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        """Of the linear, before the gate."""
        return self.linear.bias

    @property
    def gates(self) -> list[Gate]:
        """That of the weight, and that of the bias if it has rows."""
        return [self.weight_gate, *([] if self.bias_gate is None else [self.bias_gate])]

    def forward(self, inputs: Tensor) -> Tensor:
        """As of the linear, with what is closed at zero."""
        return functional_call(self.linear, self.gated(), (inputs,))

    def gated(self) -> dict[str, Tensor]:
        """Weight and bias behind their gates, by name."""
        found = {"weight": self.weight_gate(self.linear.weight)}
        if self.bias_gate is not None:
            found["bias"] = self.bias_gate(self.linear.bias)
        return found

    def close(self) -> None:
        """Set what is closed to zero in the linear itself."""
        with torch.no_grad():
            for name, value in self.gated().items():
                getattr(self.linear, name).copy_(value)


@dataclass(frozen=True, slots=True)
class Group:
    """Units of one kind in one block, and every gate that has scores for them: a unit is there, or in none of them."""

    kind: str
    block: int
    members: Mapping[str, Gate]

    @property
    def units(self) -> int:
        """How many there are."""
        return next(iter(self.members.values())).kept.numel()


def install(module: nn.Module, kinds: Sequence[str]) -> tuple[Group, ...]:
    """Put gates before the linears that these units run through, in place.

    kinds: `neurons`, `heads` (where each has keys and values of its own) or `groups` of heads that share them.
    Raises ModelError: an architecture that is not known; heads of one whose config cannot say fewer of them; heads
    where they share keys, groups where they do not.
    """
    _refuse(module, kinds)
    sizes, layout, attention = sizes_of(module), layout_of(module), attention_of(module)
    rows, columns = (1, 0) if layout.transposed else (0, 1)
    found = []
    for index, block in enumerate(blocks_of(module)):
        for kind in kinds:
            if kind == "neurons":
                parts = {path: (rows, 1) for path in layout.up} | {layout.down: (columns, 1)}
            else:
                shared = sizes.head_size * sizes.heads // sizes.groups
                parts = {path: (rows, shared) for path in attention.query}
                parts |= {path: (rows, sizes.head_size) for path in attention.key_value}
                parts |= {attention.out: (columns, shared)}
            members: dict[str, Gate] = {}
            for path, (axis, size) in parts.items():
                members |= _gate(block, path, axis, size, rows)
            found.append(Group(kind, index, members))
    return tuple(found)


def gated_linears(module: nn.Module) -> dict[str, GatedLinear]:
    """Every linear behind gates, by name."""
    return {name: one for name, one in module.named_modules() if isinstance(one, GatedLinear)}


def remove(module: nn.Module) -> None:
    """Take the gates away again, in place; what they closed is zero."""
    for name, one in gated_linears(module).items():
        one.close()
        module.set_submodule(name, one.linear)


def regulariser(module: nn.Module) -> Tensor:
    """The mean over linears of their gates' pressure; times lambda(u) it is what pushes scores down."""
    linears = gated_linears(module).values()
    return torch.stack([torch.stack([gate.pressure() for gate in one.gates]).sum() for one in linears]).mean()


def first_threshold(groups: Sequence[Group], share: float) -> Tensor:
    """The threshold at which this share of all scores is masked: the floor(share n)-th lowest, the lowest at least."""
    scores = torch.cat([gate.scores.detach() for group in groups for gate in group.members.values()])
    return scores.kthvalue(max(1, int(share * scores.numel()))).values


def closed_share(groups: Sequence[Group]) -> float:
    """Weights and biases that are at zero now, among those that have gates."""
    closed = total = 0
    for group in groups:
        for gate in group.members.values():
            closed += gate.block * int((gate.mask() == 0).sum())
            total += gate.block * gate.kept.numel()
    return closed / total


def _gate(block: nn.Module, path: str, axis: int, size: int, rows: int) -> dict[str, Gate]:
    linear = block.get_submodule(path)
    weight = Gate(linear.weight, axis, size)
    bias = Gate(linear.bias, 0, size) if axis == rows and linear.bias is not None else None
    block.set_submodule(path, GatedLinear(linear, weight, bias))
    return {f"{path}.weight": weight} | ({} if bias is None else {f"{path}.bias": bias})


def _refuse(module: nn.Module, kinds: Sequence[str]) -> None:
    sizes, model = sizes_of(module), config_of(module).model_type
    if set(kinds) & {"heads", "groups"} and not attention_of(module).says_head_size:
        raise ModelError(
            f"heads: a `{model}` config has no head size of its own, it is width / heads, so heads alone cannot be "
            f"taken out: prune neurons, or use one of {', '.join(says_head_sizes())}"
        )
    if "groups" in kinds and sizes.groups == sizes.heads:
        raise ModelError(f"groups: in this `{model}` model every head has keys and values of its own: prune heads")
    if "heads" in kinds and sizes.groups != sizes.heads:
        raise ModelError(
            f"heads: in this `{model}` model {sizes.heads} heads share {sizes.groups} keys and values: prune groups"
        )
