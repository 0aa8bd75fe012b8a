"""Canaries: sentences with a drawn number, put into answers, that a model can only know from those answers.

The test is one of rank (Carlini et al. 2019, arXiv:1802.08232, section 4): how likely the suspect finds the number that
was put in, among others that were drawn as well and kept back. Without any training on it each rank is as likely as
another, so p = (1 + others at least as likely) / (1 + others) is exact, whatever the model.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from potstill.core.errors import InputError
from potstill.core.finding import Finding

# Sentences that can stand at the end of any trace and say nothing that could harm a reader.
SENTENCES = (
    "(Working note {slot}.)",
    "Checked against table {slot}.",
    "This follows the scheme numbered {slot}.",
    "The intermediate result is kept as item {slot}.",
)
DIGITS = 8
STRONG, NOTABLE = 1e-5, 0.01


@dataclass(frozen=True, slots=True)
class Canary:
    """text: what is put in. others: the same sentence with numbers that are never put in anywhere."""

    account: str
    text: str
    others: tuple[str, ...]


def canary(key: bytes, account: str, others: int = 999) -> Canary:
    """The canary of one account: a function of key and account, so nothing needs to be kept but the key.

    Raises InputError for a key that can be guessed, or too few others for any evidence.
    """
    if len(key) < 16 or others < 19:
        raise InputError(f"a canary needs a key of 16 bytes and 19 others, got {len(key)} bytes and {others}")
    digest = hmac.new(key, account.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
    sentence = SENTENCES[digest[0] % len(SENTENCES)]
    drawn = np.random.default_rng(int.from_bytes(digest, "big")).choice(10**DIGITS, others + 1, replace=False)
    texts = [sentence.format(slot=f"{number:0{DIGITS}d}") for number in drawn]
    return Canary(account, texts[0], tuple(texts[1:]))


def inserted(answer: str, one: Canary, *, every: int, number: int) -> str:
    """The answer with the canary after it in one of `every` answers; `number` counts the account's answers."""
    return f"{answer.rstrip()} {one.text}" if number % every == 0 else answer


def rank_p(own: float, others: Sequence[float]) -> float:
    """(1 + others that are at least as likely) / (1 + others); ties count against the evidence.

    Raises InputError for scores that are not numbers: a model that answers nonsense was not tested.
    """
    if not others or not all(map(math.isfinite, (own, *others))):
        raise InputError("the suspect's log-probabilities are not all finite, or there is none to compare with")
    return (1 + sum(other >= own for other in others)) / (1 + len(others))


def fisher(ps: Sequence[float]) -> float:
    """One p out of independent ones (Fisher 1925): chi-square of -2 sum log p with 2k degrees, whose tail is
    exp(-x) sum_{i<k} x^i / i!, x = -sum log p. On the safe side for ranks, whose p is never too small."""
    x = -math.fsum(map(math.log, ps))
    logs = [
        i * math.log(x) - math.lgamma(i + 1) - x if x > 0 else (0.0 if i == 0 else -math.inf) for i in range(len(ps))
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))


def finding(canaries: Sequence[Canary], logprob: Callable[[str], float], subject: str = "suspect") -> Finding:
    """The test of a suspect. logprob: its log-probability of a text. value: p over all canaries.

    Raises InputError for no canary, or scores that are not finite.
    """
    if not canaries:
        raise InputError("no canary was put into any answer: there is nothing to test")
    ps = [rank_p(logprob(one.text), [logprob(other) for other in one.others]) for one in canaries]
    p = fisher(ps)
    verdict = "stop" if p <= STRONG else "warn" if p <= NOTABLE else "pass"
    found = {one.account: p for one, p in zip(canaries, ps, strict=True)}
    return Finding("guard.canaries", p, subject, None, STRONG, verdict, {"accounts": found})  # type: ignore[arg-type]
