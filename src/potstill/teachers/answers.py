"""An endpoint that writes: one question to `/chat/completions` or `/completions`, one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.core.errors import EndpointError
from potstill.core.example import Message
from potstill.teachers.client import BadReply, Client
from potstill.teachers.endpoint_settings import SamplingSettings
from potstill.teachers.speaker import OneModel

ROUTES = {"chat": "/chat/completions", "completion": "/completions"}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: turns of a conversation, the last one the user's, and the seed of the sampling."""

    turns: tuple[Message, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. reasoning: thoughts that the server tells apart from the text. finish: why it ended, in the
    server's words ("stop", "length"). Tokens are None where the server does not count them."""

    text: str
    reasoning: str
    finish: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(slots=True)
class EndpointAnswers:
    """Asks one model. one: the id that all its replies must report."""

    client: Client
    model: str
    sampling: SamplingSettings
    one: OneModel

    async def answer(self, question: Question) -> Answer:
        """Raises client.Refusal when this question is not taken, EndpointError when the endpoint fails for good."""
        sampling = self.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": question.seed,
            "stream": False,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.route == "chat":
            body["messages"] = [{"role": turn.role, "content": turn.content} for turn in question.turns]
        else:
            body["prompt"] = plain(question.turns)
        return await self.client.ask(ROUTES[sampling.route], body, self._read)

    def _read(self, reply: Mapping[str, Any]) -> Answer:
        model = self.one.check(reply)
        choices = reply.get("choices")
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise BadReply("not one choice", f"`choices` is {_shape(choices)}")
        choice = choices[0]
        text, reasoning = _chat_text(choice) if self.sampling.route == "chat" else (choice.get("text"), "")
        if not isinstance(text, str):
            raise BadReply("no text", f"the answer is {_shape(text)}")
        prompt_tokens, completion_tokens = usage(reply)
        finish = choice.get("finish_reason")
        return Answer(
            text, reasoning, finish if isinstance(finish, str) else "", model, prompt_tokens, completion_tokens
        )


def plain(turns: Sequence[Message]) -> str:
    """A question without a conversation: its only turn. Raises EndpointError for more turns."""
    if len(turns) != 1:
        raise EndpointError(
            f"route completion asks plain text, and this prompt has {len(turns)} turns: set sampling.route: chat"
        )
    return turns[0].content


def usage(reply: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of prompt and completion as the server counts them. Raises BadReply for counts that cannot be."""
    counts = reply.get("usage") or {}
    if not isinstance(counts, dict):
        raise BadReply("usage that cannot be", f"`usage` is {_shape(counts)}")
    found = [counts.get(name) for name in ("prompt_tokens", "completion_tokens")]
    if any(value is not None and (type(value) is not int or value < 0) for value in found):
        raise BadReply("usage that cannot be", f"the counts are {found}")
    return found[0], found[1]


def _chat_text(choice: Mapping[str, Any]) -> tuple[Any, str]:
    message = choice.get("message")
    if not isinstance(message, dict):
        raise BadReply("no message", f"`message` is {_shape(message)}")
    thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
    # Without content there may be a call of a tool, which nobody offered: an empty answer, and counted as one.
    content = message.get("content")
    return "" if content is None else content, thoughts if isinstance(thoughts, str) else ""


def _shape(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__
