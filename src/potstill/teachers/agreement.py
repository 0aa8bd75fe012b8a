"""Before an endpoint teaches: does it read as the student does, and are its log-probabilities where it says they are?

Neither can be taken on trust. A server with another tokenizer answers every question soundly about other tokens. Also
servers differ in which position a list entry belongs to: llama-cpp-python puts the distribution *after* a token where
OpenAI had the one *before* it, for every model without a token at the beginning, and a student would learn every word
one place off. So a fixed text is asked about in two ways that must agree: what the endpoint tells of it as a prompt,
and what it would write next after its beginnings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from potstill.core.errors import EndpointError, SignalError
from potstill.teachers.client import BadReply, Refusal
from potstill.teachers.entries import TopEntries
from potstill.teachers.ways import (
    COMPLETIONS,
    WAYS,
    Echo,
    Line,
    NextToken,
    Way,
    WayName,
    check_count,
    check_echo,
    check_texts,
    choice_of,
    echoed,
    prompt_entries,
)

# Words of several tokens, digits, accents, characters of several bytes, blank lines: where tokenizers part.
TEXT = (
    "The capital of France is Paris, with a river in it. 12 + 30 = 42; a naïve café, Grüße aus 東京!\n\n"
    "Between 1990 and 2000, nobody's x_1 changed."
)
# Compared after these many tokens, in plain words, where any tokenizer has room for a beginning.
AFTER = (3, 5)
# A server reads a prompt in one batch and a next token alone; quantised weights then differ by hundredths of a nat.
CLOSE = 0.25
COMPARED = 3
DIFFERENT = ("other tokens", "another length", "another vocabulary")


async def agreed_way(line: Line, wanted: str) -> tuple[WayName, Way]:
    """The way this endpoint teaches by. wanted: one way, or `auto` for the first that works with one request a row.

    Raises SignalError when the tokenizers differ, EndpointError when it cannot teach; each reason is told.
    """
    names: Sequence[WayName] = ("prompt_logprobs", "echo") if wanted == "auto" else (wanted,)  # type: ignore[assignment]
    reasons = []
    for name in names:
        try:
            return name, await _tried(line, name)
        except (BadReply, Refusal, EndpointError) as error:
            reasons.append(f"{name}: {error}")
    slowly = "" if wanted != "auto" else ", and perhaps teach with `way: next_token`, which asks at every position"
    raise EndpointError(
        f"{line.client.settings.url} cannot serve as a teacher ({' | '.join(reasons)}): it can still write "
        f"(`potstill write`){slowly}"
    )


async def _tried(line: Line, name: WayName) -> Way:
    ids = line.texts.ids_of(TEXT)
    if len(ids) <= max(AFTER) + 1:
        raise SignalError(
            "the student's tokenizer reads the test text as a few tokens only; teacher.endpoint needs another"
        )
    choice = await _reads_alike(line, name, ids)
    true: dict[int, TopEntries] = {}
    for after in AFTER:
        true |= await NextToken(line).row(ids[:after], [after - 1], probe=True)
    if name == "next_token":
        return WAYS[name](line, 0)
    for shift in (0, 1) if name == "echo" else (0,):
        way = WAYS[name](line, shift)
        told = (
            way.told(choice, ids, list(true)) if isinstance(way, Echo) else await way.row(ids, list(true), probe=True)
        )
        if _same(told, true):
            return way
    raise BadReply(
        "log-probabilities that do not agree",
        "what it tells of a prompt is not what it would write after its beginning",
    )


def _same(told: Mapping[int, TopEntries], true: Mapping[int, TopEntries]) -> bool:
    return all(_distance(told[at], true[at]) <= CLOSE for at in true)


def _distance(told: TopEntries, true: TopEntries) -> float:
    """The largest difference over the likeliest entries, nats; infinite where one of those is not told at all."""
    values = dict(zip(told.ids, told.logprobs, strict=True))
    likeliest = list(zip(true.ids, true.logprobs, strict=True))[:COMPARED]
    return max(abs(values.get(index, math.inf) - logprob) for index, logprob in likeliest)


async def _reads_alike(line: Line, name: WayName, ids: list[int]) -> Mapping[str, Any]:
    """The reply to the test text sent as text, if it was read as the student's tokens.

    Raises SignalError, with both, where it was not.
    """

    def read(reply: Mapping[str, Any]) -> Mapping[str, Any]:
        choice = choice_of(reply, line.one)
        try:
            if name == "echo":
                check_echo(line.texts, ids, echoed(choice)[0])
            elif name == "prompt_logprobs":
                _check_ids(line, ids, choice)
            check_count(reply, len(ids))
        except BadReply as fault:
            if fault.reason not in DIFFERENT:
                raise
            raise SignalError(
                f"the endpoint's model {line.one.reported} and the student do not read text alike ({fault}): take a "
                "teacher with the student's tokenizer, or learn from its text (`potstill write`)"
            ) from None
        return choice

    more = {"echo": {"echo": True, "logprobs": line.asked_k}, "prompt_logprobs": {"prompt_logprobs": line.asked_k}}
    return await line.client.ask(COMPLETIONS, line.body(TEXT, **more.get(name, {})), read, probe=True)


def _check_ids(line: Line, ids: list[int], choice: Mapping[str, Any]) -> None:
    """Each token of the text is among the entries at its place, because servers add the one that is really there."""
    for at, entries in enumerate(prompt_entries(choice, len(ids))[1:], start=1):
        if ids[at] not in {one.index for one in entries}:
            raise BadReply("other tokens", f"token {at} is {line.texts.texts[ids[at]]!r} for the student only")
        check_texts(line.texts, entries)
