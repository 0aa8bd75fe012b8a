"""Who a language model of this process is to readers of its last states, and whether these are its own logits."""

from __future__ import annotations

from torch import nn

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.signal import DenseLogits, HeadedStates, Want
from potstill.students.layouts import body_of
from potstill.students.load import LoadedModel
from potstill.students.taps import output_head
from potstill.teachers.identity import Identity
from potstill.teachers.local import LocalTeacher

# Two ways to the same logits round differently; a scale or a soft-cap that was overlooked is far above this.
TOLERANCE, TOLERANCE_BF16 = 1e-3, 5e-2


def identity_of(loaded: LoadedModel) -> Identity:
    """Who this model is, to whoever reads its signals. Raises SignalError where it has no linear head."""
    head = output_head(loaded.module)
    return Identity(
        weights=loaded.record.weights_sha256,
        tokenizer=loaded.record.tokenizer_sha256,
        vocabulary_size=head.weight_VD.shape[0],
        norm=_final_norm(loaded.module),
        scale=head.scale,
        softcap=head.softcap,
    )


def _final_norm(module: nn.Module) -> str:
    """The last norm of the body by class and epsilon; states are taken after it."""
    norms = [part for _, part in body_of(module).named_children() if "norm" in type(part).__name__.lower()]
    if not norms:
        return ""
    found = (getattr(norms[-1], name) for name in ("eps", "variance_epsilon") if hasattr(norms[-1], name))
    # Six digits: a .gguf file keeps 1e-05 as the nearest fp32.
    return f"{type(norms[-1]).__name__}(eps={float(next(found, 0.0)):.6g})"


def refuse_false_head(teacher: LocalTeacher, batch: Batch, *, bf16: bool = False) -> None:
    """Raises SignalError unless states and head give the model's own logits: a scale, a soft-cap or a norm that this
    program does not know of would otherwise change every target in silence. bf16: it speaks under autocast."""
    asked_BT = batch.weights["soft"] != 0
    own = teacher.signal(batch, Want()).logits
    said = teacher.signal(batch, Want(logits=False, headed=True)).logits
    assert isinstance(own, DenseLogits), "a local teacher says whole logits"
    assert isinstance(said, HeadedStates), "last states were asked for"
    expected_NV = own.logits_BTV[asked_BT].float()
    gap = (said.head.logits(said.states_BTD[asked_BT].float()) - expected_NV).abs().max()
    bound = (TOLERANCE_BF16 if bf16 else TOLERANCE) * (1 + float(expected_NV.abs().max()))
    if not float(gap) <= bound:
        raise SignalError(
            f"the head of {teacher.voice.teacher} does not give its own logits ({float(gap):.3g} off): this "
            "architecture changes them in a way that is not known here; keep or send `logits` or `top-k` instead"
        )
