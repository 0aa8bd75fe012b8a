"""Days of many made-up accounts with something in common: a harvest dealt out, or honest people with one prompt.

Honest crowds are why a shared template alone accuses nobody: an app writes the same words around what each of its users
asks, a class works on one sheet, a benchmark has one frame for everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from potstill.guard.logformats import Query
from potstill.guard.simulate import BENIGN, Agent, Texts, account_day

Crowd = Callable[[Texts, int], Iterator[Query]]


def together(agent: Agent, name: str, texts: Texts, seed: int, accounts: int, rows: tuple[int, int]) -> Iterator[Query]:
    """Accounts of one kind that begin within eight hours of each other, each with a seed of its own, by time."""
    one, rng = replace(agent, rows=rows), np.random.default_rng(seed)
    starts = 1.7e9 + rng.uniform(0, 28_800, accounts)
    days = (
        account_day(one, f"{name}-{n:04d}", texts, seed * 1000 + n, start=float(start))
        for n, start in enumerate(starts)
    )
    found = sorted((query for day in days for query in day), key=lambda query: query.time)
    yield from (replace(query, line=line) for line, query in enumerate(found, start=1))


def _accounts(seed: int, low: int = 5, high: int = 60) -> int:
    return int(np.random.default_rng(seed).integers(low, high + 1))


def school(texts: Texts, seed: int) -> Iterator[Query]:
    """A class with an account for each pupil, and one sheet of 20 questions."""
    topic = sorted(texts)[seed % len(texts)]
    sheet = {topic: texts[topic][:20]}
    return together(BENIGN["tutoring class"], "pupil", sheet, seed, _accounts(seed, 15, 35), (10, 40))


def app(texts: Texts, seed: int) -> Iterator[Query]:
    """Users of an app that writes articles, pages or replies, each with a key and a few topics: much like a farm."""
    return together(BENIGN["writing job"], "user", texts, seed, _accounts(seed), (5, 60))


def jobs(texts: Texts, seed: int) -> Iterator[Query]:
    """Customers of one connector, whose short jobs have its templates."""
    return together(BENIGN["bulk job"], "customer", texts, seed, _accounts(seed), (20, 100))


def evaluators(texts: Texts, seed: int) -> Iterator[Query]:
    """Several laboratories that run one public benchmark."""
    return together(BENIGN["evaluation harness"], "laboratory", texts, seed, _accounts(seed, 3, 8), (100, 400))


def talkers(texts: Texts, seed: int) -> Iterator[Query]:
    """People who chat; what they share is how one begins."""
    return together(BENIGN["chat"], "person", texts, seed, _accounts(seed, 30, 80), (5, 60))


def dealt(agent: Agent, texts: Texts, seed: int, accounts: int, rows: int) -> Iterator[Query]:
    """An agent's queries dealt to so many accounts at random, at irregular times, 3 to 30 seconds apart on average."""
    rng = np.random.default_rng(seed)
    prompts, time, gap = agent.prompts(texts, rng), 1.7e9, float(np.exp(rng.uniform(np.log(3), np.log(30))))
    for line in range(1, rows + 1):
        name, output = f"dealt-{rng.integers(accounts):04d}", float(rng.uniform(*agent.output))
        yield Query(line, name, time, next(prompts)[:4000], output=output, **agent.options)
        time += float(rng.exponential(gap))


HONEST: Mapping[str, Crowd] = {
    "school": school,
    "writing app": app,
    "connector": jobs,
    "evaluators": evaluators,
    "talkers": talkers,
}
