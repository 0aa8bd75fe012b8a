"""What to do about an account above the limit. Steps of one ladder; none is taken unless somebody says so.

Each costs an honest account something, too, on the days on which it is accused: `price` says what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from potstill.core.errors import InputError
from potstill.guard.logformats import Query

Action = Literal["observe", "slow", "coarsen", "watermark", "refuse"]

DELAY_S = 2.0
"""Seconds before each answer: a person hardly minds, a harvest of 20,000 answers takes half a day longer."""
TOP = 1
"""Log-probabilities a token that are still given: enough to see how sure the model is, too few to copy it."""
_ASKED = ("logprobs", "top_logprobs", "prompt_logprobs")


@dataclass(frozen=True, slots=True)
class Step:
    """what: in a sentence. above: how far over the limit a score must lie, in log-odds."""

    action: Action
    what: str
    above: float


LADDER: Mapping[Action, Step] = {
    step.action: step
    for step in (
        Step("observe", "nothing but a finding", 0.0),
        Step("slow", f"each answer waits {DELAY_S:g} s", 0.0),
        Step("coarsen", f"at most {TOP} log-probability for a token", 0.0),
        Step("watermark", "answers carry the green-list mark, if the application puts it there", 1.0),
        Step("refuse", "429 until the day is over", 3.0),
    )
}


def steps(score: float, limit: float, allowed: Sequence[str]) -> tuple[Action, ...]:
    """Which of the allowed steps a score calls for. Raises InputError for an unknown one."""
    if unknown := [action for action in allowed if action not in LADDER]:
        raise InputError(f"{unknown[0]!r} is no response; responses are: {', '.join(LADDER)}")
    return tuple(action for action in LADDER if action in allowed and score - limit > LADDER[action].above)


def coarsened(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request for at most TOP log-probabilities; `true` of the chat interface stays what it is."""
    return {
        name: min(value, TOP) if name in _ASKED and isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in body.items()
    }


def price(action: Action, queries: Sequence[Query]) -> dict[str, float]:
    """What an accused account loses over these queries: `seconds` waited, `logprobs` not given, `answers` marked or
    not given."""
    if action == "slow":
        return {"seconds": DELAY_S * len(queries)}
    if action == "coarsen":
        return {"logprobs": float(sum(max(0, query.logprobs - TOP) for query in queries))}
    if action in ("watermark", "refuse"):
        return {"answers": float(len(queries))}
    return {}
