"""Unstructured magnitude pruning: which weights go, with an exact count and ties that are broken by place.

Dense kernels gain nothing from zeros (benchmarks/sparse.py shows it): these masks are for runtimes that store or
multiply sparsely, and for finding what a model can lose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from potstill.compress.masks import Masks
from potstill.core.errors import ModelError
from potstill.students.layouts import blocks_of

Weights = Mapping[str, Tensor]
_PRUNED = -1.0  # below every magnitude: what a former mask took stays taken


def prunable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that pruning is about: matrices of the linears inside the blocks, by their name in the module.

    Left out: embeddings, norms, biases, the pooler, every head. Raises ModelError for an unknown architecture.
    """
    inside = {
        id(part.weight)
        for block in blocks_of(module)
        for part in block.modules()
        if isinstance(part, (nn.Linear, Conv1D))
    }
    return {name: weight for name, weight in module.named_parameters() if id(weight) in inside}


def layer_wise(weights: Weights, sparsity: float, former: Masks | None = None) -> Masks:
    """In every matrix of n weights the floor(s n) smallest magnitudes go; of equal ones, those that come first.

    At least one weight of a matrix stays, and a note says where that was needed. former: masks whose zeros remain.
    Raises ModelError: a share outside [0, 1], weights that are not finite.
    """
    _check(weights, sparsity)
    kept, capped = {}, []
    for name, weight in weights.items():
        asked, most = share_of(weight.numel(), sparsity), weight.numel() - 1
        if asked > most:
            capped.append(name)
        kept[name] = ~_smallest(_magnitudes(name, weight, former), min(asked, most)).view_as(weight)
    return Masks(kept, _said(capped, sparsity))


def global_wise(weights: Weights, sparsity: float, former: Masks | None = None, most: float = 1.0) -> Masks:
    """Of all n weights together the floor(s n) smallest magnitudes go; of equal ones, those that come first.

    No matrix loses more than the share `most` of its weights, and never its last one: what is spared there is taken
    from the others, so that the count stays exact as long as anything may go, and a note names the matrices.
    former: masks whose zeros remain. Raises ModelError: a share outside [0, 1], weights that are not finite.
    """
    _check(weights, sparsity)
    if not 0.0 < most <= 1.0:
        raise ModelError(f"most: {most} of a matrix: use a share above 0 and at most 1")
    sizes = {name: weight.numel() for name, weight in weights.items()}
    limit = {name: min(share_of(size, most), size - 1) for name, size in sizes.items()}
    wanted = share_of(sum(sizes.values()), sparsity)
    gone, capped, free = dict.fromkeys(weights, 0), [], list(weights)
    magnitudes = {name: _magnitudes(name, weight, former) for name, weight in weights.items()}
    while free:
        left = min(wanted - sum(gone[name] for name in capped), sum(sizes[name] for name in free))
        taken = _smallest(torch.cat([magnitudes[name] for name in free]), left).split([sizes[name] for name in free])
        gone |= {name: int(part.sum()) for name, part in zip(free, taken, strict=True)}
        over = [name for name in free if gone[name] > limit[name]]
        if not over:
            break
        gone |= {name: limit[name] for name in over}
        capped += over
        free = [name for name in free if name not in over]
    # The k smallest of all, seen from one matrix, are its own smallest: the order of places is the same in both.
    kept = {name: ~_smallest(magnitudes[name], gone[name]).view_as(weight) for name, weight in weights.items()}
    return Masks(kept, _said([name for name in weights if name in capped], sparsity))


def n_of_m(weights: Weights, n: int, m: int, *, transposed: bool = False) -> Masks:
    """Of every m weights that follow each other along the input axis the n largest stay; of equal ones, the later.

    transposed: matrices are [in, out], as GPT-2 keeps them. Raises ModelError: no 0 < n < m, or an input width that m
    does not divide.
    """
    if not 0 < n < m:
        raise ModelError(f"{n}:{m}: keep at least one and fewer than all: use 0 < N < M, such as 2:4")
    _check(weights, 0.0)
    kept = {}
    for name, weight in weights.items():
        rows = weight.T if transposed else weight
        if rows.shape[1] % m:
            raise ModelError(f"{name}: its input width {rows.shape[1]} is not a multiple of {m}: use an M that divides")
        groups = rows.detach().abs().unflatten(1, (-1, m))
        order = groups.argsort(dim=-1, stable=True)  # of equal ones the first comes first, and goes
        mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., m - n :], True).flatten(1)
        kept[name] = mask.T.contiguous() if transposed else mask
    return Masks(kept)


def share_of(count: int, share: float) -> int:
    """floor(share * count), the share read as the decimal it is written as: 0.29 of 100 is 29, not 28."""
    return math.floor(Fraction(repr(float(share))) * count)


def _magnitudes(name: str, weight: Tensor, former: Masks | None) -> Float[Tensor, " N"]:
    size = weight.detach().abs().flatten()
    size = size.to(torch.promote_types(size.dtype, torch.float32))
    if former is not None and name in former.kept:
        size = size.masked_fill(~former.kept[name].to(size.device).flatten(), _PRUNED)
    return size


def _smallest(values_N: Float[Tensor, " N"], count: int) -> Bool[Tensor, " N"]:
    """True at exactly `count` of the smallest values; of those equal to the threshold, the first ones."""
    if count == 0:
        return torch.zeros_like(values_N, dtype=torch.bool)
    threshold = values_N.kthvalue(count).values
    below, equal = values_N < threshold, values_N == threshold
    return below | (equal & (equal.cumsum(0) <= count - int(below.sum())))


def _check(weights: Weights, sparsity: float) -> None:
    if not 0.0 <= sparsity <= 1.0:
        raise ModelError(f"sparsity: {sparsity}: use a share from 0 to 1")
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(f"{name}: it holds weights that are not finite, which have no magnitude: load it again")


def _said(capped: list[str], sparsity: float) -> tuple[str, ...]:
    if not capped:
        return ()
    shown = ", ".join(capped[:3]) + (f" and {len(capped) - 3} more" if len(capped) > 3 else "")
    return (f"sparsity {sparsity:g} would have taken too much of {shown}: capped there",)
