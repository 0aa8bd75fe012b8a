"""Before an endpoint teaches: does it read as the student does, and are its log-probabilities where it says they are?

Neither can be taken on trust. A server with another tokenizer answers every question soundly about other tokens. Also
servers differ in which position a list entry belongs to: llama-cpp-python puts the distribution *after* a token where
OpenAI had the one *before* it, for every model without a token at the beginning, and a student would learn every word
one place off. So a fixed text is asked about in two ways that must agree: what the endpoint tells of it as a prompt, and
what it would write next after its beginnings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from potstill.core.errors import EndpointError, SignalError
from potstill.teachers.client import BadReply, Refusal
from potstill.teachers.entries import TopEntries
from potstill.teachers.ways import (
    COMPLETIONS,
    WAYS,
    Line,
    NextToken,
    Way,
    WayName,
    check_count,
    check_echo,
    choice_of,
    echoed,
    prompt_entries,
)

# Words of several tokens, digits, accents, characters of several bytes, blank lines: where tokenizers part.
TEXT = (
    "The capital of France is Paris. 12 + 30 = 42; a naïve café, Grüße aus 東京!\n\n"
    "Between 1990 and 2000, nobody's x_1 changed."
)
# Compared after these many tokens, in plain words, where any tokenizer has room for a beginning.
AFTER = (3, 5)
# A server reads a prompt in one batch and a next token alone; quantised weights then differ by hundredths of a nat.
CLOSE = 0.25
COMPARED = 3


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
    if name == "next_token":
        await _reads_alike(line, name, ids)
        way = WAYS[name](line, 0)
        await way.row(ids[: AFTER[0]], [AFTER[0] - 1], probe=True)
        return way
    await _reads_alike(line, name, ids)
    positions = [after - 1 for after in AFTER]
    true = {}
    for at in positions:
        true |= await NextToken(line).row(ids[: at + 1], [at], probe=True)
    for shift in (0, 1) if name == "echo" else (0,):
        way = WAYS[name](line, shift)
        if _same(await way.row(ids, positions, probe=True), true):
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


async def _reads_alike(line: Line, name: WayName, ids: list[int]) -> None:
    """The test text, sent as text, is read as the student's tokens. Raises SignalError, with both, where it is not."""

    def read(reply: Mapping[str, object]) -> None:
        choice = choice_of(reply, line.one)
        try:
            if name == "echo":
                check_echo(line.texts, ids, echoed(choice)[0])
            elif name == "prompt_logprobs":
                _check_ids(line, ids, choice)
            check_count(reply, len(ids))
        except BadReply as fault:
            if fault.reason not in ("other tokens", "another length", "another vocabulary"):
                raise
            raise SignalError(
                f"the endpoint's model {line.one.reported} and the student do not read text alike ({fault}): take a "
                "teacher with the student's tokenizer, or learn from its text (`potstill write`)"
            ) from None

    more = {"echo": {"echo": True, "logprobs": line.asked_k}, "prompt_logprobs": {"prompt_logprobs": line.asked_k}}
    await line.client.ask(COMPLETIONS, line.body(TEXT, **more.get(name, {})), read, probe=True)


def _check_ids(line: Line, ids: list[int], choice: Mapping[str, object]) -> None:
    """Each token of the text is among the entries at its place, because servers add the one that is really there."""
    for at, entries in enumerate(prompt_entries(choice, len(ids))[1:], start=1):
        texts = {one.index: one.text for one in entries}
        if ids[at] not in texts:
            raise BadReply("other tokens", f"token {at} is {line.texts.texts[ids[at]]!r} for the student only")
        for index, text in texts.items():
            if index is not None and text is not None and not line.texts.fits(index, text):
                known = line.texts.texts[index] if index < len(line.texts.texts) else "nothing"
                raise BadReply("another vocabulary", f"token {index} is {text[:40]!r} there and {known[:40]!r} here")
