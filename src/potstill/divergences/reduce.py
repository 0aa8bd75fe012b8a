"""The only place that averages: weights, their own denominator, and the T^2 of a softened loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from potstill.core.shapes import Scalar


def weighted_mean(
    values: Float[Tensor, "*N"], weights: Float[Tensor, "*N"], *, total: float | None = None, temperature: float = 1.0
) -> Scalar:
    """T^2 * sum(weights * values) / total, a scalar that stays attached to the graph of `values`.

    total: the sum of the weights of the whole optimiser step, when this is one of several micro-batches or processes;
    the results then add up to the mean over all of them, whatever the split. Without it, the sum of these weights.
    temperature: T of a loss on softened distributions, whose gradient shrinks as 1 / T^2 (Hinton, Vinyals and Dean
    2015, section 2); 1 for any other loss.

    A value under weight 0 is not looked at, so padding may hold anything, NaN included. When every weight is 0 the
    result is 0 and its gradient is 0. Raises ValueError for a total that is not above 0 although some weight is.
    """
    weights = weights.to(values.dtype)
    summed = (values.masked_fill(weights == 0, 0.0) * weights).sum()
    return summed * mean_scale(float(weights.sum()), total=total, temperature=temperature)


def mean_scale(own: float, *, total: float | None, temperature: float) -> float:
    """What a weighted sum is multiplied with to become the mean of `weighted_mean`; own: the sum of its weights."""
    denominator = own if total is None else total
    if denominator > 0:
        return temperature**2 / denominator
    if own > 0:
        raise ValueError(f"the total of the weights is {denominator}, but this batch alone has {own}")
    return 1.0
