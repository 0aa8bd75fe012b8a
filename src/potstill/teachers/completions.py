"""`/v1/completions` as the OpenAI interface has it, with `prompt_logprobs` as vLLM has it: for tools that speak nothing
else. Text is generated one prompt after the other; who wants much text from a large model runs an engine made for it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from potstill.teachers.limits import Limits, Refused

# Accepted at the value that changes nothing, refused at any other: a setting that is accepted is used.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "stream": (False, None),
    "best_of": (1, None),
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "logit_bias": (None, {}),
    "suffix": (None, ""),
    "stream_options": (None,),
}
_USED = ("model", "prompt", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "echo", "logprobs")
_KNOWN = (*_USED, "prompt_logprobs", "user", *_NEUTRAL)
_MOST_STOPS = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt, checked. logprobs, prompt_logprobs: how many alternatives; None where none are wanted."""

    tokens: tuple[int, ...]
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    echo: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Completions:
    """Reads a request and writes its text with a causal language model."""

    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    model: str
    positions: int
    limits: Limits
    ends: frozenset[int] = field(default_factory=frozenset)

    def read(self, body: Any) -> list[Asked]:
        """One entry per prompt and `n`. Raises Refused (422, 413, 404)."""
        if not isinstance(body, Mapping):
            raise Refused(422, "the body must be a JSON object")
        if unknown := [name for name in body if name not in _KNOWN]:
            raise Refused(422, f"{len(unknown)} fields are unknown here; known are: {', '.join(_KNOWN)}")
        for name, allowed in _NEUTRAL.items():
            if name in body and body[name] not in allowed:
                raise Refused(422, f"`{name}` is not offered: leave it out")
        if body.get("model") not in (None, self.model):
            raise Refused(404, f"this teacher is {self.model}, and no other model is served")
        prompts, number = self._prompts(body.get("prompt")), _whole(body, "n", 1, 1, self.limits.max_completions)
        if len(prompts) * number > self.limits.max_completions:
            raise Refused(413, f"at most {self.limits.max_completions} completions are written for one request")
        seed = _whole(body, "seed", secrets.randbelow(2**31), 0, 2**31)
        common = self._common(body)
        asked = [Asked(tokens=tokens, seed=seed + turn, **common) for tokens in prompts for turn in range(number)]
        for one in asked:
            if len(one.tokens) + one.max_tokens > self.positions:
                raise Refused(413, f"prompt and completion are longer than {self.positions} tokens")
        return asked

    def _common(self, body: Mapping[str, Any]) -> dict[str, Any]:
        k = self.limits.max_top_k
        stop = body.get("stop") or ()
        stop = (stop,) if isinstance(stop, str) else stop
        if not isinstance(stop, (list, tuple)) or len(stop) > _MOST_STOPS or not all(isinstance(s, str) for s in stop):
            raise Refused(422, f"`stop` must be a text or a list of at most {_MOST_STOPS} texts")
        if type(body.get("echo") or False) is not bool:
            raise Refused(422, "`echo` must be true or false")
        return {
            "max_tokens": _whole(body, "max_tokens", 16, 0, self.limits.max_new_tokens),
            "temperature": _number(body, "temperature", 1.0, 0.0, 100.0),
            "top_p": _number(body, "top_p", 1.0, 1e-6, 1.0),
            "stop": tuple(one for one in stop if one),
            "echo": bool(body.get("echo")),
            "logprobs": None if body.get("logprobs") is None else _whole(body, "logprobs", 0, 0, k),
            "prompt_logprobs": None
            if body.get("prompt_logprobs") is None
            else _whole(body, "prompt_logprobs", 0, 0, k),
        }

    def _prompts(self, prompt: Any) -> list[tuple[int, ...]]:
        if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and type(prompt[0]) is int):
            prompt = [prompt]
        if not isinstance(prompt, list) or not prompt:
            raise Refused(422, "`prompt` must be a text, a list of texts, token ids, or a list of those")
        if len(prompt) > self.limits.max_completions:
            raise Refused(413, f"at most {self.limits.max_completions} prompts are taken")
        found = []
        for one in prompt:
            if isinstance(one, str):
                if len(one) > 64 * self.positions:
                    raise Refused(413, f"a prompt is longer than {self.positions} tokens")
                one = self.tokenizer(one)["input_ids"]
            entries = len(self.tokenizer)
            if not isinstance(one, list) or not all(type(token) is int and 0 <= token < entries for token in one):
                raise Refused(422, f"token ids must be whole numbers from 0 to {entries - 1}")
            if not one or len(one) > self.positions:
                raise Refused(413 if one else 422, f"a prompt must have 1 to {self.positions} tokens")
            found.append(tuple(one))
        return found

    def write(self, asked: Asked, index: int, over: Callable[[], bool]) -> dict[str, Any]:
        """One choice of the reply. over: asked before each token. Raises Refused when nobody waits any more."""
        draw = torch.Generator().manual_seed(asked.seed)
        device = next(self.module.parameters()).device
        prompt = torch.tensor([asked.tokens], device=device)
        with torch.no_grad():
            said = self.module(input_ids=prompt, use_cache=asked.max_tokens > 0)
            spoken = said.logits[0].float().cpu()
            tokens, rows, text, reason = list[int](), list[Tensor](), "", "length"
            last = spoken[-1]
            while len(tokens) < asked.max_tokens:
                if over():
                    raise Refused(504, "the deadline passed: ask for fewer tokens", retry_after=1)
                token = _drawn(last, asked, draw)
                if token in self.ends:
                    reason = "stop"
                    break
                tokens.append(token)
                rows.append(last)
                text = self.tokenizer.decode(tokens)
                if found := [place for word in asked.stop if (place := text.find(word)) >= 0]:
                    text, reason = text[: min(found)], "stop"
                    break
                if len(tokens) < asked.max_tokens:
                    step = torch.tensor([[token]], device=device)
                    said = self.module(input_ids=step, past_key_values=said.past_key_values, use_cache=True)
                    last = said.logits[0, -1].float().cpu()
        return self._choice(asked, index, spoken, tokens, rows, text, reason)

    def _choice(
        self, asked: Asked, index: int, spoken: Tensor, tokens: list[int], rows: list[Tensor], text: str, reason: str
    ) -> dict[str, Any]:
        prompt = list(asked.tokens)
        choice: dict[str, Any] = {"index": index, "text": text, "finish_reason": reason, "logprobs": None}
        choice["_tokens"] = tokens
        if asked.echo:
            choice["text"] = self.tokenizer.decode(prompt) + text
        if asked.logprobs is not None:
            shown = [*prompt, *tokens] if asked.echo else tokens
            before = [None, *spoken[:-1], *rows] if asked.echo else rows
            choice["logprobs"] = self._legacy(shown, before, asked.logprobs)
        if asked.prompt_logprobs is not None:
            rest = [
                self._ranked(row, token, asked.prompt_logprobs) for row, token in zip(spoken, prompt[1:], strict=False)
            ]
            choice["prompt_logprobs"] = [None, *rest]
        return choice

    def _ranked(self, logits_V: Tensor, token: int, k: int) -> dict[str, dict[str, Any]]:
        """The token that stood there and the k most probable, each with log-probability and rank."""
        logprobs = logits_V.log_softmax(-1)
        rank = int((logprobs > logprobs[token]).sum()) + 1
        entries = {token: (float(logprobs[token]), rank)}
        best = logprobs.topk(min(k, len(logprobs)))
        for place, (value, other) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            entries.setdefault(other, (value, place + 1))
        return {
            str(one): {"logprob": value, "rank": place, "decoded_token": self.tokenizer.decode([one])}
            for one, (value, place) in entries.items()
        }

    def _legacy(self, tokens: list[int], rows: list[Any], k: int) -> dict[str, Any]:
        pieces = [self.tokenizer.decode([token]) for token in tokens]
        offsets = [sum(len(piece) for piece in pieces[:place]) for place in range(len(pieces))]
        spoken = [None if row is None else row.log_softmax(-1) for row in rows]
        tops = []
        for logprobs in spoken:
            best = None if logprobs is None else logprobs.topk(min(k, len(logprobs)))
            pairs = [] if best is None else zip(best.indices.tolist(), best.values.tolist(), strict=True)
            tops.append(None if best is None else {self.tokenizer.decode([one]): value for one, value in pairs})
        chosen = [None if row is None else float(row[token]) for row, token in zip(spoken, tokens, strict=True)]
        return {"tokens": pieces, "token_logprobs": chosen, "top_logprobs": tops, "text_offset": offsets}

    def reply(self, asked: list[Asked], choices: list[dict[str, Any]], written: int) -> dict[str, Any]:
        """The whole reply. written: tokens generated."""
        read = sum(len(one.tokens) for one in asked)
        return {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": choices,
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
        }


def _drawn(logits_V: Tensor, asked: Asked, draw: torch.Generator) -> int:
    if asked.temperature == 0:
        return int(logits_V.argmax())
    probabilities = (logits_V / asked.temperature).softmax(-1)
    if asked.top_p < 1:
        ordered, places = probabilities.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= asked.top_p] = 0
        return int(places[torch.multinomial(ordered, 1, generator=draw)])
    return int(torch.multinomial(probabilities, 1, generator=draw))


def _whole(body: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = body.get(name)
    value = default if value is None else value
    if type(value) is not int or not least <= value <= most:
        raise Refused(422, f"`{name}` must be a whole number from {least} to {most}")
    return value


def _number(body: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = body.get(name)
    value = default if value is None else value
    if type(value) not in (int, float) or not least <= value <= most:
        raise Refused(422, f"`{name}` must be a number from {least:g} to {most:g}")
    return float(value)
