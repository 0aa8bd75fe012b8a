"""Was a model taught on marked text? Sander et al. 2024, arXiv:2402.14904, sections 3 and 4.

A mark in the teacher's answers leaves a trace in whoever learns from them: the student, too, prefers green tokens after
windows that it saw. What it writes is scored, and only what it can have got from nowhere else: a pair counts once, a
window that its own prompt holds does not count (there the mark can be copied), and where the marked answers are known
only windows that are frequent among them count, since elsewhere nothing can have been learnt.

One small p is evidence, not proof: say which controls (a model that never saw the text, another key) were tested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from potstill.core.finding import Finding
from potstill.guard.watermark import Count, Mark, Pair, pairs_of, score

STRONG = 1e-5
"""The p of the paper's headline: below it a finding says `stop`."""
NOTABLE = 0.01


@dataclass(frozen=True, slots=True)
class Written:
    """What a suspect wrote, as token ids of the marked model's tokenizer. prompt: how many of them were given to it."""

    tokens: Sequence[int]
    prompt: int = 0


def frequent_windows(texts: Iterable[Sequence[int]], window: int, least: int = 2) -> frozenset[tuple[int, ...]]:
    """Windows that stand at least `least` times in the marked answers."""
    seen = Counter(before for text in texts for before, _ in pairs_of(text, window))
    return frozenset(before for before, times in seen.items() if times >= least)


def scored_pairs(
    written: Iterable[Written], window: int, known: frozenset[tuple[int, ...]] | None = None
) -> Iterator[Pair]:
    """The pairs that may count; see the module."""
    for one in written:
        given = {tuple(one.tokens[at : at + window]) for at in range(one.prompt - window + 1)}
        for before, token in pairs_of(one.tokens, window, one.prompt):
            if before not in given and (known is None or before in known):
                yield before, token


def radioactivity(
    mark: Mark, written: Iterable[Written], *, known: frozenset[tuple[int, ...]] | None = None, distinct: bool = True
) -> Count:
    """The test of a suspect's text. known: see `frequent_windows`; None where the marked answers are not at hand.

    Raises InputError when no pair may count.
    """
    return score(mark, scored_pairs(written, mark.window, known), distinct=distinct)


def finding(count: Count, subject: str = "suspect", *, controls: Sequence[Count] = ()) -> Finding:
    """The test as a Finding. value: p. A control that is as small takes the verdict back to `warn`: then the test is
    at fault, not the suspect."""
    least = min((one.p for one in controls), default=1.0)
    verdict = "pass" if count.p > NOTABLE else "warn"
    if count.p <= STRONG and least > NOTABLE:
        verdict = "stop"
    evidence = {
        "green": count.green,
        "pairs": count.pairs,
        "z": count.z,
        "controls": [{"green": one.green, "pairs": one.pairs, "p": one.p} for one in controls],
    }
    return Finding("guard.radioactivity", count.p, subject, None, STRONG, verdict, evidence)  # type: ignore[arg-type]
