"""The likeliest tokens at one position, in the shapes that servers send them, checked and brought to the student's ids.

Three shapes are in use: text -> log-probability (OpenAI's older completions), id -> {logprob, rank, decoded_token}
(vLLM's prompt_logprobs), and a list of {token, logprob} with or without an id (chat completions, llama-server).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from potstill.teachers.client import BadReply
from potstill.teachers.token_texts import TokenTexts

# log-probabilities come as decimal fractions of 32-bit floats; summed over a hundred entries they may pass 1 by this.
ROUNDING = 1e-3
# A mass that is left below this cannot be told from rounding. A zero would forbid the student what nobody measured.
SMALLEST_TAIL = 1e-7
BY_ID = "token_id:"


@dataclass(frozen=True, slots=True)
class Entry:
    """One likely token as the server names it: by id, by text, or both."""

    logprob: float
    index: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class TopEntries:
    """The k likeliest entries, most likely first, by the student's ids. log_tail: of the mass of all others, nats."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    log_tail: float


def read_entries(value: Any) -> list[Entry]:
    """Entries in the server's order. Raises BadReply for another shape, or numbers that are no log-probabilities."""
    if isinstance(value, dict):
        return [_named(name, inner) for name, inner in value.items()]
    if isinstance(value, list):
        return [_listed(one) for one in value]
    raise BadReply("no log-probabilities", f"a position holds {type(value).__name__}")


def _named(name: str, inner: Any) -> Entry:
    if isinstance(inner, dict):
        if not name.isascii() or not name.isdecimal():
            raise BadReply("no token id", f"an entry is called {name[:40]!r}")
        text = inner.get("decoded_token")
        return Entry(_logprob(inner.get("logprob")), int(name), text if isinstance(text, str) else None)
    number = name.removeprefix(BY_ID)
    if number != name and number.isascii() and number.isdecimal():
        return Entry(_logprob(inner), int(number))
    return Entry(_logprob(inner), None, name)


def _listed(one: Any) -> Entry:
    if not isinstance(one, dict):
        raise BadReply("no log-probabilities", f"an entry is {type(one).__name__}")
    index, text = one.get("id"), one.get("token")
    if type(index) is not int and not isinstance(text, str):
        raise BadReply("no token id", "an entry has neither `id` nor `token`")
    return Entry(_logprob(one.get("logprob")), index if type(index) is int else None, text)


def _logprob(value: Any) -> float:
    if type(value) not in (int, float) or math.isnan(value):
        raise BadReply("a number that is none", f"a log-probability is {value!r}"[:80])
    if value > ROUNDING:
        raise BadReply("a probability above 1", f"a log-probability is {value}")
    return float(value)


def top_entries(entries: list[Entry], texts: TokenTexts, *, k: int, extra: Entry | None = None) -> TopEntries:
    """The k likeliest entries that are one token of the student's.

    extra: the entry of the token that is really there, which servers put at the front or at the end, whatever its rank.
    Raises BadReply: fewer than k, not from likely to unlikely, a token twice, an id beyond the vocabulary, a mass above
    1.
    """
    placed = list(_placed(entries, texts))
    ranked = [one.logprob for _, one in placed if one is not extra]
    if any(after > before for before, after in pairwise(ranked)):
        raise BadReply("unsorted log-probabilities", "an entry is likelier than the one before it")
    if len({index for index, _ in placed}) < len(placed):
        raise BadReply("a token twice", "one token has two log-probabilities at a position")
    if len(placed) < k:
        raise BadReply("short top-k", f"{len(placed)} of {len(entries)} entries are single tokens, {k} are needed")
    kept = sorted(placed, key=lambda item: (-item[1].logprob, item[0]))[:k]
    mass = math.fsum(math.exp(one.logprob) for _, one in kept)
    if mass > 1 + ROUNDING:
        raise BadReply("a probability above 1", f"the entries of a position sum to {mass:.4f}")
    return TopEntries(
        ids=tuple(index for index, _ in kept),
        logprobs=tuple(min(one.logprob, 0.0) for _, one in kept),
        log_tail=math.log(max(1 - mass, SMALLEST_TAIL)),
    )


def _placed(entries: list[Entry], texts: TokenTexts) -> Iterator[tuple[int, Entry]]:
    """Entries that are one token. The mass of the others goes where all goes that is not kept: to the tail."""
    for one in entries:
        index = one.index if one.index is not None else texts.id_of(one.text or "")
        if index is None or one.logprob == -math.inf:
            continue
        if not 0 <= index < len(texts.texts):
            raise BadReply("another vocabulary", f"id {index}, and the student's tokenizer has {len(texts.texts)}")
        yield index, one
