"""Every divergence of the catalogue in one form, from which value and gradient follow without the whole logits.

    D(p, q) = f KL(p || q) + r KL(q || p) + sum_i w_i KL(x_i p + (1 - x_i) q || y_i p + (1 - y_i) q) + v TV(p, q)

p is the teacher's distribution, q the student's. With g = dD/dq, the gradient with respect to the student's logits is
q (g - sum_u q_u g_u): one number for each position and one for each entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mixture:
    """weight * KL(x p + (1 - x) q || y p + (1 - y) q)."""

    weight: float
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Form:
    """The weights of the parts above. adaptive: f and r are set position by position, as adaptive KL does."""

    forward: float = 0.0
    reverse: float = 0.0
    mixtures: tuple[Mixture, ...] = ()
    variation: float = 0.0
    adaptive: bool = False


def _jensen_shannon(beta: float) -> Form:
    if beta in (0.0, 1.0):
        return Form(forward=1.0 - beta, reverse=beta)
    return Form(mixtures=(Mixture(beta, 1.0, beta), Mixture(1.0 - beta, 0.0, beta)))


def _skew_kl(alpha: float) -> Form:
    return Form(forward=1.0) if alpha == 0 else Form(mixtures=(Mixture(1.0, 1.0, alpha),))


def _skew_reverse_kl(alpha: float) -> Form:
    return Form(reverse=1.0) if alpha == 0 else Form(mixtures=(Mixture(1.0, 0.0, 1.0 - alpha),))


def _bidirectional(lam: float) -> Form:
    if lam in (0.0, 1.0):
        return Form(forward=1.0 - lam, reverse=lam)
    return Form(mixtures=(Mixture(1.0, 1.0 - lam, lam),))


FORMS: Mapping[str, Callable[..., Form]] = {
    "forward_kl": lambda: Form(forward=1.0),
    "reverse_kl": lambda: Form(reverse=1.0),
    "jensen_shannon": _jensen_shannon,
    "skew_kl": _skew_kl,
    "skew_reverse_kl": _skew_reverse_kl,
    "bidirectional": _bidirectional,
    "total_variation": lambda: Form(variation=1.0),
    "adaptive_kl": lambda: Form(adaptive=True),
}
