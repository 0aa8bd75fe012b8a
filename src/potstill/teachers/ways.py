"""How an endpoint is asked for the log-probabilities of a text that it did not write. A literal table of ways.

Position t is the distribution after tokens 0 to t, of which token t+1 is one outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from potstill.teachers.answers import usage
from potstill.teachers.client import BadReply, Client
from potstill.teachers.entries import Entry, TopEntries, read_entries, top_entries
from potstill.teachers.speaker import OneModel
from potstill.teachers.token_texts import TokenTexts

WayName = Literal["prompt_logprobs", "echo", "next_token"]
COMPLETIONS = "/completions"


@dataclass(frozen=True, slots=True)
class Line:
    """Who is asked, and for how much. k: entries kept; asked_k: entries asked for."""

    client: Client
    model: str
    one: OneModel
    texts: TokenTexts
    k: int
    asked_k: int

    def body(self, prompt: str | Sequence[int], **more: Any) -> dict[str, Any]:
        """A request that generates a single token; none at all means "without end" to some servers."""
        return {"model": self.model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": False, **more}


@runtime_checkable
class Way(Protocol):
    """One row of tokens in; the top entries at the positions asked for out."""

    async def row(self, ids: Sequence[int], positions: Sequence[int], *, probe: bool = False) -> dict[int, TopEntries]:
        """Raises BadReply (when probing), Refusal, EndpointError."""
        ...


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Token ids go, token ids come back: nothing depends on how a text is split."""

    line: Line

    async def row(self, ids: Sequence[int], positions: Sequence[int], *, probe: bool = False) -> dict[int, TopEntries]:
        """One request for the whole row."""
        return await self.line.client.ask(
            COMPLETIONS,
            self.line.body(list(ids), prompt_logprobs=self.line.asked_k),
            lambda reply: self.told(choice_of(reply, self.line.one), ids, positions),
            probe=probe,
        )

    def told(self, choice: Mapping[str, Any], ids: Sequence[int], positions: Sequence[int]) -> dict[int, TopEntries]:
        """What a choice says of these positions. Raises BadReply."""
        told = prompt_entries(choice, len(ids))
        return {at: self._kept(told[at + 1], ids[at + 1]) for at in positions}

    def _kept(self, entries: list[Entry], actual: int) -> TopEntries:
        extra = next((one for one in entries if one.index == actual), None)
        if extra is None:
            raise BadReply("other tokens", f"token {actual} of the row is not among the entries at its place")
        check_texts(self.line.texts, entries)
        return top_entries(entries, self.line.texts, k=self.line.k, extra=extra)


@dataclass(frozen=True, slots=True)
class Echo:
    """Text goes, its tokens come back as texts.

    shift: 0 where list entry t+1 belongs to position t, as OpenAI had it; 1 where entry t does, as llama-cpp-python has
    it for models without a token at the beginning. Found by asking (agreement.py), never assumed. A position that the
    endpoint leaves out is asked for alone.
    """

    line: Line
    shift: int

    async def row(self, ids: Sequence[int], positions: Sequence[int], *, probe: bool = False) -> dict[int, TopEntries]:
        """One request for the row, and one for each position that the list leaves out."""
        found = await self.line.client.ask(
            COMPLETIONS,
            self.line.body(self.line.texts.text_of(ids), echo=True, logprobs=self.line.asked_k),
            lambda reply: self.told(choice_of(reply, self.line.one), ids, positions),
            probe=probe,
        )
        left = [at for at in positions if at not in found]
        return found | (await NextToken(self.line).row(ids, left, probe=probe) if left else {})

    def told(self, choice: Mapping[str, Any], ids: Sequence[int], positions: Sequence[int]) -> dict[int, TopEntries]:
        """What a choice says of these positions, but for those that its list leaves out. Raises BadReply."""
        tokens, lists = echoed(choice)
        check_echo(self.line.texts, ids, tokens)
        found = {}
        for at in positions:
            place = at + 1 - self.shift
            if lists[place] is not None:
                entries = read_entries(lists[place])
                extra = next((one for one in entries if one.text == tokens[place]), None)
                found[at] = top_entries(entries, self.line.texts, k=self.line.k, extra=extra)
        return found


@dataclass(frozen=True, slots=True)
class NextToken:
    """The endpoint speaks of the token it would write next, so every position is a question of its own."""

    line: Line

    async def row(self, ids: Sequence[int], positions: Sequence[int], *, probe: bool = False) -> dict[int, TopEntries]:
        """One request per position, in order, so that a server which keeps the last prompt reads each token once."""
        return {at: await self._one(ids[: at + 1], probe) for at in positions}

    async def _one(self, ids: Sequence[int], probe: bool) -> TopEntries:
        def read(reply: Mapping[str, Any]) -> TopEntries:
            choice = choice_of(reply, self.line.one)
            check_count(reply, len(ids))
            entries, written = generated_entries(choice)
            extra = next((one for one in entries if written is not None and written in (one.text, one.index)), None)
            return top_entries(entries, self.line.texts, k=self.line.k, extra=extra)

        body = self.line.body(prefix(self.line.texts, ids), logprobs=self.line.asked_k)
        return await self.line.client.ask(COMPLETIONS, body, read, probe=probe)


def choice_of(reply: Mapping[str, Any], one: OneModel) -> Mapping[str, Any]:
    """The only choice of a reply from the right model."""
    one.check(reply)
    choices = reply.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise BadReply("not one choice", f"`choices` is {type(choices).__name__}")
    return choices[0]


def prompt_entries(choice: Mapping[str, Any], length: int) -> list[list[Entry]]:
    """Entries before each token of the prompt; none before the first."""
    told = choice.get("prompt_logprobs")
    if told is None:
        raise BadReply("no log-probabilities", "the reply has no `prompt_logprobs`")
    if not isinstance(told, list) or len(told) != length:
        size = len(told) if isinstance(told, list) else type(told).__name__
        raise BadReply("another length", f"`prompt_logprobs` has {size} positions for {length} tokens")
    return [[], *(read_entries(one) for one in told[1:])]


def echoed(choice: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """Texts of the tokens of prompt and answer, and what is told at each."""
    told = choice.get("logprobs")
    if not isinstance(told, dict):
        raise BadReply("no log-probabilities", "the reply has no `logprobs`")
    tokens, lists = told.get("tokens"), told.get("top_logprobs")
    if not isinstance(tokens, list) or not isinstance(lists, list) or len(tokens) != len(lists):
        raise BadReply("another length", "`tokens` and `top_logprobs` are not lists of one length")
    if not all(isinstance(token, str) for token in tokens):
        raise BadReply("another length", "`tokens` holds what is no text")
    return tokens, lists


def check_echo(texts: TokenTexts, ids: Sequence[int], tokens: Sequence[str]) -> None:
    """The endpoint read the very tokens of the row. Raises BadReply with the first that differs."""
    if len(tokens) < len(ids):
        raise BadReply("another length", f"{len(tokens)} tokens are told of a row of {len(ids)}")
    for at, (index, text) in enumerate(zip(ids, tokens, strict=False)):
        if not text.startswith("token_id:") and not texts.fits(index, text):
            raise BadReply(
                "other tokens", f"token {at} is {text[:40]!r} there and {texts.texts[index][:40]!r} in the row"
            )
        if text.startswith("token_id:") and text != f"token_id:{index}":
            raise BadReply("other tokens", f"token {at} is {text[:40]} there and {index} in the row")


def check_texts(texts: TokenTexts, entries: Sequence[Entry]) -> None:
    """Where the endpoint tells the text of an id, it is the student's. Raises BadReply with both."""
    for one in entries:
        if one.index is not None and one.text is not None and not texts.fits(one.index, one.text):
            known = texts.texts[one.index] if one.index < len(texts.texts) else "nothing"
            raise BadReply(
                "another vocabulary", f"token {one.index} is {one.text[:40]!r} there and {known[:40]!r} here"
            )


def check_count(reply: Mapping[str, Any], length: int) -> None:
    """Where the server counts its prompt, it counted the tokens that are meant."""
    counted, _ = usage(reply)
    if counted is not None and counted != length:
        raise BadReply("other tokens", f"it read {counted} tokens, and {length} were meant")


def generated_entries(choice: Mapping[str, Any]) -> tuple[list[Entry], str | int | None]:
    """Entries for the first token that was written, and that token; in the older shape or in that of chats."""
    told = choice.get("logprobs")
    if not isinstance(told, dict):
        raise BadReply("no log-probabilities", "the reply has no `logprobs`")
    if isinstance(content := told.get("content"), list) and content and isinstance(content[0], dict):
        return read_entries(content[0].get("top_logprobs")), content[0].get("id", content[0].get("token"))
    lists, tokens = told.get("top_logprobs"), told.get("tokens")
    if not isinstance(lists, list) or not lists or lists[0] is None:
        raise BadReply("no log-probabilities", "nothing is told of the token it wrote")
    written = tokens[0] if isinstance(tokens, list) and tokens else None
    return read_entries(lists[0]), written


def prefix(texts: TokenTexts, ids: Sequence[int]) -> str | list[int]:
    """A beginning as text, which every server takes; as ids where its text alone would be read as other tokens."""
    text = texts.text_of(ids)
    return text if texts.ids_of(text) == list(ids) else list(ids)


WAYS: Mapping[WayName, Callable[[Line, int], Way]] = {
    "prompt_logprobs": lambda line, shift: PromptLogprobs(line),
    "echo": lambda line, shift: Echo(line, shift),
    "next_token": lambda line, shift: NextToken(line),
}
