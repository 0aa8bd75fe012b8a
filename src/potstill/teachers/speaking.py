"""A language model of this process that says its last states, and what makes logits of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.signal import HeadedStates, OutputHead, Signal, Voice, Want
from potstill.students.layouts import body_of
from potstill.students.load import LoadedModel
from potstill.students.pooled import config_of
from potstill.students.taps import last_hidden
from potstill.teachers.head import logits_of
from potstill.teachers.identity import Identity
from potstill.teachers.local import LocalTeacher

# Two ways to the same logits round differently; a scale or a soft-cap that was overlooked is far above this.
TOLERANCE = 1e-3


def own_head(module: nn.Module) -> OutputHead:
    """The head of a language model, on its device, without gradient. Raises SignalError where it is no linear map."""
    output = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    if not isinstance(output, nn.Linear):
        raise SignalError(
            f"{type(module).__name__} has no linear output layer: send whole logits or top entries instead"
        )
    config = config_of(module).get_text_config()
    divisor, softcap = getattr(config, "logits_scaling", 1.0), getattr(config, "final_logit_softcapping", None)
    return OutputHead(
        weight_VD=output.weight.detach(),
        bias_V=None if output.bias is None else output.bias.detach(),
        scale=float(getattr(config, "logit_scale", 1.0)) / float(divisor or 1.0),
        softcap=None if softcap is None else float(softcap),
    )


def identity_of(loaded: LoadedModel) -> Identity:
    """Who this model is, to whoever reads its signals."""
    head = own_head(loaded.module)
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


@dataclass(frozen=True, slots=True)
class SpeakingTeacher:
    """A LocalTeacher that is also asked for last states. bf16: autocast, as its `forward` was made with."""

    live: LocalTeacher
    head: OutputHead
    bf16: bool = False

    @property
    def voice(self) -> Voice:
        """The live teacher's."""
        return self.live.voice

    def signal(self, batch: Batch, want: Want) -> Signal:
        """Last states and head where `want.headed`, else what the live teacher says."""
        if not want.headed:
            return self.live.signal(batch, want)
        assert self.live.module is not None, "last states are a module's"
        beside = None
        if want.inside:
            beside = self.live.signal(batch, want)
        device = next(self.live.module.parameters()).device.type
        with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=self.bf16):
            states = last_hidden(self.live.module, batch).float()
        return Signal(
            voice=self.voice,
            logits=HeadedStates(states, self.head),
            hidden=beside.hidden if beside else None,
            attentions=beside.attentions if beside else None,
        )


def refuse_false_head(teacher: SpeakingTeacher, batch: Batch) -> None:
    """Raises SignalError unless states and head give the model's own logits: a scale, a soft-cap or a norm that this
    program does not know of would otherwise change every target in silence."""
    asked_BT = batch.weights["soft"] != 0
    own = teacher.live.signal(batch, Want()).logits
    said = teacher.signal(batch, Want(logits=False, headed=True)).logits
    assert hasattr(own, "logits_BTV"), "a local teacher says whole logits"
    expected = own.logits_BTV[asked_BT].float()
    gap = (logits_of(said.states_BTD[asked_BT], said.head).float() - expected).abs().max()
    bound = (5e-2 if teacher.bf16 else TOLERANCE) * (1 + float(expected.abs().max()))
    if not float(gap) <= bound:
        raise SignalError(
            f"the head of {teacher.voice.teacher} does not give its own logits ({float(gap):.3g} off): this "
            "architecture changes them in a way that is not known here; keep or send `logits` or `top-k` instead"
        )
