"""A language model goes on from prompts: a batch at once, with a key-value cache, sampled from its own distribution."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from potstill.core.errors import NumbersError
from potstill.core.shapes import MaskBL, TokensBL


@dataclass(frozen=True, slots=True)
class Sampling:
    """entries: tokens with a higher id are never drawn, as no tokenizer knows them. ends: a row is over after any.
    temperature: 0 takes the likeliest token. top_p: draw from the fewest tokens that have this mass together
    (Holtzman et al. 2020, arXiv:1904.09751); 1 draws from all."""

    temperature: float
    max_new_tokens: int
    entries: int
    ends: tuple[int, ...] = ()
    top_p: float = 1.0


def continued(
    module: nn.Module,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seed: int | Sequence[int],
    poll: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """What the model writes after each prompt: 1 to `max_new_tokens` tokens, the end token included.

    Drawn from softmax(logits / temperature), cut at top_p, dropout off, without gradient. The numbers follow from the
    seed and the batch alone, or, with a seed for each row, from the row's own; the generators of the process are left
    as they are. poll: called before each token; may raise. Raises NumbersError when the logits are not finite.
    """
    device = next(module.parameters()).device
    tokens_BL, attention_BL = left_padded(prompts)
    seeds = [seed] if isinstance(seed, int) else seed
    draw = [torch.Generator(device=device).manual_seed(one) for one in seeds]
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            new_BN = _sampled(module, tokens_BL.to(device), attention_BL.to(device), sampling, draw, poll)
    finally:
        module.train(training)
    return [_ended(row, sampling.ends) for row in new_BN.tolist()]


def ends_of(module: nn.Module, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens at which a text ends, by the model's generation settings, else its tokenizer's."""
    found = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
    found = tokenizer.eos_token_id if found is None else found
    return frozenset([found] if isinstance(found, int) else found or ())


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[TokensBL, MaskBL]:
    """Prompts that end together, so that every row's next token stands in the same column. Padding is token 0."""
    length = max(map(len, prompts))
    tokens_BL = torch.zeros(len(prompts), length, dtype=torch.long)
    attention_BL = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens_BL[row, length - len(prompt) :] = torch.tensor(prompt)
        attention_BL[row, length - len(prompt) :] = True
    return tokens_BL, attention_BL


def _sampled(
    module: nn.Module,
    tokens_BL: TokensBL,
    attention_BL: MaskBL,
    sampling: Sampling,
    draw: Sequence[torch.Generator],
    poll: Callable[[], None],
) -> Int[Tensor, "B N"]:
    takes = frozenset(inspect.signature(module.forward).parameters)
    rows, step_BL = len(tokens_BL), tokens_BL
    # Padding is no position: each row counts its own tokens.
    position_BL = (attention_BL.long().cumsum(1) - 1).clamp_min(0)
    over_B = torch.zeros(rows, dtype=torch.bool, device=tokens_BL.device)
    ends, cache = torch.tensor(sampling.ends, dtype=torch.long, device=tokens_BL.device), None
    new: list[Tensor] = []
    while len(new) < sampling.max_new_tokens and not bool(over_B.all()):
        poll()
        inputs: dict[str, Any] = {"position_ids": position_BL, "past_key_values": cache, "logits_to_keep": 1}
        inputs = {name: value for name, value in inputs.items() if name in takes}
        said = module(input_ids=step_BL, attention_mask=attention_BL.long(), use_cache=True, **inputs)
        cache = said.past_key_values
        token_B1 = _drawn(said.logits[:, -1, : sampling.entries].float(), sampling, draw)
        new.append(token_B1)
        over_B |= torch.isin(token_B1[:, 0], ends)
        step_BL, position_BL = token_B1, position_BL[:, -1:] + 1
        attention_BL = torch.cat([attention_BL, torch.ones_like(attention_BL[:, :1])], dim=1)
    return torch.cat(new, dim=1)


def _drawn(logits_BV: Float[Tensor, "B V"], sampling: Sampling, draw: Sequence[torch.Generator]) -> Int[Tensor, "B 1"]:
    # NaN anywhere, an infinity, or no mass at all: each shows in the log-sum of its row.
    if not torch.isfinite(logits_BV.logsumexp(-1)).all():
        raise NumbersError(
            "the student's logits are not finite while it writes its own text: lower train.learning_rate, and go on "
            "from an earlier checkpoint"
        )
    if sampling.temperature == 0:
        return logits_BV.argmax(-1, keepdim=True)
    shares_BV = torch.softmax(logits_BV / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        shares_BV = nucleus(shares_BV, sampling.top_p)
    parts = shares_BV.split(len(shares_BV) // len(draw))
    return torch.cat([torch.multinomial(part, 1, generator=one) for part, one in zip(parts, draw, strict=True)])


def nucleus(shares_BV: Float[Tensor, "B V"], top_p: float) -> Float[Tensor, "B V"]:
    """The shares of the likeliest tokens up to and with the one that reaches `top_p`; zero elsewhere."""
    sorted_BV, order_BV = shares_BV.sort(dim=-1, descending=True, stable=True)
    beyond_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p
    return shares_BV.masked_fill(beyond_BV.gather(-1, order_BV.argsort(-1)), 0.0)


def _ended(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """A row up to its first end token; the others of its batch may have gone on."""
    return tokens[: next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))]
