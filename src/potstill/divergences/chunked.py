"""Fused linear + divergence: from last states and output heads to the loss and its gradients, logits never whole.

The two projections, the divergence and both gradients are computed together, a block of tokens at a time, and the
gradients are kept from the forward pass: the backward pass multiplies them by one number. Nothing of the size
[tokens, vocabulary] ever exists. The method is known from cross-entropy (Wijmans et al. 2024, Cut Your Losses,
arXiv:2411.09009, section 4); that every divergence of the catalogue needs one more number for each token and no more is
in `mixtures.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.core.shapes import Scalar
from potstill.core.signal import OutputHead
from potstill.divergences import tiles_native, tiles_triton
from potstill.divergences.catalogue import DIVERGENCES
from potstill.divergences.mixtures import FORMS, Form
from potstill.divergences.reduce import mean_scale
from potstill.divergences.tiles import RANGES, Engine, Side, Task, stored
from potstill.divergences.tiles_native import NativeEngine
from potstill.divergences.tiles_torch import TorchEngine
from potstill.divergences.tiles_triton import TritonEngine
from potstill.divergences.walks import walk_blocks

Memory = Literal["balanced", "low"]
Kind = type[TritonEngine] | type[NativeEngine] | type[TorchEngine]

SMALLEST_BLOCK, LARGEST_BLOCK, LOW_BLOCK = 64, 512, 256
"""Tokens at a time: a multiple of the compiled engine's panels, and no more than its tiles have room for in a cache."""


def linear_divergence(
    student_hidden_NS: Float[Tensor, "_ _"],
    student_head_VS: Float[Tensor, "_ _"] | OutputHead,
    teacher_hidden_NT: Float[Tensor, "_ _"],
    teacher_head_VT: Float[Tensor, "_ _"] | OutputHead,
    divergence: str = "forward_kl",
    temperature: float = 1.0,
    weights_N: Float[Tensor, " N"] | None = None,
    targets_N: Int[Tensor, " N"] | None = None,
    hard_weight: float = 0.0,
    params: Mapping[str, float] | None = None,
    *,
    soft_weight: float = 1.0,
    hard_weights_N: Float[Tensor, " N"] | None = None,
    total: float | None = None,
    hard_total: float | None = None,
    memory: Memory = "balanced",
) -> Scalar:
    """soft_weight T^2 mean(D) + hard_weight mean(cross-entropy at T = 1), weighted means over tokens, in fp32.

    A head is a matrix, or an OutputHead with bias, scale and softcap. weights_N: of the divergence, 1 when absent;
    hard_weights_N: of the cross-entropy against targets_N, the same when absent. total, hard_total: denominators of a
    whole step (see reduce.weighted_mean). A token under weight 0 is not looked at. Gradients reach the student's
    states, head and bias, once; the teacher gets none.

    memory: "balanced" keeps the logits of a block of tokens between the walks, about as many bytes as the gradients;
    "low" keeps what fits into 32 MB, and into the place of the head's gradient before that is written (the compiled
    engine), or nothing (the others). The rest is computed again on each walk: with nothing kept and at equal widths 1.5
    times the products for forward and reverse KL, 2 times for the others, 2.75 times for adaptive KL, which looks at
    the teacher six times.

    Raises ValueError for an unknown divergence or parameter, shapes that do not fit, targets outside the vocabulary.
    """
    student = side_of("student", student_hidden_NS, student_head_VS)
    teacher = side_of("teacher", teacher_hidden_NT, teacher_head_VT)
    ones = torch.ones_like(student.states_ND[:, 0], dtype=torch.promote_types(student.states_ND.dtype, torch.float32))
    soft_N = ones if weights_N is None else weights_N.to(ones.dtype)
    hard_N = soft_N if hard_weights_N is None else hard_weights_N.to(ones.dtype)
    if hard_weight and targets_N is None:
        raise ValueError(f"hard_weight is {hard_weight}, but there are no targets: give targets_N, or set it to 0")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be above 0")
    return linear_losses(
        student,
        teacher,
        form_of(divergence, params or {}),
        temperature=temperature,
        soft_N=soft_N * (soft_weight * mean_scale(float(soft_N.sum()), total=total, temperature=temperature)),
        hard_N=hard_N * (hard_weight * mean_scale(float(hard_N.sum()), total=hard_total, temperature=1.0)),
        targets_N=targets_N if hard_weight else None,
        memory=memory,
    )[0]


def linear_losses(
    student: Side,
    teacher: Side,
    form: Form,
    *,
    temperature: float,
    soft_N: Float[Tensor, " N"],
    hard_N: Float[Tensor, " N"],
    targets_N: Int[Tensor, " N"] | None,
    memory: Memory = "balanced",
) -> tuple[Scalar, Float[Tensor, 2]]:
    """sum_n soft_n D_n + hard_n CE_n, attached to the graph, and the two sums alone, which are not.

    A token of which both coefficients are 0 is not looked at. Raises ValueError for sides or targets that do not fit.
    """
    _check(student, teacher, targets_N)
    kept = (soft_N != 0) | (hard_N != 0)
    if not kept.all():
        student = dataclasses.replace(student, states_ND=student.states_ND[kept])
        teacher = dataclasses.replace(teacher, states_ND=teacher.states_ND[kept])
        soft_N, hard_N = soft_N[kept], hard_N[kept]
        targets_N = None if targets_N is None else targets_N[kept]
    if not len(soft_N):
        return student.states_ND.sum().to(soft_N.dtype) + student.head.weight_VD[:0].sum(), soft_N.new_zeros(2)
    head = student.head
    task = Task(
        student=Side(student.states_ND.detach(), dataclasses.replace(head, weight_VD=head.weight_VD.detach())),
        teacher=teacher,
        form=form,
        temperature=temperature,
        targets_N=targets_N,
        store=memory == "balanced",
        block=SMALLEST_BLOCK,
        lends=head.weight_VD.requires_grad and torch.is_grad_enabled(),
    )
    kind = engine_of(task)
    task = dataclasses.replace(task, block=_block(task, kind))
    total, parts = _Fused.apply(  # type: ignore[no-untyped-call]
        student.states_ND, head.weight_VD, head.bias_V, task, kind, soft_N, hard_N
    )
    return total, parts


class _Fused(torch.autograd.Function):
    """The loss, with its gradients ready."""

    @staticmethod
    def forward(
        ctx: Any,
        states_ND: Tensor,
        head_VD: Tensor,
        bias_V: Tensor | None,
        task: Task,
        kind: Kind,
        soft_N: Tensor,
        hard_N: Tensor,
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[:3]
        engine: Engine = kind(task, states=wanted[0], head=wanted[1], bias=wanted[2])
        parts = walk_blocks(task, engine, soft_N, hard_N, differentiate=any(wanted))
        ctx.gradients = tuple(
            None if held is None or given is None else held.to(given.dtype)
            for held, given in zip(engine.held, (states_ND, head_VD, bias_V), strict=True)
        )
        ctx.mark_non_differentiable(parts)
        return parts.sum(), parts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # Let go of them: whoever takes the only reference need not copy.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of a fused loss are given once: call linear_divergence again")
        factor = float(outer)
        scaled = (one if one is None or factor == 1.0 else one.mul_(factor) for one in gradients)
        return (*scaled, None, None, None, None)


def engine_of(task: Task) -> Kind:
    """The fastest engine that can take the task: Triton on a CUDA device, compiled code on a processor, or PyTorch."""
    if tiles_triton.fits(task):
        return TritonEngine
    return NativeEngine if tiles_native.fits(task) else TorchEngine


def side_of(name: str, states_ND: Float[Tensor, "_ _"], head: Float[Tensor, "_ _"] | OutputHead) -> Side:
    """States and head of one model as the walks take them. Raises ValueError when they are not of the same model."""
    given = head if isinstance(head, OutputHead) else OutputHead(head)
    width, expected = states_ND.shape[1], given.weight_VD.shape[1]
    if width != expected:
        raise ValueError(
            f"the {name}'s states are {width} wide, its head {expected}: take the states after the final norm, and the "
            "head of the same model"
        )
    if given.bias_V is not None and not bool(torch.isfinite(given.bias_V).all()):
        raise ValueError(f"the bias of the {name}'s head is not finite everywhere: leave such entries out of the head")
    return Side(states_ND.contiguous(), dataclasses.replace(given, weight_VD=given.weight_VD.contiguous()))


def form_of(divergence: str, given: Mapping[str, float]) -> Form:
    """A divergence of the catalogue in the form that can be fused. Raises ValueError for an unknown name."""
    if divergence not in DIVERGENCES:
        raise ValueError(f"there is no divergence {divergence!r}: choose one of {', '.join(DIVERGENCES)}")
    row = DIVERGENCES[divergence]
    unknown = sorted(set(given) - set(row.parameters))
    if unknown:
        raise ValueError(f"{divergence} has no parameter {unknown[0]!r}; it has {list(row.parameters) or 'none'}")
    return FORMS[divergence](**{**row.parameters, **given})


def _check(student: Side, teacher: Side, targets_N: Tensor | None) -> None:
    entries, spoken = len(student.head.weight_VD), len(teacher.head.weight_VD)
    if entries != spoken:
        raise ValueError(
            f"the student's head has {entries} entries and the teacher's {spoken}: nothing is padded or cut"
        )
    if len(student.states_ND) != len(teacher.states_ND):
        raise ValueError(f"{len(student.states_ND)} states of the student, {len(teacher.states_ND)} of the teacher")
    if targets_N is not None and not bool(((targets_N >= 0) & (targets_N < entries)).all()):
        raise ValueError(f"targets lie outside the {entries} entries: give unknown ones target 0 and weight 0")


def _block(task: Task, kind: Kind) -> int:
    """Tokens at a time, so that all workspace together stays below the gradients that are returned."""
    if kind is TritonEngine:
        return tiles_triton.block(task)
    entries, width = task.student.head.weight_VD.shape
    if not task.store:
        return tiles_native.low_block(task) if kind is NativeEngine else LOW_BLOCK
    size = task.student.head.weight_VD.element_size()
    kept = 2 * entries * (stored(task).itemsize if kind is NativeEngine else max(size, 4))
    laid_out = (2 * width + task.teacher.head.weight_VD.shape[1]) * size
    per_token = kept + RANGES * width * 4 + laid_out
    gradient_of_states = 4 * task.student.states_ND.numel()
    affordable = int((0.96 * entries * width * size - gradient_of_states) / per_token)
    return min(max(affordable // SMALLEST_BLOCK * SMALLEST_BLOCK, SMALLEST_BLOCK), LARGEST_BLOCK)
