"""The same loss by others, from last states and heads to the two gradients: what the fused loss is measured against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Inputs:
    """states, head: the student's, leaves. spoken, teacher: the teacher's states and head. One dtype."""

    states: Tensor
    head: Tensor
    spoken: Tensor
    teacher: Tensor

    @classmethod
    def random(cls, tokens: int, student: int, teacher: int, entries: int, dtype: torch.dtype) -> Inputs:
        """Logits of about unit variance, so that distributions are flat as in early training."""
        torch.manual_seed(0)
        draw = lambda rows, width: (torch.randn(rows, width) * width**-0.5).to(dtype)  # noqa: E731
        states, spoken = torch.randn(tokens, student).to(dtype), torch.randn(tokens, teacher).to(dtype)
        return cls(states.requires_grad_(), draw(entries, student).requires_grad_(), spoken, draw(entries, teacher))

    def forget(self) -> None:
        """Let go of the gradients."""
        self.states.grad = self.head.grad = None


Run = Callable[[Inputs], None]


def trl_jensen_shannon(given: Inputs) -> None:
    """TRL's generalised JSD on whole logits, in the precision of the model."""
    from trl.experimental.gkd import GKDTrainer

    student, teacher = (given.states @ given.head.T)[None], (given.spoken @ given.teacher.T)[None]
    GKDTrainer.generalized_jsd_loss(student, teacher, beta=0.5).backward()


def liger_jensen_shannon(chunk: int) -> Run:
    """Liger's chunked JSD, its compiled functions off: they compile anew for each shape."""

    def run(given: Inputs) -> None:
        from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5, compiled=False, chunk_size=chunk
        )
        targets = torch.zeros(len(given.states), dtype=torch.long)
        loss(given.states, given.head, given.spoken, given.teacher, targets).backward()

    return run


def plain_forward_kl(given: Inputs) -> None:
    """F.kl_div on whole logits, taken to fp32 first."""
    student, teacher = (given.states @ given.head.T).float(), (given.spoken @ given.teacher.T).float()
    loss = F.kl_div(F.log_softmax(student, -1), F.log_softmax(teacher, -1), reduction="batchmean", log_target=True)
    loss.backward()


PEERS: Mapping[str, Run] = {
    "TRL, Jensen-Shannon": trl_jensen_shannon,
    "Liger, Jensen-Shannon, chunk 1024": liger_jensen_shannon(1024),
    "Liger, Jensen-Shannon, chunk 128": liger_jensen_shannon(128),
    "plain F.kl_div, forward KL": plain_forward_kl,
}
